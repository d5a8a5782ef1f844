"""The 1,797 real handwritten digits that scikit-learn ships: 8 × 8 pixels, grey levels 0 to 16.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
"""

import gzip
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

SIDE = 8
LEVELS = 16
CLASSES = tuple(str(digit) for digit in range(10))
SHAPE = (1, SIDE, SIDE)  # channel, row, column


def labels() -> np.ndarray:
    """The digit that each image shows, in the order of scikit-learn's file: (image,)."""
    return _table()[:, -1].astype(np.int64)


def pixels(indices: np.ndarray) -> np.ndarray:
    """Grey levels in [0, 1] of the images at these places of the file: (image, 1, row, column)."""
    levels = _table()[np.asarray(indices), :-1].reshape(-1, *SHAPE)
    return (levels / LEVELS).astype(np.float32)


@lru_cache
def _table() -> np.ndarray:
    # Read beside scikit-learn rather than through it: the workflow counts images each time that it
    # starts, and importing scikit-learn takes ten times as long as reading the file.
    package = find_spec("sklearn")
    assert package is not None and package.submodule_search_locations
    path = Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    with gzip.open(path, "rt") as file:
        return np.loadtxt(file, delimiter=",")
