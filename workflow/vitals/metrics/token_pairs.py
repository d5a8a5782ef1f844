"""Pairs (x, z) of patch tokens, block by block of images: a tap, or noise, against the embedding.

A tap is gone through twice, in the order of its images: for its means and its spread over the fit
split, and to be kept centred per position, in a basis in which the fit is well-conditioned. Every
family of linear maps is blind to the basis. Blocks are (token, image, channel), so that mixing
tokens and mapping channels are each one matrix product.

What is kept is in memory up to `MEMORY_BYTES` a tap, and beyond that in a scratch file that the
system pages in and out.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from vitals.errors import VitalsError

BLOCK_NUMBERS = 2**23  # of a block of inputs: 64 MB in float64
MEMORY_BYTES = 2**31
READ_AT_ONCE = 2**28  # bytes of a tap as it is stored, up to which it is read once
# Directions of channels with less than this share of the largest variance are linear in others.
COLLINEAR = 1e-10


class TapTokens:
    """The patch tokens of one tap, then those that are context alone."""

    def __init__(self, tokens: xr.DataArray):
        array = tokens.transpose("image", "token", "channel")
        self.array = array.compute() if array.nbytes <= READ_AT_ONCE else array
        self.places, self.channels = self.array.shape[1:]

    def read(self, images: np.ndarray) -> np.ndarray:
        """(image, token, channel) of these images; a VitalsError names what is not finite."""
        values = self.array.isel(image=images).values
        finite = np.isfinite(values).all(axis=(1, 2))
        if not finite.all():
            one = self.array.isel(image=int(images[np.argmin(finite)]))
            image = one["image_id"].item() if "image_id" in one.coords else images[finite.argmin()]
            raise VitalsError(
                f"layer '{one['layer'].item()}', image {image}: the tokens hold NaN or infinity, "
                "expected finite numbers"
            )
        return values


class NoiseTokens:
    """Standard normal noise in the shape of a tap, the same for an image at every reading."""

    def __init__(self, places: int, channels: int, seed: int):
        self.places, self.channels, self.seed = places, channels, seed

    def read(self, images: np.ndarray) -> np.ndarray:
        """(image, token, channel) of these images."""
        shape = (self.places, self.channels)
        generators = (np.random.default_rng([self.seed, image]) for image in images)
        return np.stack([generator.standard_normal(shape) for generator in generators])


Tokens = TapTokens | NoiseTokens


@dataclass(frozen=True)
class Spread:
    """Of tokens over some images: their mean at each place, and how channels vary about it."""

    mean: Tensor  # (place, channel)
    covariance: Tensor  # (channel, channel), over images and places

    def whitening(self) -> Tensor:
        """(channel, k): channels to k ≤ channel directions of unit variance."""
        deviation = self.covariance.diagonal().sqrt()
        scale = 1 / torch.where(deviation > 0, deviation, 1.0)
        variances, directions = torch.linalg.eigh(self.covariance * scale * scale[:, None])
        kept = variances > COLLINEAR * variances[-1]
        if not kept.any():  # nothing varies
            return torch.zeros_like(directions[:, :1])
        return scale[:, None] * directions[:, kept] / variances[kept].sqrt()

    @cached_property
    def principal(self) -> tuple[Tensor, Tensor]:
        """Variances along the principal channels (channel,), and the rotation onto them."""
        variances, rotation = torch.linalg.eigh(self.covariance)
        return variances.clamp(min=0), rotation


def spread(tokens: Tokens, images: np.ndarray, device: torch.device) -> Spread:
    """Means and covariance over these images, from sums shifted by the first images' means."""
    shift, total, gram = None, 0.0, 0.0
    for _, values in _readings(tokens, images, device):
        shift = values.mean(dim=0) if shift is None else shift
        centred = values - shift
        total = total + centred.sum(dim=0)
        flat = centred.reshape(-1, tokens.channels)
        gram = gram + flat.T @ flat
    offset = total / images.size
    covariance = gram / images.size - offset.T @ offset
    return Spread(shift + offset, covariance / tokens.places)


