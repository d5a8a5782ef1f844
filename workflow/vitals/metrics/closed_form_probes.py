"""Two probes without an optimiser: ridge regression on one-hot labels, and nearest neighbours.

>>> import numpy as np
>>> fit, codes = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([0, 0, 1, 1])
>>> test = np.array([[-3.0], [0.5]])
>>> nearest_neighbours(fit, codes, test, neighbours=3), ridge(fit, codes, test, [1.0]).predicted
(array([0, 1]), array([0, 1]))
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitals.metrics.axes import IMAGES_PER_BLOCK


@dataclass(frozen=True)
class Ridge:
    """predicted (test image,) classes, and the chosen inverse penalty."""

    predicted: np.ndarray
    penalty: float


def ridge(
    fit: np.ndarray, codes: np.ndarray, test: np.ndarray, penalties: Sequence[float]
) -> Ridge:
    """argmax of W minimising ‖Y − 1b − XW‖² + ‖W‖²/`penalty`, Y the one-hot labels.

    One decomposition X = USVᵀ serves every penalty: Ŷ = 1ȳ + U s²/(s² + 1/penalty) Uᵀ(Y − ȳ). The
    penalty with most right leave-one-out predictions, Ŷ₋ᵢ = (Ŷᵢ − hᵢᵢYᵢ)/(1 − hᵢᵢ), is chosen, the
    smallest of several.

    fit (image, channel), of mean zero; codes (image,); test (test image, channel).
    """
    one_hot = np.eye(codes.max() + 1)[codes]  # (image, class)
    prior = one_hot.mean(axis=0)
    left, singular, right = np.linalg.svd(fit, full_matrices=False)
    targets = left.T @ one_hot  # (kept, class): the mean of fit is zero, so that of left is
    chosen, most, weight = 0.0, -1, None
    for penalty in sorted(penalties):
        shrink = singular**2 / (singular**2 + 1 / penalty)
        leverage = 1 / len(fit) + np.square(left) @ shrink
        fitted = prior + left @ (shrink[:, None] * targets)
        left_out = (fitted - leverage[:, None] * one_hot) / (1 - leverage)[:, None]
        right_ones = np.count_nonzero(left_out.argmax(axis=1) == codes)
        if right_ones > most:
            chosen, most = penalty, right_ones
            weight = right.T @ ((singular / (singular**2 + 1 / penalty))[:, None] * targets)
    return Ridge((prior + test @ weight).argmax(axis=1), chosen)


def nearest_neighbours(
    fit: np.ndarray, codes: np.ndarray, test: np.ndarray, neighbours: int
) -> np.ndarray:
    """The class of most of the `neighbours` fit images of largest cosine: (test image,).

    Classes with as many neighbours are told apart by the sum of their cosines.
    fit (image, channel), codes (image,), test (test image, channel).
    """
    fit, test = _unit(fit), _unit(test)
    neighbours = min(neighbours, len(fit))
    one_hot = np.eye(codes.max() + 1)[codes]
    predicted = np.empty(len(test), dtype=codes.dtype)
    for start in range(0, len(test), IMAGES_PER_BLOCK):
        block = slice(start, start + IMAGES_PER_BLOCK)
        cosine = test[block] @ fit.T  # (test image, image)
        nearest = np.argpartition(-cosine, neighbours - 1, axis=1)[:, :neighbours]
        near = np.zeros_like(cosine)
        # A vote is 1 plus at most 1/(4k) for its cosine: k cosines never outweigh a vote.
        vote = 1 + np.take_along_axis(cosine, nearest, axis=1) / (4 * neighbours)
        np.put_along_axis(near, nearest, vote, axis=1)
        predicted[block] = (near @ one_hot).argmax(axis=1)
    return predicted


def _unit(x: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)
