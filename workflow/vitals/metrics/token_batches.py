"""Tokens of one tap in torch, a few images at a time, where they are computed on."""

from collections.abc import Iterator

import numpy as np
import torch
import xarray as xr

from vitals.metrics import axes
from vitals.metrics.accelerator import float64_device

# Numbers at a time: what a core keeps in its cache, and what keeps an accelerator busy.
NUMBERS_ON_CPU = 2**19
NUMBERS_ON_ACCELERATOR = 2**26


def batches(tokens: xr.DataArray, taken: np.ndarray) -> Iterator[torch.Tensor]:
    """The taken tokens of one tap, (image, token, channel), in float32, or float64 if stored so.

    tokens (image, token, channel) in any order of dims; taken: positions along `token`. Each chunk
    of the store is read once, and what is cast is a small part of it.
    Raises VitalsError for a number that is not finite.
    """
    where, chosen = float64_device(), _as_slice(taken)
    for _, values in axes.image_blocks(tokens.transpose("image", "token", "channel")):
        stored = torch.from_numpy(np.require(values[:, chosen], requirements="W"))
        yield from _few_images(stored, where)


def of_state(state: torch.Tensor, taken: np.ndarray) -> Iterator[torch.Tensor]:
    """The same of a state (image, token, channel) that a pass has on its device."""
    where = torch.device("cpu") if state.device.type == "mps" else state.device
    chosen = _as_slice(taken)
    if not isinstance(chosen, slice):
        chosen = torch.from_numpy(chosen).to(state.device)
    yield from _few_images(state[:, chosen], where)


def _few_images(tokens: torch.Tensor, where: torch.device) -> Iterator[torch.Tensor]:
    numbers = NUMBERS_ON_CPU if where.type == "cpu" else NUMBERS_ON_ACCELERATOR
    images = max(1, numbers // (tokens.shape[1] * tokens.shape[2]))
    dtype = torch.promote_types(tokens.dtype, torch.float32)
    for part in tokens.split(images):
        yield part.to(where).to(dtype)


def _as_slice(positions: np.ndarray) -> slice | np.ndarray:
    """Neighbouring positions as a slice, which copies nothing."""
    run = slice(int(positions[0]), int(positions[-1]) + 1)
    whole = np.array_equal(positions, np.arange(run.start, run.stop))
    return run if whole else positions
