"""Two linear probes without an optimiser, from class sums and the Gram matrix of the features.

Ridge regression on one-hot labels hides a class that lies between others: its line is never the
highest. Linear discriminant analysis, from the same sums, does not.

>>> import numpy as np
>>> fit = np.array([[-3.1], [-2.9], [-0.1], [0.1], [2.9], [3.1]])
>>> codes, test = np.array([0, 0, 1, 1, 2, 2]), np.array([[-3.0], [0.5], [3.0]])
>>> sums = ClassSums.of(fit, codes)
>>> ridge(sums, fit, codes, test, [1.0]).predicted
array([0, 2, 2])
>>> discriminant(sums, fit, codes, test, [1.0]).predicted
array([0, 1, 2])
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from vitals.metrics.score_blocks import score_blocks

# The scores of images, each left out of the fit: of z (image, direction) and their classes.
LeftOut = Callable[[np.ndarray, np.ndarray, float], np.ndarray]


@dataclass(frozen=True)
class ClassSums:
    """Of features of mean zero: gram (channel, channel) = XᵀX, sums (class, channel), sizes."""

    gram: np.ndarray
    sums: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, fit: np.ndarray, codes: np.ndarray) -> "ClassSums":
        """From fit (image, channel), of mean zero, and the classes codes (image,)."""
        image = np.arange(codes.size)
        members = csr_array((np.ones(codes.size), (codes, image)))  # (class, image)
        return cls(fit.T @ fit, members @ fit, np.bincount(codes))

    @property
    def means(self) -> np.ndarray:
        """Class means (class, channel)."""
        return self.sums / self.sizes[:, None]

    @property
    def scatter(self) -> np.ndarray:
        """Σ (x − m_c)(x − m_c)ᵀ within classes: (channel, channel)."""
        return self.gram - self.means.T @ self.sums


@dataclass(frozen=True)
class ClosedForm:
    """predicted (test image,) classes, and the chosen inverse penalty."""

    predicted: np.ndarray
    penalty: float


def ridge(
    sums: ClassSums,
    fit: np.ndarray,
    codes: np.ndarray,
    test: np.ndarray,
    penalties: Sequence[float],
) -> ClosedForm:
    """argmax of W minimising ‖Y − 1b − XW‖² + ‖W‖²/`penalty`, Y the one-hot labels.

    One decomposition XᵀX = VΛVᵀ serves every penalty: Ŷ = ȳ + XV (Λ + 1/penalty)⁻¹ VᵀXᵀY. The
    penalty with most right leave-one-out predictions, Ŷ₋ᵢ = (Ŷᵢ − hᵢᵢYᵢ)/(1 − hᵢᵢ), is chosen, the
    smallest of several.

    fit (image, channel), of mean zero; codes (image,); test (test image, channel).
    """
    prior = sums.sizes / sums.sizes.sum()
    values, directions = _decomposed(sums.gram)
    targets = directions.T @ sums.sums.T  # (direction, class)

    def left_out(z: np.ndarray, own: np.ndarray, penalty: float) -> np.ndarray:
        inverse = 1 / (values + 1 / penalty)
        scores = prior + (z * inverse) @ targets
        # 1 − h is above zero and the same for all classes: the largest is so without it
        scores[np.arange(own.size), own] -= 1 / len(fit) + np.square(z) @ inverse
        return scores

    penalty = _most_right(fit, codes, directions, penalties, left_out)
    weight = directions @ (targets / (values + 1 / penalty)[:, None])  # (channel, class)
    return ClosedForm(_largest(test, weight, prior), penalty)


def discriminant(
    sums: ClassSums,
    fit: np.ndarray,
    codes: np.ndarray,
    test: np.ndarray,
    penalties: Sequence[float],
) -> ClosedForm:
    """argmax of xᵀΣ⁻¹m_c − ½ m_cᵀΣ⁻¹m_c + log(n_c/n), Σ = (S_W + I/`penalty`)/(n − C).

    S_W is the scatter within classes and m_c their means: linear discriminant analysis, shrunk
    towards the identity. One decomposition of S_W serves every penalty. The penalty with most right
    leave-one-out predictions is chosen, the smallest of several: leaving out an image takes
    n_c/(n_c − 1) uuᵀ, u = x − m_c, from S_W and moves m_c by −u/(n_c − 1), exactly.

    fit (image, channel), of mean zero; codes (image,), at least two of each; test (test image,
    channel).
    """
    sizes, freedom = sums.sizes, sums.sizes.sum() - sums.sizes.size
    log_prior = np.log(sizes / sizes.sum())
    values, directions = _decomposed(sums.scatter)
    means = sums.means @ directions  # (class, direction)

    def left_out(z: np.ndarray, own: np.ndarray, penalty: float) -> np.ndarray:
        inverse = 1 / (values + 1 / penalty)  # written B below; "by" is a product with B between
        image, others = np.arange(own.size), sizes[own] - 1  # others: images left in the class
        mean_by_mean = (means * inverse) @ means.T  # (class, class)
        x_by_mean = (z * inverse) @ means.T  # (image, class)
        u_by_mean = x_by_mean - mean_by_mean[own]
        x_by_u = np.square(z) @ inverse - x_by_mean[image, own]
        u_by_u = x_by_u - u_by_mean[image, own]
        size = np.broadcast_to(mean_by_mean.diagonal(), x_by_mean.shape).copy()
        # the mean of the image's own class, without it
        size[image, own] += -2 * u_by_mean[image, own] / others + u_by_u / others**2
        x_by_mean[image, own] -= x_by_u / others
        u_by_mean[image, own] -= u_by_u / others
        # B without the image, by Sherman and Morrison: B + k Buuᵀ B
        part = sizes[own] / others
        k = (part / (1 - part * u_by_u))[:, None]
        scores = x_by_mean + k * x_by_u[:, None] * u_by_mean
        scores -= (size + k * np.square(u_by_mean)) / 2
        scores = (freedom - 1) * scores + log_prior
        scores[image, own] += np.log(others / sizes[own])
        return scores

    penalty = _most_right(fit, codes, directions, penalties, left_out)
    weight = (means / (values + 1 / penalty)).T * freedom  # (direction, class)
    intercept = log_prior - (means.T * weight).sum(axis=0) / 2
    return ClosedForm(_largest(test, directions @ weight, intercept), penalty)


def _decomposed(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, none below zero, and eigenvectors (channel, direction)."""
    values, directions = np.linalg.eigh(gram)
    return np.maximum(values, 0), directions


def _most_right(
    fit: np.ndarray,
    codes: np.ndarray,
    directions: np.ndarray,
    penalties: Sequence[float],
    left_out: LeftOut,
) -> float:
    """The penalty that names most fit images rightly without them, the smallest of several."""
    penalties = sorted(penalties)
    if len(penalties) == 1:
        return penalties[0]
    right = np.zeros(len(penalties), dtype=int)
    for block in score_blocks(len(fit), codes.max() + 1):
        z, own = fit[block] @ directions, codes[block]
        for index, penalty in enumerate(penalties):
            right[index] += np.count_nonzero(left_out(z, own, penalty).argmax(axis=1) == own)
    return penalties[right.argmax()]


def _largest(test: np.ndarray, weight: np.ndarray, intercept: np.ndarray) -> np.ndarray:
    """The class of largest score, weight (channel, class) and intercept (class,): (test image,)."""
    blocks = score_blocks(len(test), intercept.size)
    return np.concatenate([(test[b] @ weight + intercept).argmax(axis=1) for b in blocks])
