"""The class of the nearest images, with nothing fitted.

>>> import numpy as np
>>> fit, codes = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([0, 0, 1, 1])
>>> nearest_neighbours(fit, codes, np.array([[-3.0], [0.5]]), neighbours=2)
array([0, 1])
"""

import numpy as np

from vitals.metrics.score_blocks import score_blocks


def nearest_neighbours(
    fit: np.ndarray, codes: np.ndarray, test: np.ndarray, neighbours: int
) -> np.ndarray:
    """The class of most of the `neighbours` fit images of largest cosine: (test image,).

    Classes with as many neighbours are told apart by the sum of their cosines.
    fit (image, channel), codes (image,), test (test image, channel).
    """
    neighbours, classes = min(neighbours, len(fit)), codes.max() + 1
    fit_scale, test_scale = _inverse_norms(fit), _inverse_norms(test)
    predicted = np.empty(len(test), dtype=codes.dtype)
    for block in score_blocks(len(test), max(len(fit), classes)):
        cosine = test[block] @ fit.T  # (test image, image)
        cosine *= fit_scale
        cosine *= test_scale[block, None]
        nearest = np.argpartition(cosine, -neighbours, axis=1)[:, -neighbours:]
        # A vote is 1 plus at most 1/(4k) for its cosine: k cosines never outweigh a vote.
        vote = 1 + np.take_along_axis(cosine, nearest, axis=1) / (4 * neighbours)
        box = codes[nearest] + classes * np.arange(len(nearest))[:, None]
        votes = np.bincount(box.ravel(), vote.ravel(), minlength=classes * len(nearest))
        predicted[block] = votes.reshape(-1, classes).argmax(axis=1)
    return predicted


def _inverse_norms(x: np.ndarray) -> np.ndarray:
    """1/‖x‖ of each image of x (image, channel), 0 where it is zero."""
    norms = np.sqrt(np.einsum("ic,ic->i", x, x))
    return np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
