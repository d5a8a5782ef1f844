"""Crops of the two photographs that scikit-learn ships: real pictures at 224 × 224, for trials.

A photograph is 640 × 427; its crops stand on a grid of 8 rows and 14 columns, 28 and 32 pixels
apart. They overlap, so a test image shows much of what fit images show: no result about
generalisation can come from them.
"""

from functools import lru_cache

import numpy as np
import pandas as pd
from PIL import Image

from vitals.data import decode, scikit_learn
from vitals.data.source import round_robin
from vitals.provenance import digest_of

CLASSES = ("china", "flower")
SIDE = 224
ROWS = range(0, 197, 28)
COLUMNS = range(0, 417, 32)


class Photographs:
    """The crops, row by row of the grid, a crop of each photograph in turn."""

    classes = CLASSES
    shape = None

    def listing(self) -> pd.DataFrame:
        """One row a crop; its stamp is the digest of its photograph's file."""
        crops = [
            {
                "image_id": f"{name}-row{row:03d}-column{column:03d}",
                "index": index,
                "path": f"{name}.jpg",
                "label": label,
                "stamp": stamp,
            }
            for label, (name, stamp) in enumerate((name, _stamp(name)) for name in CLASSES)
            for index, (row, column) in enumerate(_corners())
        ]
        table = pd.DataFrame(crops)
        return table.iloc[round_robin(table["label"].to_numpy())].reset_index(drop=True)

    def read(self, path: str, index: int) -> bytes:
        """The pixels of one crop, red, green and blue, row by row."""
        row, column = _corners()[index]
        return _photograph(path)[row : row + SIDE, column : column + SIDE].tobytes()

    def decode(self, content: bytes) -> Image.Image:
        """The crop as a picture."""
        return Image.frombytes("RGB", (SIDE, SIDE), content)


def _corners() -> list[tuple[int, int]]:
    return [(row, column) for row in ROWS for column in COLUMNS]


def _stamp(name: str) -> str:
    return digest_of(scikit_learn.file("images", f"{name}.jpg").read_bytes())


@lru_cache
def _photograph(path: str) -> np.ndarray:
    """(row, column, color)."""
    return np.asarray(decode.picture(scikit_learn.file("images", path).read_bytes()))
