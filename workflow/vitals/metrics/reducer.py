"""What a token metric keeps of each image, found alike from a store and inside a forward pass.

A reducer is updated with tap after tap of some images, merged with those of the images that follow,
and finished into a dataset of values an image. A metric makes its result of that dataset alone, so
that neither batches nor shards change it.
"""

from collections.abc import Mapping
from copy import copy
from functools import partial

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from vitals.metrics import axes, workers
from vitals.metrics.accelerator import float64_device
from vitals.metrics.results import absences, mark_absent
from vitals.metrics.token_batches import batches, of_state
from vitals.progress import progress

# float64 numbers of attention in memory at a time, 32 MiB (and a few working copies)
NUMBERS_PER_BLOCK = 2**22
KEPT_COORDINATES = ("layer", "block", "image", "token")


class Reducer:
    """Values of each image, by the places (taps, or blocks) where they were found.

    taken: positions along `token` of what it reads of a tap; none where it reads no tokens;
    reads_attention: whether it reads the attention of each block; attrs: what it says of its values
    besides.
    """

    taken: np.ndarray
    reads_attention = False
    attrs: Mapping[str, float]

    def __init__(self) -> None:
        self._names: dict[str, tuple[str, ...]] = {}  # of the variables, by the dim of their places
        # by the dim of their places, then by place, in order of images: (variable, image)
        self._found: dict[str, dict[str, list[np.ndarray | Tensor]]] = {}

    def update_tokens(self, tap: str, x: Tensor) -> None:
        """The taken tokens of the next images at a tap: (image, token, channel)."""
        raise NotImplementedError

    def update_attention(self, block: str, maps: Tensor) -> None:
        """The head-mean attention of the images in the next block: (image, query, key)."""
        raise NotImplementedError

    def update_state(self, tap: str, state: Tensor) -> None:
        """All tokens of the images of a pass at a tap, on its device: (image, token, channel)."""
        if self.taken.size:
            for x in of_state(state, self.taken):
                self.update_tokens(tap, x)

    def keep(self, dim: str, place: str, values: Mapping[str, Tensor]) -> None:
        """Keep values of the next images, (image,) each, at a place along a dim."""
        self._names[dim] = tuple(values)
        stacked = torch.stack([value.double() for value in values.values()])
        self._found.setdefault(dim, {}).setdefault(place, []).append(stacked)

    def empty(self) -> "Reducer":
        """One of the same kind that has seen nothing, for other images."""
        other = copy(self)
        Reducer.__init__(other)
        return other

    def merge(self, other: "Reducer") -> None:
        """Add what another has found of the images that follow."""
        other.settle()
        self._names |= other._names
        for dim, places in other._found.items():
            for place, values in places.items():
                self._found.setdefault(dim, {}).setdefault(place, []).extend(values)

    def settle(self) -> None:
        """Bring what was found into the memory of the host, one array a place."""
        for places in self._found.values():
            for place, values in places.items():
                if len(values) > 1 or torch.is_tensor(values[0]):
                    places[place] = [np.concatenate([_on_host(v) for v in values], axis=1)]

    def finish(self, about: xr.Dataset) -> xr.Dataset:
        """The values with the labels of taps, images and tokens, and the reasons of what is absent.

        about: a dataset that has these: the token tier, or coordinates and `attrs` alone. Variables
        are (layer, image) or (block, image), or (image) where they have one place alone, "".
        """
        coords = {n: c for n, c in about.coords.items() if set(c.dims) <= set(KEPT_COORDINATES)}
        result = xr.Dataset(coords=coords, attrs=dict(self.attrs))
        self.settle()
        for dim, places in self._found.items():
            values = np.stack([np.concatenate(of, axis=1) for of in places.values()])
            dims = ("image",) if list(places) == [""] else (dim, "image")
            for index, name in enumerate(self._names[dim]):
                found = values[:, index]
                result[name] = dims, found if len(dims) > 1 else found[0]
        for name, reason in absences(about).items():
            mark_absent(result, name, reason)
        return result


def _on_host(values: np.ndarray | Tensor) -> np.ndarray:
    return values.cpu().numpy() if torch.is_tensor(values) else values


def over_tokens(reducer: Reducer, tokens: xr.DataArray, what: str) -> None:
    """The reducer sees every tap of stored tokens (layer, image, token, channel), one in memory."""
    taps = [(index, tokens.isel(layer=index)) for index in range(tokens.sizes["layer"])]
    parts = workers.each(partial(_of_tap, reducer.empty()), taps)
    for part in progress(parts, what, len(taps)):
        reducer.merge(part)


def _of_tap(reducer: Reducer, place: tuple[int, xr.DataArray]) -> Reducer:
    """What a reducer that has seen nothing finds of a tap, the index-th of the store."""
    index, tap = place
    part = reducer.empty()
    name = str(tap["layer"].values) if "layer" in tap.coords else str(index)
    for x in batches(tap, part.taken):
        part.update_tokens(name, x)
    part.settle()
    return part


def over_attention(reducer: Reducer, attention: xr.DataArray, what: str) -> None:
    """The reducer sees every block of stored attention (block, image, query, key)."""
    ordered = attention.transpose("block", "image", "query", "key")
    images_per_block = max(1, NUMBERS_PER_BLOCK // ordered.sizes["key"] ** 2)
    parts: dict[
        int, Reducer
    ] = {}  # what a reducer knows of images in one block it uses in the next
    for index in progress(range(ordered.sizes["block"]), what):
        maps = ordered.isel(block=index)
        name = str(maps["block"].values) if "block" in maps.coords else str(index)
        for images, values in axes.image_blocks(maps, images_per_block):
            part = parts.setdefault(images.start, reducer.empty())
            stored = torch.from_numpy(np.require(values, requirements="W"))
            part.update_attention(name, stored.to(float64_device()))
            part.settle()
    for part in parts.values():
        reducer.merge(part)
