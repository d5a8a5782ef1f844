"""Long arrays, written a whole chunk at a time.

One of the modules that know Zarr: encoding, chunks and store (writing), shards (reading).
"""

from collections.abc import Sequence
from itertools import product

import numpy as np
import zarr

from vitals.activations.encoding import Encoding
from vitals.errors import VitalsError

CHUNK_BYTES = 16 * 2**20
CHUNK_IMAGES = 512  # a chunk of each layer waits in memory until it is whole
ONE_A_CHUNK = ("layer", "block")


class Appender:
    """Gathers images of one array until a chunk of every layer is whole, in one buffer."""

    def __init__(
        self, array: zarr.Array, axis: int, name: str, encoding: Encoding, at_most: bool
    ) -> None:
        self.array, self.axis, self.name = array, axis, name
        self.encoding, self.at_most = encoding, at_most
        self.chunk, self.expected = array.chunks[axis], array.shape[axis]
        self.buffer = np.empty(0)
        self.waiting = self.written = 0

    def append(self, values: np.ndarray) -> None:
        count = self._checked_count(values)
        taken = 0
        while taken < count:
            size = min(self.chunk - self.waiting, count - taken)
            part = values[self._images(taken, taken + size)]
            taken += size
            if size == self.chunk:
                self._write(part)
                continue
            self._waiting_place(size)[...] = part
            self.waiting += size
            if self.waiting == self.chunk:
                self._write_buffer()

    def finish(self) -> None:
        images = self.written + self.waiting
        if images < self.expected and not self.at_most:
            raise VitalsError(f"{self.name}: {images} images written, expected {self.expected}")
        if images < self.expected:
            shape = list(self.array.shape)
            shape[self.axis] = images
            self.array.resize(tuple(shape))
        if self.waiting:
            self._write_buffer()
        self.buffer = np.empty(0)

    def _checked_count(self, values: np.ndarray) -> int:
        expected = list(self.array.shape)
        count = values.shape[self.axis] if values.ndim == len(expected) else 0
        expected[self.axis] = count
        if values.dtype != self.array.dtype or list(values.shape) != expected:
            raise VitalsError(
                f"{self.name}: got {values.dtype} {values.shape}, "
                f"expected {self.array.dtype} {tuple(expected)}"
            )
        if self.written + self.waiting + count > self.expected:
            raise VitalsError(
                f"{self.name}: {self.written + self.waiting + count} images, "
                f"expected {self.expected}"
            )
        return count

    def _waiting_place(self, size: int) -> np.ndarray:
        if not self.buffer.size:
            shape = list(self.array.shape)
            shape[self.axis] = self.chunk
            self.buffer = np.empty(shape, self.array.dtype)
        return self.buffer[self._images(self.waiting, self.waiting + size)]

    def _write_buffer(self) -> None:
        self._write(self.buffer[self._images(0, self.waiting)])
        self.waiting = 0

    def _write(self, values: np.ndarray) -> None:
        rounded = self.encoding.rounded(self.name, values)
        write_images(self.array, self.axis, self.written, rounded)
        self.written += values.shape[self.axis]

    def _images(self, start: int, stop: int) -> tuple[slice, ...]:
        return (*[slice(None)] * self.axis, slice(start, stop))


def write_images(array: zarr.Array, axis: int, start: int, values: np.ndarray) -> None:
    """Write a run of images from `start`, chunk by chunk, each of them whole and once.

    Raises VitalsError for a run that begins or ends within a chunk: to write part of a chunk is to
    read the rest of it, which another process may be writing.
    """
    stop, step = start + values.shape[axis], array.chunks[axis]
    whole = stop % step == 0 or stop == array.shape[axis]
    if start % step or not whole or stop > array.shape[axis]:
        raise VitalsError(
            f"{array.name}: images {start} to {stop} of {array.shape[axis]} are no whole chunks "
            f"of {step}: nothing is written"
        )
    sizes = zip(values.shape, array.chunks, strict=True)
    for place in product(*(range(0, size, chunk) for size, chunk in sizes)):
        part = tuple(slice(at, at + size) for at, size in zip(place, array.chunks, strict=True))
        chunk = values[part]
        region = [slice(at, at + size) for at, size in zip(place, chunk.shape, strict=True)]
        region[axis] = slice(start + place[axis], start + place[axis] + chunk.shape[axis])
        array[tuple(region)] = chunk


def chunk_shape(dims: Sequence[str], shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """One layer or block by at most 512 images and 16 MiB, and all of the other dims.

    The images are cut evenly, for the last chunk is stored as long as the others.

    >>> chunk_shape(("layer", "image", "token", "channel"), (14, 1000, 197, 384), 2)
    (1, 100, 197, 384)
    """
    sizes = {d: 1 if d in ONE_A_CHUNK else n for d, n in zip(dims, shape, strict=True)}
    image_bytes = itemsize * int(np.prod([n for d, n in sizes.items() if d != "image"]))
    most = min(CHUNK_IMAGES, max(1, CHUNK_BYTES // max(1, image_bytes)))
    chunks = max(1, -(-sizes["image"] // most))
    sizes["image"] = -(-sizes["image"] // chunks)
    return tuple(sizes[dim] for dim in dims)
