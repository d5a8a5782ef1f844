"""The stage of the changed passes: from a model and images to the scores of each image."""

from pathlib import Path
from typing import Any

from vitals.activations.opened import opened_model
from vitals.activations.passing import Machine
from vitals.data import images as image_lists
from vitals.data.images import TEST
from vitals.errors import VitalsError
from vitals.metrics import files
from vitals.metrics.changed_passes import Settings, values_of
from vitals.metrics.parts import Parts
from vitals.provenance import canonical


def run(
    spec: dict[str, Any],
    provenance: dict[str, Any],
    images: Path,
    data: str | None,
    model: Path,
    output: Path,
    machine: Machine,
) -> str:
    """Pass images through a model under each change and write the scores; says what it made.

    spec: the fields of `changed_passes.Settings`; `count`, how many images of the split "test", the
    first ones, None for all; `images`, their fingerprint; `skip_unreadable`; data: where the images
    are. What a killed run had finished is taken up.
    Raises VitalsError where the list does not have the images of the fingerprint.
    """
    settings = dict(spec)
    count, fingerprint, skip = (
        settings.pop(name) for name in ("count", "images", "skip_unreadable")
    )
    chosen = image_lists.read(images, data).of_split(TEST).rows(0, count)
    if image_lists.fingerprint(chosen.table) != fingerprint:
        raise VitalsError(f"{images} does not list the images of the study: list them again")
    subject, about = opened_model(model)
    weights = about["weights_digest"]
    made_from = canonical([spec, provenance.get("code", ""), weights, chosen.digest])
    parts = Parts(output, made_from)
    values = values_of(subject, chosen, Settings(**settings), machine, skip, parts)
    files.write(values.assign_attrs(weights_digest=weights), output, **provenance)
    parts.remove()
    return f"{values.sizes['image']} images in {output}"
