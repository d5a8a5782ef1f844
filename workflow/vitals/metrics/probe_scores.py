"""Macro F1 of images and of their resamples.

>>> import numpy as np
>>> codes, predicted = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
>>> macro_f1(predicted, codes, 2, np.array([[1, 1, 1, 1], [2, 0, 1, 1]])).round(4)
array([0.7333, 1.    ])
"""

import numpy as np
from scipy.sparse import csr_array

DRAWS_AT_ONCE = 128


def macro_f1(
    predicted: np.ndarray, codes: np.ndarray, classes: int, counts: np.ndarray
) -> np.ndarray:
    """Mean over classes of F1 = 2·right/(labelled + predicted), by counts (draw, image): (draw,).

    A class that a draw neither holds nor predicts takes no part.
    """
    right = predicted == codes
    labelled, named = _members(codes, classes), _members(predicted, classes)
    both = labelled * right[:, None]
    found = []
    for start in range(0, len(counts), DRAWS_AT_ONCE):
        weights = counts[start : start + DRAWS_AT_ONCE].T.astype(np.float64)  # (image, draw)
        size = labelled.T @ weights + named.T @ weights  # (class, draw)
        f1 = np.divide(2 * (both.T @ weights), size, out=np.zeros_like(size), where=size > 0)
        found.append(f1.sum(axis=0) / np.count_nonzero(size, axis=0))
    return np.concatenate(found)


def _members(codes: np.ndarray, classes: int) -> csr_array:
    """Which class each image is in: (image, class)."""
    image = np.arange(codes.size)
    return csr_array((np.ones(codes.size), (image, codes)), shape=(codes.size, classes))