def _readings(
    tokens: Tokens, images: np.ndarray, device: torch.device
) -> Iterator[tuple[slice, Tensor]]:
    """Runs of images in the order of the store, in float64."""
    step = block_images(tokens.places, tokens.channels)
    for start in range(0, images.size, step):
        run = slice(start, min(start + step, images.size))
        yield run, torch.from_numpy(tokens.read(images[run])).to(device).to(torch.float64)


Stack = list[Tensor]  # of (token, image, channel)


def gathered(
    tokens: Tokens,
    groups: Sequence[np.ndarray],
    mean: Tensor,
    basis: Tensor,
    dtype: torch.dtype,
) -> list[Stack]:
    """The tokens of each group of images, centred, in the channels of a basis.

    groups: disjoint sorted positions along `image`; basis (channel, k).
    """
    device, channels = mean.device, basis.shape[1]
    stacks = empty(sizes(groups), tokens.places, channels, dtype, device)
    images, owners = np.concatenate(groups), np.repeat(np.arange(len(groups)), sizes(groups))
    columns = np.concatenate([np.arange(group.size) for group in groups])
    order = np.argsort(images)
    images, owners, columns = images[order], owners[order], columns[order]
    size = block_images(tokens.places, channels)
    blocks = columns // size
    for run, values in _readings(tokens, images, device):
        moved = ((values - mean) @ basis).to(dtype).transpose(0, 1)
        for owner, block in sorted(set(zip(owners[run], blocks[run], strict=True))):
            chosen = np.flatnonzero((owners[run] == owner) & (blocks[run] == block))
            target = stacks[owner][block]
            target[:, columns[run][chosen] - block * size] = moved[:, chosen].to(target.device)
    return stacks


def sizes(groups: Sequence[np.ndarray]) -> list[int]:
    """Images of each group."""
    return [group.size for group in groups]


def block_images(places: int, channels: int) -> int:
    """Images of a block."""
    return max(1, BLOCK_NUMBERS // (places * channels))


def empty(
    images: Sequence[int], places: int, channels: int, dtype: torch.dtype, device: torch.device
) -> list[Stack]:
    """Stacks of so many images each, in memory or, where they are too large, in a scratch file."""
    in_memory = sum(images) * places * channels * dtype.itemsize <= _memory_bytes(device)

    def block(count: int) -> Tensor:
        shape = (places, count, channels)
        if in_memory:
            return torch.empty(shape, dtype=dtype, device=device)
        number = torch.empty(0, dtype=dtype).numpy().dtype
        with tempfile.TemporaryFile() as file:  # gone from the disk with the last reference
            return torch.from_numpy(np.memmap(file, number, mode="w+", shape=shape))

    step = block_images(places, channels)
    return [[block(min(step, n - start)) for start in range(0, n, step)] for n in images]


def _memory_bytes(device: torch.device) -> int:
    """A quarter of what an accelerator has left: embedding, tap, noise and both make four."""
    return torch.cuda.mem_get_info(device)[0] // 4 if device.type == "cuda" else MEMORY_BYTES


@dataclass(frozen=True)
class Pairs:
    """x and z of one group of images."""

    inputs: Stack
    targets: Stack
    unchanged: Tensor  # (D, E): the map of channels that leaves them as they are

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(x, z), (place, image, channel) and (token, image, channel)."""
        for x, z in zip(self.inputs, self.targets, strict=True):
            yield x.to(self.unchanged.device), z.to(self.unchanged.device)

    @cached_property
    def own_products(self) -> tuple[Tensor, Tensor, float]:
        """Σ x xᵀ and Σ x zᵀ over images and tokens, and Σ z², in float64."""
        gram, cross, energy = 0.0, 0.0, 0.0
        for x, z in self.blocks():
            own, flat = x[: len(z)].reshape(-1, x.shape[2]), z.reshape(-1, z.shape[2])
            gram, cross = gram + (own.T @ own).double(), cross + (own.T @ flat).double()
            energy += flat.double().square().sum().item()
        return gram, cross, energy
