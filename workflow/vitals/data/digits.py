"""The 1,797 real handwritten digits that scikit-learn ships: 8 × 8 pixels, grey levels 0 to 16.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
"""

import gzip
from functools import lru_cache

import numpy as np
import pandas as pd

from vitals.data import scikit_learn
from vitals.provenance import digest_of

FILE = "digits.csv.gz"
SIDE = 8
LEVELS = 16
CLASSES = tuple(str(digit) for digit in range(10))
SHAPE = (1, SIDE, SIDE)  # channel, row, column


class Digits:
    """The digits in the order of scikit-learn's file, as arrays of grey levels in [0, 1]."""

    classes = CLASSES
    shape = SHAPE

    def listing(self) -> pd.DataFrame:
        """One row a digit; its stamp is the digest of its grey levels."""
        labels = _table()[:, -1].astype(np.int64)
        return pd.DataFrame(
            {
                "image_id": [f"digits-{index:04d}" for index in range(labels.size)],
                "index": np.arange(labels.size),
                "path": FILE,
                "label": labels,
                "stamp": [digest_of(self.read(FILE, index)) for index in range(labels.size)],
            }
        )

    def read(self, path: str, index: int) -> bytes:
        """The grey levels of one digit, float32, row by row."""
        return (_table()[index, :-1] / LEVELS).astype(np.float32).tobytes()

    def decode(self, content: bytes) -> np.ndarray:
        """(1, row, column), float32 in [0, 1]."""
        return np.frombuffer(content, np.float32).reshape(SHAPE)


@lru_cache
def _table() -> np.ndarray:
    """Grey levels and, last, the digit that they show: (image, 65)."""
    with gzip.open(scikit_learn.file("data", FILE), "rt") as file:
        return np.loadtxt(file, delimiter=",")
