"""Prepared images in batches that fit the device."""

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from vitals.errors import VitalsError
from vitals.models.anatomy import Anatomy

Found = TypeVar("Found")
MOST_IMAGES = 256
# What a batch may take: on a CPU about what keeps the pass near the caches, on an accelerator a
# share of what is free.
CPU_BYTES = 2**28
SHARE_OF_FREE = 0.25
STATES_AT_WORK = 20  # of one image at once inside a block, besides those that the taps keep


@dataclass(frozen=True)
class Batch:
    """Some images of a shard: places in it, and pixels (image, channel, row, column)."""

    places: np.ndarray
    pixels: torch.Tensor

    def __len__(self) -> int:
        return len(self.places)

    def split(self, size: int) -> "list[Batch]":
        """The same images in batches of at most `size`."""
        return [
            Batch(self.places[start : start + size], self.pixels[start : start + size])
            for start in range(0, len(self), size)
        ]


def batches(
    prepared: Iterable[np.ndarray | None], size: int, device: torch.device
) -> Iterator[Batch]:
    """Batches of `size` images in order; an image that is None is left out.

    For an accelerator, pixels are in pinned memory, so that their copy need not be waited for.
    """
    places: list[int] = []
    arrays: list[np.ndarray] = []
    for place, array in enumerate(prepared):
        if array is not None:
            places.append(place)
            arrays.append(array)
        if len(places) == size:
            yield _batch(places, arrays, device)
            places, arrays = [], []
    if places:
        yield _batch(places, arrays, device)


def _batch(places: list[int], arrays: list[np.ndarray], device: torch.device) -> Batch:
    pixels = torch.from_numpy(np.stack(arrays))
    return Batch(np.array(places), pixels.pin_memory() if device.type == "cuda" else pixels)


def fitting_size(body: Anatomy, layers: int, device: torch.device) -> int:
    """Images of a batch: as many as memory lets pass at once, by the size of a model's states."""
    image_bytes = 4 * len(body.kinds) * body.channels * (layers + STATES_AT_WORK)
    room = CPU_BYTES
    if device.type == "cuda":
        room = int(torch.cuda.mem_get_info(device)[0] * SHARE_OF_FREE)
    return max(1, min(MOST_IMAGES, room // image_bytes))


class Fitting:
    """Runs batches, in smaller ones from where the device's memory was too small for one."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(
        self, run: Callable[[Batch], Found], batch: Batch
    ) -> Iterator[tuple[Batch, Found]]:
        """Each batch that was run, and what came of it.

        Raises VitalsError where a single image does not fit.
        """
        waiting = batch.split(self.size)
        while waiting:
            found = self._attempt(run, waiting[0])
            if found is None:
                waiting = [part for old in waiting for part in old.split(self.size)]
            else:
                yield waiting.pop(0), found

    def _attempt(self, run: Callable[[Batch], Found], batch: Batch) -> Found | None:
        """What a run gives, or None and half the size where it found no memory."""
        try:
            return run(batch)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            if len(batch) == 1:
                raise VitalsError("the device's memory is too small for one image") from error
        # here the error, and with it the tensors of the pass that failed, is gone
        self.size = len(batch) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        print(f"out of memory: batches of {self.size} from here", file=sys.stderr, flush=True)
        return None


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)
