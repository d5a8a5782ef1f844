"""How alike are two representations of the same images, up to a rotation and a scale?

>>> x = np.random.default_rng(0).standard_normal((50, 3))
>>> both = np.stack([x, 3 * x[:, [2, 0, 1]] + 1])  # a rotation, a scale and an offset
>>> alignment(lambda: [both[:, :20], both[:, 20:]]).cka.round(9)
array([[1., 1.],
       [1., 1.]])
>>> wider = np.concatenate([both, 0 * both], axis=2)  # of another model
>>> alignment_between(lambda: [(both, wider)]).cka.round(9)
array([[1., 1.],
       [1., 1.]])
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr

from vitals.metrics import bootstrap
from vitals.metrics.accelerator import float64_device
from vitals.metrics.alignment_sums import HsicSums
from vitals.progress import progress

CKA = "Kornblith et al. 2019, with the unbiased HSIC of Song et al. 2012"
# Features that deviate by less than this share of their size are the same for every image.
CONSTANT = 1e-6
FEWEST_IMAGES = 5  # of the unbiased estimate 4, which are left without any one of them
SUM_BYTES = 2**29  # of the (channel, channel) sums in memory in one pass over the images
Blocks = Callable[[], Iterable[np.ndarray]]
PairedBlocks = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]


@dataclass(frozen=True)
class Alignment:
    """cka (tap, other), and without each image in turn: cka_without (tap, other, image)."""

    cka: np.ndarray
    cka_without: np.ndarray

    def pseudo_values(self, tap: int) -> np.ndarray:
        """n·CKA − (n−1)·CKA without the image, of which CKA is nearly the mean: (other, image)."""
        images = self.cka_without.shape[-1]
        return images * self.cka[tap, :, None] - (images - 1) * self.cka_without[tap]

    def interval(self, samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The ends of the 95 % interval: (tap, other) each.

        An image drawn twice would be a pair that is alike, which the unbiased estimate counts on
        not to be there: it is the pseudo-values of the jackknife that are drawn.
        """
        ends = []
        for tap in range(len(self.cka)):
            values = xr.DataArray(self.pseudo_values(tap), dims=("other", "image"))
            ends.append(bootstrap.bounds(bootstrap.mean_draws(values, samples, seed)))
        low, high = (np.stack([bound.values for bound in side]) for side in zip(*ends, strict=True))
        return low, high


def alignment(blocks: Blocks) -> Alignment:
    """Linear CKA of all pairs of taps over the same n images, with the unbiased HSIC.

    CKA(X, Y) = HSIC(X, Y) / √(HSIC(X, X)·HSIC(Y, Y)), where for K̃ and L̃, the kernels XXᵀ and YYᵀ
    with zeros on their diagonals,
    HSIC = [tr K̃L̃ + 1ᵀK̃1·1ᵀL̃1 / ((n−1)(n−2)) − 2·1ᵀK̃L̃1 / (n−2)] / (n(n−3)).
    All in it are sums over images, so it is exact in channel² memory whatever the blocks; the mean
    of CKA over minibatches is another number.

    blocks: `blocks()` gives all images in turn, as blocks (tap, image, channel). It is called at
    least three times, and oftener where the sums of all pairs are beyond `SUM_BYTES`.
    NaN where a tap's features are the same for every image. At least `FEWEST_IMAGES` images. In
    float64 on the accelerator, if there is one; it agrees with the CPU to 1e-6.
    Source: Kornblith et al. 2019, section 3, with HSIC_1 of Song et al. 2012, equation 5.
    """
    taps = _Taps(lambda: ((block,) for block in blocks()))
    count = len(taps.shifts[0])
    rows = [_Row(0, tap, 0, slice(tap, None)) for tap in range(count)]
    hsic, without = np.empty((count, count)), np.empty((count, count, taps.images))
    for row, (value, value_without) in zip(rows, taps.hsic(rows), strict=True):
        hsic[row.tap, row.others] = hsic[row.others, row.tap] = value
        without[row.tap, row.others] = without[row.others, row.tap] = value_without
    own, own_without = (np.einsum("aa...->a...", of) for of in (hsic, without))
    constant = [*taps.constant, *taps.constant]
    return Alignment(
        _normalised(hsic, own, own, *constant),
        _normalised(without, own_without, own_without, *constant),
    )


