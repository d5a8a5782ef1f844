"""Means and scatter of classes, for the images as they are and for resamples of them.

>>> import numpy as np
>>> x = np.array([[0.0, 1.0], [0.0, 3.0], [5.0, 0.0], [9.0, 0.0]])
>>> groups = Deviations.of(x, np.arange(4), np.array([2, 2]))
>>> groups.moments().means[0], groups.moments().variances[0]  # less the first image
(array([[ 0.,  1.],
       [ 7., -1.]]), array([2., 8.]))
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from vitals.metrics.class_arrays import Array, library, placed, typed
from vitals.metrics.class_resamples import draws_at_a_time, stratified_counts

if TYPE_CHECKING:
    import torch

DRAWN_VALUES = 2**21  # of resampled class means held at once: 16 MB
ROWS = 1024  # images in float64 at once

Seen = Callable[[np.ndarray], np.ndarray]  # rows of stored features -> float64


@dataclass(frozen=True)
class Moments:
    """means (draw, class, channel); variances (draw, class), traces of the class covariances,
    each with divisor n_c − 1; sizes (class,) = n_c, in float64."""

    means: Array
    variances: Array
    sizes: Array

    @cached_property
    def centered_means(self) -> Array:
        """Class means less their own mean, every class counted once: (draw, class, channel)."""
        return self.means - self.means.mean(axis=1)[:, None]

    @property
    def within(self) -> Array:
        """tr Σ_W (draw,), pooled over images: Σ_c (n_c − 1) var_c / (n − C)."""
        freedom = self.sizes - 1
        return self.variances @ freedom / freedom.sum()


@dataclass(frozen=True)
class Resamples:
    """Some draws: their numbers, their moments, how often each holds each image (draw, image), and
    by how much that moves the class means (draw, class, channel)."""

    draws: range
    moments: Moments
    weights: Array
    moved: Array


@dataclass(frozen=True)
class Deviations:
    """Class means (class, channel), and what each image, sorted by class, adds to its own.

    Squares are only taken of `values` (image, channel), so no common part cancels. They are kept in
    float32, or in float64 where the features are; sums of them are float64. energy (image,): their
    squared norms; sizes (class,): images of each class; reference (1, channel): what was taken off
    all features before; largest: their largest absolute value.
    """

    means: Array
    values: Array
    energy: Array
    sizes: np.ndarray
    reference: np.ndarray
    largest: float

    @classmethod
    def of(
        cls,
        features: np.ndarray,
        rows: np.ndarray,
        sizes: np.ndarray,
        seen: Seen = np.float64,
        where: "torch.device | None" = None,
    ) -> "Deviations":
        """From the `rows` of features (image, channel), sorted by class, as `seen`.

        The first of them is taken off all: what images share is gone before anything is summed, and
        what is one vector for every image becomes exactly zero.
        where: the device that is to compute, None for numpy.
        """
        codes = np.repeat(np.arange(sizes.size), sizes)
        reference = seen(features[rows[:1]])
        sums, largest = np.zeros((sizes.size, reference.size)), 0.0
        for block in blocks(rows.size):
            x = seen(features[rows[block]])
            largest = max(largest, float(np.abs(x).max()))
            first = np.flatnonzero(np.diff(codes[block], prepend=-1))
            sums[codes[block][first]] += np.add.reduceat(x - reference, first, axis=0)
        means = sums / sizes[:, None]

        values = np.empty((rows.size, reference.size), np.result_type(features.dtype, np.float32))
        energy = np.empty(rows.size)
        for block in blocks(rows.size):
            x = seen(features[rows[block]]) - reference - means[codes[block]]
            values[block], energy[block] = x, np.square(x).sum(axis=1)
        means, values, energy = (placed(found, where) for found in (means, values, energy))
        return cls(means, values, energy, sizes, reference, largest)

    def moments(self) -> Moments:
        """Of the images as they are: one draw."""
        stack, sizes = library(self.means).stack, self._placed_sizes
        scatter = stack([self.energy[images].sum() for images in self._classes])
        return Moments(self.means[None], (scatter / (sizes - 1))[None], sizes)

    def resampled(self, samples: int, seed: int) -> Iterator[Resamples]:
        """The images resampled within classes, as many draws at a time as memory is for."""
        stack, sizes = library(self.means).stack, self._placed_sizes
        most = DRAWN_VALUES // math.prod(self.means.shape)
        for draws in draws_at_a_time(samples, len(self.energy), most):
            counts = stratified_counts(self.sizes, draws, seed).astype(np.float64)
            weights = placed(counts, self.where)
            factors = typed(weights, self.values)  # whole numbers, exact in float32 too
            moved = stack([factors[:, c] @ self.values[c] for c in self._classes], 1)
            moved = typed(moved, self.means) / sizes[:, None]  # (draw, class, channel)
            scatter = stack([weights[:, c] @ self.energy[c] for c in self._classes], 1)
            scatter = scatter - sizes * (moved**2).sum(axis=2)
            variances = scatter.clip(0) / (sizes - 1)
            yield Resamples(draws, Moments(self.means + moved, variances, sizes), weights, moved)

    @property
    def where(self) -> "torch.device | None":
        """The device of the values."""
        return None if isinstance(self.means, np.ndarray) else self.means.device

    @property
    def _placed_sizes(self) -> Array:
        return placed(self.sizes.astype(np.float64), self.where)

    @property
    def _classes(self) -> list[slice]:
        """The images of each class."""
        ends = np.cumsum(self.sizes)
        return [slice(end - n, end) for end, n in zip(ends, self.sizes, strict=True)]


def blocks(images: int) -> Iterator[slice]:
    """So many images, as many at a time as there is memory for in float64."""
    for start in range(0, images, ROWS):
        yield slice(start, min(start + ROWS, images))
