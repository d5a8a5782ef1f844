"""Means and scatter of classes, for the images as they are and for resamples of them.

>>> import numpy as np
>>> x = np.array([[0.0, 1.0], [0.0, 3.0], [5.0, 0.0], [9.0, 0.0]])
>>> groups = Deviations.of(x, np.array([2, 2]))
>>> groups.moments().means[0], groups.moments().variances[0]
(array([[0., 2.],
       [7., 0.]]), array([2., 8.]))
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

DRAWN_VALUES = 2**24  # of resampled class means held at once: 128 MB


@dataclass(frozen=True)
class Moments:
    """means (draw, class, channel); variances (draw, class), traces of the class covariances,
    each with divisor n_c − 1; sizes (class,) = n_c."""

    means: np.ndarray
    variances: np.ndarray
    sizes: np.ndarray

    @property
    def centered_means(self) -> np.ndarray:
        """Class means less their own mean, every class counted once: (draw, class, channel)."""
        return self.means - self.means.mean(axis=1, keepdims=True)

    @property
    def within(self) -> np.ndarray:
        """tr Σ_W (draw,), pooled over images: Σ_c (n_c − 1) var_c / (n − C)."""
        freedom = self.sizes - 1
        return self.variances @ freedom / freedom.sum()


@dataclass(frozen=True)
class Deviations:
    """Images sorted by class: the class means (class, channel) and what each image adds to its own.

    Squares are only taken of `deviations` (image, channel), so no common part cancels.
    """

    means: np.ndarray
    deviations: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, sizes: np.ndarray) -> "Deviations":
        """From x (image, channel) in float64, sorted by class, `sizes` images a class."""
        means = np.add.reduceat(x, _starts(sizes), axis=0) / sizes[:, None]
        return cls(means, x - np.repeat(means, sizes, axis=0), sizes)

    def moments(self) -> Moments:
        """Of the images as they are: one draw."""
        energy = np.square(self.deviations).sum(axis=1)
        variances = np.add.reduceat(energy, _starts(self.sizes)) / (self.sizes - 1)
        return Moments(self.means[None], variances[None], self.sizes)

    def resampled(self, counts: np.ndarray) -> Iterator[tuple[Moments, np.ndarray]]:
        """Moments of resamples, a block of draws at a time, with what each mean moved by.

        counts (draw, image): how often each image is drawn, summing to n_c in each class.
        """
        starts = _starts(self.sizes)
        classes = [slice(s, s + n) for s, n in zip(starts, self.sizes, strict=True)]
        energy = np.square(self.deviations).sum(axis=1)
        step = max(1, DRAWN_VALUES // self.means.size)
        for first in range(0, len(counts), step):
            weights = counts[first : first + step].astype(np.float64)  # (draw, image)
            moved = np.stack([weights[:, c] @ self.deviations[c] for c in classes], axis=1)
            moved /= self.sizes[:, None]  # (draw, class, channel)
            scatter = np.add.reduceat(weights * energy, starts, axis=1)
            scatter -= self.sizes * np.square(moved).sum(axis=2)
            variances = np.maximum(scatter, 0) / (self.sizes - 1)
            yield Moments(self.means + moved, variances, self.sizes), moved


def stratified_counts(sizes: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """How often each image is drawn when each class is resampled to its own size: (draw, image).

    Images are sorted by class. The counts depend on the sizes, the number of samples and the seed
    alone, so draws of two models over the same images are paired.

    >>> counts = stratified_counts(np.array([2, 3]), samples=2, seed=0)
    >>> counts[:, :2].sum(axis=1), counts[:, 2:].sum(axis=1)
    (array([2, 2]), array([3, 3]))
    """
    generator = np.random.default_rng(seed)
    drawn = [generator.multinomial(n, np.full(n, 1 / n), size=samples) for n in sizes]
    return np.concatenate(drawn, axis=1, dtype=np.int32)


def _starts(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)[:-1]])
