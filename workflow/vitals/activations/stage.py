"""The stage that stores a shard of activations, from files to a store."""

from pathlib import Path
from typing import Any

import numpy as np

from vitals.activations import linking, store
from vitals.activations.extract import Extracted, Machine, Subject, extract
from vitals.activations.layout import Settings
from vitals.data import images as image_lists
from vitals.errors import VitalsError
from vitals.models import build
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
    rows of the list; data: where the images are; shard: `{number}.zarr`, or its root file;
    studies: the folder of all studies, where the same pass may lie and is then linked; None to pass
    the images in any case.
    Raises VitalsError where the list does not have the rows of the fingerprint.
    """
    shard = shard.parent if shard.name == store.ROOT_FILE else shard
    if not (shard.suffix == ".zarr" and shard.stem.isdecimal()):
        raise VitalsError(f"{shard} is no name of a shard: expected 0.zarr, 1.zarr, ...")
    settings, number = Settings(**spec["settings"]), int(shard.stem)
    listed = image_lists.read(images, data)
    rows = slice(number * settings.shard_images, (number + 1) * settings.shard_images)
    if image_lists.fingerprint(listed.table.iloc[rows]) != spec["images"]:
        raise VitalsError(f"{images} does not list the images of shard {number}: list them again")
    network, transform, about = build.load(model, model.with_suffix(".json"))
    subject = Subject(model.parent.name, network, transform, *_classes(about))
    part = listed.rows(rows.start, rows.stop)
    made_from = {
        **provenance,
        FINGERPRINT: fingerprint(
            stage="extract",
            settings={**spec, "images": part.digest},
            code=provenance["code"],
            shape=part.shape,
            model={key: about[key] for key in READ_OF_MODEL},
        ),
        "model": subject.name,
        "weights_digest": about["weights_digest"],
        "transform": about["transform"],
        "images": spec["images"],
        "start": rows.start,
        "stop": min(rows.stop, len(listed.table)),
        "versions": versions(),
        "device": str(machine.device),
    }
    if studies and (twin := linking.link(shard, made_from, studies)):
        return f"{len(part.table)} images in {shard}: the same pass lies in {twin}, and is linked"
    shard.parent.mkdir(parents=True, exist_ok=True)
    made = extract(subject, listed, number, settings, shard, made_from, machine)
    return f"{_said(made)} in {shard}"


def _classes(about: dict[str, Any]) -> tuple[tuple[str, ...] | None, np.ndarray | None]:
    names, rows = about["class_names"], about["class_rows"]
    return names and tuple(names), None if rows is None else np.array(rows)


def _said(made: Extracted) -> str:
    left_out = f", {len(made.left_out)} left out as unreadable" if made.left_out else ""
    scores = ", ".join(
        f"{right / count:.1%} of {count} {split} images"
        for split, (right, count) in made.correct.items()
    )
    return f"{made.images} images{left_out}{'; top-1 ' + scores if scores else ''}"
