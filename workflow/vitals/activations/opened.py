"""What the stages that pass images read from files: the model, and a shard of the image list."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitals.activations.passing import Subject
from vitals.data import images as image_lists
from vitals.data.images import ImageList
from vitals.errors import VitalsError
from vitals.models import build


@dataclass(frozen=True)
class Opened:
    """A model with its report, the whole image list, and the rows of it that are the shard's."""

    subject: Subject
    about: Mapping[str, Any]
    listed: ImageList
    rows: slice

    @property
    def part(self) -> ImageList:
        """The images of the shard."""
        return self.listed.rows(self.rows.start, self.rows.stop)

    @property
    def origin(self) -> dict[str, Any]:
        """What a result of these says of them."""
        return {
            "model": self.subject.name,
            "weights_digest": self.about["weights_digest"],
            "start": self.rows.start,
            "stop": min(self.rows.stop, len(self.listed.table)),
        }


def opened(
    spec: Mapping[str, Any], images: Path, data: str | None, model: Path, number: int
) -> Opened:
    """The model and the images of shard `number`.

    spec: `settings` with `shard_images`, and `images`, the fingerprint of the shard's rows of the
    list; data: where the images are.
    Raises VitalsError where the list does not have the rows of the fingerprint.
    """
    size = spec["settings"]["shard_images"]
    listed, rows = image_lists.read(images, data), slice(number * size, (number + 1) * size)
    if image_lists.fingerprint(listed.table.iloc[rows]) != spec["images"]:
        raise VitalsError(f"{images} does not list the images of shard {number}: list them again")
    subject, about = opened_model(model)
    return Opened(subject, about, listed, rows)


def opened_model(model: Path) -> tuple[Subject, dict[str, Any]]:
    """A model as it is passed, and its report."""
    network, transform, about = build.load(model, model.with_suffix(".json"))
    names, of_classes = about["class_names"], about["class_rows"]
    subject = Subject(
        model.parent.name,
        network,
        transform,
        names and tuple(names),
        None if of_classes is None else np.array(of_classes),
    )
    return subject, about
