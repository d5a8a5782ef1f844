"""Resamples of the images of each class, a few draws at a time.

>>> counts = stratified_counts(np.array([2, 3]), range(2), seed=0)
>>> counts[:, :2].sum(axis=1), counts[:, 2:].sum(axis=1)
(array([2, 2]), array([3, 3]))
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

DRAWN_IMAGES = 2**21  # of all draws held at once: 16 MB


def draws_at_a_time(samples: int, images: int, most: int | None = None) -> Iterator[range]:
    """The draws 0 to `samples` of so many images, in parts that fit in memory, of `most` or less.

    >>> list(draws_at_a_time(5, images=100, most=3))
    [range(0, 3), range(3, 5)]
    """
    step = DRAWN_IMAGES // images
    step = max(1, step if most is None else min(step, most))
    for start in range(0, samples, step):
        yield range(start, min(start + step, samples))


def stratified_counts(sizes: np.ndarray, draws: range, seed: int) -> np.ndarray:
    """How often each image is drawn when each class is resampled to its own size: (draw, image).

    Images are sorted by class. The counts of a draw depend on the sizes, its number and the seed
    alone: draws of two models over the same images are paired, and any part of them can be had.
    The last are kept, read-only, for the next tap.
    """
    return _counts(tuple(sizes.tolist()), draws, seed)


@lru_cache(maxsize=1)
def _counts(sizes: tuple[int, ...], draws: range, seed: int) -> np.ndarray:
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)  # (image,), of its class
    among = np.repeat(sizes, sizes)
    counts = np.empty((len(draws), first.size), dtype=np.int64)
    for row, draw in zip(counts, draws, strict=True):
        share = np.random.default_rng([seed, draw]).random(first.size)
        row[:] = np.bincount(first + (share * among).astype(np.int64), minlength=first.size)
    counts.flags.writeable = False
    return counts
