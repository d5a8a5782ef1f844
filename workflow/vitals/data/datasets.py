"""The datasets that a study can name, behind one interface."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vitals.data import digits
from vitals.errors import unknown


@dataclass(frozen=True)
class ImageSource:
    """One dataset: what its classes are called, and how its labels and pixels are read.

    `labels()` is (image,); `pixels(indices)` is (image, channel, row, column), float32 in [0, 1];
    `shape` is that of one image.
    """

    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    labels: Callable[[], np.ndarray]
    pixels: Callable[[np.ndarray], np.ndarray]


DATASETS = {
    "digits": ImageSource(digits.CLASSES, digits.SHAPE, digits.labels, digits.pixels),
}


def source(name: str) -> ImageSource:
    """The dataset of this name; VitalsError for a name that is none."""
    if name not in DATASETS:
        raise unknown("dataset", name, DATASETS)
    return DATASETS[name]