def alignment_between(blocks: PairedBlocks) -> Alignment:
    """As `alignment`, of each tap of one model with each of another: (tap, other).

    blocks: `blocks()` gives all images in turn, as blocks (tap, image, channel) of either model, of
    any two numbers of taps and of channels.
    """
    taps = _Taps(blocks)
    firsts, seconds = (range(len(shift)) for shift in taps.shifts)
    own = [_Row(side, t, side, slice(t, t + 1)) for side in (0, 1) for t in (firsts, seconds)[side]]
    rows = [_Row(0, tap, 1, slice(None)) for tap in firsts]
    found = list(taps.hsic([*own, *rows]))
    # (row, other) and (row, other, image)
    alone, between = (
        [np.stack(values) for values in zip(*part, strict=True)]
        for part in (found[: len(own)], found[len(own) :])
    )
    first, second = zip(
        *((of[: len(firsts), 0], of[len(firsts) :, 0]) for of in alone), strict=True
    )
    return Alignment(
        *(
            _normalised(of, x, y, *taps.constant)
            for of, x, y in zip(between, first, second, strict=True)
        )
    )


@dataclass(frozen=True)
class _Row:
    """One tap of one side, and those of a side that it is held against."""

    side: int
    tap: int
    other_side: int
    others: slice


class _Taps:
    """The taps of one or two models, read block by block.

    shifts: the mean of each tap's first block (tap, 1, channel) of each side; HSIC is blind to an
    offset, which would only take digits from the sums. constant: whether a tap's features are the
    same for every image (tap,), of each side.
    """

    def __init__(self, blocks: Callable[[], Iterable[tuple[np.ndarray, ...]]]):
        self.blocks, self.device = blocks, float64_device()
        self.images, self.shifts, self.constant = 0, [], []
        spread, size = [], []
        for block in self._read():
            self.shifts = self.shifts or [x.mean(dim=1, keepdim=True) for x in block]
            self.images += block[0].shape[1]
            sides = zip(block, self.shifts, strict=True)
            spread.append([_energy(x - shift) for x, shift in sides])
            size.append([_energy(x) for x in block])
        for deviation, whole in zip(
            zip(*spread, strict=True), zip(*size, strict=True), strict=True
        ):
            self.constant.append((sum(deviation) <= CONSTANT**2 * sum(whole)).cpu().numpy())

    def _read(self) -> Iterator[list[torch.Tensor]]:
        for block in self.blocks():
            yield [torch.from_numpy(side).to(self.device).double() for side in block]

    def _shifted(self) -> Iterator[list[torch.Tensor]]:
        for block in self._read():
            yield [x - shift for x, shift in zip(block, self.shifts, strict=True)]

    def hsic(self, rows: list[_Row]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """HSIC of each row: of its tap with the others (other,), and without each image."""
        for group in progress(self._groups(rows), "alignment"):
            sums = [HsicSums() for _ in group]
            for block in self._shifted():
                for row, of in zip(group, sums, strict=True):
                    of.add(*self._taken(block, row))
            for block in self._shifted():
                for row, of in zip(group, sums, strict=True):
                    of.leave_out(*self._taken(block, row))
            for of in sums:
                yield of.hsic(), of.hsic_without()

    def _taken(self, block: list[torch.Tensor], row: _Row) -> tuple[torch.Tensor, torch.Tensor]:
        return block[row.side][row.tap], block[row.other_side][row.others]

    def _groups(self, rows: list[_Row]) -> list[list[_Row]]:
        """Rows whose sums are in memory together."""
        groups: list[list[_Row]] = []
        room = 0
        for row in rows:
            x, y = (self.shifts[side] for side in (row.side, row.other_side))
            size = 8 * x.shape[2] * y.shape[2] * len(y[row.others])
            if size > room:
                groups.append([])
                room = SUM_BYTES
            groups[-1].append(row)
            room -= size
        return groups


def _energy(x: torch.Tensor) -> torch.Tensor:
    return x.square().sum(dim=(1, 2))


def _normalised(
    hsic: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    first_constant: np.ndarray,
    second_constant: np.ndarray,
) -> np.ndarray:
    """hsic (tap, other, ...) over the root of those of the taps with themselves, (tap, ...)."""
    size, other_size = (
        np.sqrt(np.where((own > 0) & ~_along(constant, own), own, np.nan))
        for own, constant in ((first, first_constant), (second, second_constant))
    )
    return hsic / (size[:, None] * other_size)


def _along(constant: np.ndarray, own: np.ndarray) -> np.ndarray:
    return constant.reshape(-1, *[1] * (own.ndim - 1))
