"""How alike are two representations of the same images, up to a rotation and a scale?

>>> import numpy as np
>>> x = np.random.default_rng(0).standard_normal((50, 3))
>>> both = np.stack([x, 3 * x[:, [2, 0, 1]] + 1])  # a rotation, a scale and an offset
>>> alignment(lambda first: [both[first:, :20], both[first:, 20:]]).cka.round(9)
array([[1., 1.],
       [1., 1.]])
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from vitals.progress import progress

# Features that deviate by less than this share of their size are the same for every image.
CONSTANT = 1e-6
FEWEST_IMAGES = 5  # of the unbiased estimate 4, which are left without any one of them
Blocks = Callable[[int], Iterable[np.ndarray]]


@dataclass(frozen=True)
class Alignment:
    """cka (tap, tap), and without each image in turn: cka_without (tap, tap, image)."""

    cka: np.ndarray
    cka_without: np.ndarray

    @property
    def pseudo_values(self) -> np.ndarray:
        """n·CKA − (n−1)·(CKA without the image), of which CKA is nearly the mean: (..., image)."""
        images = self.cka_without.shape[-1]
        return images * self.cka[..., None] - (images - 1) * self.cka_without


def alignment(blocks: Blocks) -> Alignment:
    """Linear CKA of all pairs of taps over the same n images, with the unbiased HSIC.

    CKA(X, Y) = HSIC(X, Y) / √(HSIC(X, X)·HSIC(Y, Y)), where for K̃ and L̃, the kernels XXᵀ and YYᵀ
    with zeros on their diagonals,
    HSIC = [tr K̃L̃ + 1ᵀK̃1·1ᵀL̃1 / ((n−1)(n−2)) − 2·1ᵀK̃L̃1 / (n−2)] / (n(n−3)).
    All in it are sums over images, so it is exact in tap·channel² memory whatever the blocks; the
    mean of CKA over minibatches is another number.

    blocks: `blocks(first)` gives all images in turn, as blocks (tap, image, channel) of the taps
    from `first` on; it is called twice for each tap.
    NaN where a tap's features are the same for every image. At least `FEWEST_IMAGES` images.
    Source: Kornblith et al. 2019, section 3, with HSIC_1 of Song et al. 2012, equation 5.
    """
    shift, constant = _offsets(blocks)
    taps = len(shift)
    rows = [_row(blocks, shift, first) for first in progress(range(taps), "alignment")]
    images = rows[0][1].shape[-1]
    hsic, without = np.empty((taps, taps)), np.empty((taps, taps, images))
    for first, (value, value_without) in enumerate(rows):
        hsic[first, first:] = hsic[first:, first] = value
        without[first, first:] = without[first:, first] = value_without
    hsic[constant], without[constant] = np.nan, np.nan
    return Alignment(_normalised(hsic), _normalised(without))


def _offsets(blocks: Blocks) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each tap's first block (tap, 1, channel), and whether it is constant (tap,).

    HSIC is blind to an offset, which would only take digits from the sums.
    """
    shift, spread, size = None, 0.0, 0.0
    for block in blocks(0):
        x = block.astype(np.float64)
        shift = x.mean(axis=1, keepdims=True) if shift is None else shift
        spread = spread + np.square(x - shift).sum(axis=(1, 2))
        size = size + np.square(x).sum(axis=(1, 2))
    return shift, spread <= CONSTANT**2 * size


def _row(blocks: Blocks, shift: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
    """HSIC of tap `first` with each from it on (tap,), and without each image (tap, image).

    Leaving out image i takes from each sum the terms that i is part of: from tr K̃L̃ twice
    Σ_j K̃_ij L̃_ij, from the sums of K̃ and L̃ twice their rows a_i and b_i, and from
    1ᵀK̃L̃1 = Σ_j a_j b_j what i adds to the rows of the others, and its own.
    """
    taps, _, channels = shift[first:].shape
    xy = np.zeros((taps, channels, channels))
    x_sum, y_sum = np.zeros(channels), np.zeros((taps, channels))
    x_sizes, y_sizes, both_sizes = 0.0, np.zeros(taps), np.zeros(taps)
    x_by_size, y_by_size = np.zeros((taps, channels)), np.zeros((taps, channels))
    for x, y, x_size, y_size in _centered(blocks, shift, first):
        xy += x.T @ y
        x_sum, y_sum = x_sum + x.sum(axis=0), y_sum + y.sum(axis=1)
        x_sizes, y_sizes = x_sizes + x_size.sum(), y_sizes + y_size.sum(axis=1)
        both_sizes = both_sizes + y_size @ x_size
        x_by_size, y_by_size = x_by_size + y_size @ x, y_by_size + x_size @ y

    y_by_a = x_sum @ xy - y_by_size  # Σ_j a_j y_j: (tap, channel)
    x_by_b = (xy @ y_sum[..., None])[..., 0] - x_by_size
    trace = np.square(xy).sum(axis=(1, 2)) - both_sizes
    all_k, all_l = x_sum @ x_sum - x_sizes, np.square(y_sum).sum(axis=1) - y_sizes
    rows = (y_sum * y_by_a).sum(axis=1) - x_by_size @ x_sum + both_sizes  # Σ_j a_j b_j
    images, without = 0, []
    for x, y, x_size, y_size in _centered(blocks, shift, first):
        images += len(x)
        own = ((x @ xy) * y).sum(axis=-1) - x_size * y_size  # (tap, image)
        a, b = x @ x_sum - x_size, (y * y_sum[:, None]).sum(axis=-1) - y_size
        a_of_others = (y * y_by_a[:, None]).sum(axis=-1) - a * y_size
        b_of_others = x_by_b @ x.T - b * x_size
        without.append((own, a, b, a * b + a_of_others + b_of_others - own))
    own, a, b, lost = (np.concatenate(parts, axis=-1) for parts in zip(*without, strict=True))
    every, column = (trace, all_k, all_l, rows), np.s_[:, None]
    left = (trace[column] - 2 * own, all_k - 2 * a, all_l[column] - 2 * b, rows[column] - lost)
    return _hsic(*every, images), _hsic(*left, images - 1)


def _centered(blocks: Blocks, shift: np.ndarray, first: int) -> Iterable[tuple[np.ndarray, ...]]:
    """Blocks of x (image, channel), y (tap, image, channel) and their squared norms."""
    for block in blocks(first):
        y = block.astype(np.float64) - shift[first:]
        norms = np.square(y).sum(axis=-1)
        yield y[0], y, norms[0], norms


def _hsic(
    trace: np.ndarray, all_k: np.ndarray, all_l: np.ndarray, rows: np.ndarray, n: int
) -> np.ndarray:
    pairs = all_k * all_l / ((n - 1) * (n - 2))
    return (trace + pairs - 2 * rows / (n - 2)) / (n * (n - 3))


def _normalised(hsic: np.ndarray) -> np.ndarray:
    own = np.einsum("aa...->a...", hsic)
    size = np.sqrt(np.where(own > 0, own, np.nan))
    return hsic / (size[:, None] * size)
