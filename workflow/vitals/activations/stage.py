"""The stage that stores a shard of activations, from files to a store."""

from pathlib import Path
from typing import Any

from vitals.activations import linking, store
from vitals.activations.extract import Extracted, Machine, extract
from vitals.activations.layout import Settings
from vitals.activations.opened import opened
from vitals.errors import VitalsError
from vitals.provenance import versions
from vitals.reuse import FINGERPRINT, fingerprint

# what a pass takes from a model's report; how the weights came about decides nothing
READ_OF_MODEL = (
    "built", "classes", "shape", "transform", "weights_digest", "class_names", "class_rows",
)  # fmt: skip


def run(
    spec: dict[str, Any],
    provenance: dict[str, Any],
    images: Path,
    data: str | None,
    model: Path,
    shard: Path,
    machine: Machine,
    studies: Path | None = None,
) -> str:
    """Pass a shard's images through a model and store what the taps saw; says what it made.

    spec: `settings`, the fields of `layout.Settings`, and `images`, the fingerprint of the shard's
    rows of the list, and `variant` where the pass is one of `variants.VARIANTS`; data: where
    the images are; shard: `{number}.zarr`, or its root file;
    studies: the folder of all studies, where the same pass may lie and is then linked; None to pass
    the images in any case.
    Raises VitalsError where the list does not have the rows of the fingerprint.
    """
    shard = shard.parent if shard.name == store.ROOT_FILE else shard
    if not (shard.suffix == ".zarr" and shard.stem.isdecimal()):
        raise VitalsError(f"{shard} is no name of a shard: expected 0.zarr, 1.zarr, ...")
    settings, number = Settings(**spec["settings"]), int(shard.stem)
    found = opened(spec, images, data, model, number)
    part, about = found.part, found.about
    made_from = {
        **provenance,
        FINGERPRINT: fingerprint(
            stage="extract",
            settings={**spec, "images": part.digest},
            code=provenance.get("code", ""),
            shape=part.shape,
            model={key: about[key] for key in READ_OF_MODEL},
        ),
        **found.origin,
        "transform": about["transform"],
        "published": about.get("published"),
        "images": spec["images"],
        "versions": versions(),
        "device": str(machine.device),
    }
    # a result of unknown code is nobody else's
    known = studies and provenance.get("code")
    if known and (twin := linking.link(shard, made_from, studies)):
        return f"{len(part.table)} images in {shard}: the same pass lies in {twin}, and is linked"
    shard.parent.mkdir(parents=True, exist_ok=True)
    made = extract(
        found.subject, found.listed, number, settings, shard, made_from, machine,
        spec.get("variant"),
    )  # fmt: skip
    return f"{_said(made)} in {shard}"


def _said(made: Extracted) -> str:
    if made.absent:
        return f"no images: {made.absent}"
    left_out = f", {len(made.left_out)} left out as unreadable" if made.left_out else ""
    scores = ", ".join(
        f"{right / count:.1%} of {count} {split} images"
        for split, (right, count) in made.correct.items()
    )
    return f"{made.images} images{left_out}{'; top-1 ' + scores if scores else ''}"
