"""What every dataset gives: its classes, a cheap list of its images, and the images themselves."""

from typing import Protocol

import numpy as np
import pandas as pd
from PIL import Image

from vitals.errors import VitalsError

Picture = Image.Image | np.ndarray


class UnreadableError(VitalsError):
    """An image that cannot be read or decoded: an error, or left out where the study says so."""


class ImageSource(Protocol):
    """One dataset, at the place where it lies today.

    Making one reads nothing. All may be asked from several threads at once.
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; a label is a place among them."""

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """(channel, row, column) of every image, or None for pictures of any size."""

    def listing(self) -> pd.DataFrame:
        """The images in their stated order, found without reading one.

        Columns: image_id; path, of the file that holds the image, from the dataset's own root;
        index, its place in that file; label; stamp, which changes when the image may have.
        Raises VitalsError for a dataset that is not there or not as its kind is.
        """

    def read(self, path: str, index: int) -> bytes:
        """The content of one image, over which its digest is; OSError where it cannot be read."""

    def decode(self, content: bytes) -> Picture:
        """A picture in RGB, or an array (channel, row, column) of float32 in [0, 1].

        Raises OSError for a content that is no image.
        """


def round_robin(labels: np.ndarray) -> np.ndarray:
    """Places of the images, the first of each class, then the second of each, and so on: (image,).

    So the start of a list has as many images of each class as it can.

    >>> round_robin(np.array([0, 0, 0, 1, 2, 2])).tolist()
    [0, 3, 4, 1, 5, 2]
    """
    by_class = np.argsort(labels, kind="stable")
    grouped = labels[by_class]
    rank = np.arange(grouped.size) - np.searchsorted(grouped, grouped)
    return by_class[np.lexsort((grouped, rank))]
