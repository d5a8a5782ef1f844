"""Passes that a measurement is held against: on images of shuffled patches, or without attention.

>>> pictures = [np.full((1, 4, 4), float(number)) for number in range(5)]
>>> split = np.array(["fit", "fit", "fit", "test", "test"])
>>> shuffled = list(with_shuffled_patches(pictures, split, grid=(2, 2)))
>>> sorted({x[0, 0, 0] for x in shuffled[:3]}), sorted({x[0, 0, 0] for x in shuffled[3:]})
([np.float64(0.0), np.float64(1.0), np.float64(2.0)], [np.float64(3.0), np.float64(4.0)])
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from vitals.models import interventions
from vitals.models.anatomy import Anatomy

PATCH_SHUFFLED, ATTENTION_OFF = "patch_shuffled", "attention_off"
VARIANTS = (PATCH_SHUFFLED, ATTENTION_OFF)
SEED = 0
Images = Iterable[np.ndarray | None]


@dataclass(frozen=True)
class Variant:
    """What is another than in a plain pass.

    arrange: gives other images for those of a shard, in the order of their places; attend: is
    called in the place of fused attention; absent: why a model has no such pass.
    """

    arrange: Callable[[Images], Images] | None = None
    attend: Callable | None = None
    absent: str | None = None


PLAIN = Variant()


def variant_of(name: str | None, body: Anatomy, split: np.ndarray) -> Variant:
    """The variant of a name (None: a plain pass), for a model and the splits of a shard."""
    if name == ATTENTION_OFF:
        return Variant(attend=interventions.own_value, absent=body.attention_absent)
    if name == PATCH_SHUFFLED:
        _, height, width = body.image_shape
        rows, columns = body.grid
        if height % rows or width % columns:
            reason = f"images of {height} × {width} do not part into {rows} × {columns} patches"
            return Variant(absent=reason)
        return Variant(arrange=partial(with_shuffled_patches, split=split, grid=body.grid))
    return PLAIN


def with_shuffled_patches(
    images: Images, split: np.ndarray, grid: tuple[int, int]
) -> Iterator[np.ndarray | None]:
    """Images whose patches come each from another image of the same split, from the same position.

    Each position keeps the patches that it had, and what those of one image had in common is gone.
    images: of a shard, (channel, row, column) each, None where one is left out, all in memory at
    once; split (image,). The same images give the same.
    """
    found = list(images)
    random = np.random.default_rng(SEED)
    for name in np.unique(split):
        places = [at for at in np.flatnonzero(split == name) if found[at] is not None]
        if not places:
            continue
        whole = np.stack([found[at] for at in places])  # (image, channel, row, column)
        height, width = (size // parts for size, parts in zip(whole.shape[2:], grid, strict=True))
        for row in range(grid[0]):
            for column in range(grid[1]):
                patch = np.s_[
                    :, :, row * height : (row + 1) * height, column * width : (column + 1) * width
                ]
                whole[patch] = whole[patch][random.permutation(len(places))]
        for at, image in zip(places, whole, strict=True):
            found[at] = image
    yield from found
