"""Writing a shard's store on disk: whole and durable, or not there at all.

One of the modules that know Zarr: encoding, chunks and store (writing), shards (reading).

A shard is one Zarr v3 group: the arrays of each tier in a subgroup, with xarray's dimension names,
and in the root's attributes what it was made from and digests of its files. It is written beside
its place and renamed when whole, so its root zarr.json exists exactly when the store is complete.
Arrays are chunked one layer (or block) by a run of images, with all tokens and channels; each chunk
ends with its CRC-32C; the fill value of a float is NaN.
"""

import asyncio
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

from vitals.activations.chunks import Appender, chunk_shape
from vitals.activations.claim import check_space, claimed
from vitals.activations.direct import DirectWriter
from vitals.activations.encoding import Encoding
from vitals.activations.integrity import ABSENT, DIGESTS, ROOT_FILE, digests, torn_arrays
from vitals.activations.shards import open_group, provenance, shards
from vitals.errors import VitalsError

__all__ = [
    "ROOT_FILE",
    "Encoding",
    "ShardWriter",
    "new_shard",
    "open_group",
    "placed",
    "provenance",
    "shards",
    "torn_arrays",
]

SYNCS_AT_ONCE = 8  # the disk commits what waits together


class ShardWriter:
    """Arrays of a shard: whole ones put at once, long ones appended to along `image`."""

    def __init__(self, path: Path, encoding: Encoding) -> None:
        self.root = zarr.create_group(_DiskStore(path))
        self.encoding = encoding
        self.notes: dict[str, Any] = {}
        self._appenders: dict[str, Appender] = {}

    def put(self, name: str, dims: Sequence[str], values: np.ndarray) -> None:
        """Write a whole array: `name` is "group/variable"."""
        plain = [Crc32cCodec()]
        array = self._create(name, dims, values.shape, values.dtype, values.shape, plain)
        array[...] = values.astype(object) if values.dtype.kind == "U" else values

    def put_coordinate(self, name: str, dims: Sequence[str], values: np.ndarray) -> None:
        """Write a whole array that readers take as a coordinate of its group."""
        self.put(name, dims, values)
        group, variable = name.split("/")
        attributes = self.root[group].attrs
        attributes["coordinates"] = f"{attributes.get('coordinates', '')} {variable}".strip()

    def declare(
        self,
        name: str,
        dims: Sequence[str],
        shape: Sequence[int],
        dtype: np.dtype | str,
        at_most: bool = False,
        lossy: bool = False,
    ) -> None:
        """Create an array that `append` fills; one of its dims is `image`.

        at_most: fewer images may come, and the array is then shortened to them; lossy: its values
        may be rounded, if the encoding rounds. Raises VitalsError for a type that cannot be.
        """
        dtype = np.dtype(dtype)
        encoding = self.encoding if lossy else Encoding(self.encoding.codec)
        encoding.check(name, dtype)
        chunks = chunk_shape(dims, shape, dtype.itemsize)
        array = self._create(name, dims, shape, dtype, chunks, encoding.codecs(dtype))
        axis = list(dims).index("image")
        self._appenders[name] = Appender(array, axis, name, encoding, at_most)

    def append(self, name: str, values: np.ndarray) -> None:
        """The next images of a declared array; whole chunks are written as they fill.

        values: of the declared type, and free to be overwritten afterwards. Raises VitalsError for
        another type or shape, and for more images than were declared.
        """
        self._appenders[name].append(values)

    def note(self, key: str, value: Any) -> None:
        """Add to the provenance what is only known when the images have passed."""
        self.notes[key] = value

    def absent(self, group: str, name: str, reason: str) -> None:
        """Say why a variable is not in a group, to whoever opens it."""
        attributes = self.root.require_group(group).attrs
        attributes[ABSENT] = {**attributes.get(ABSENT, {}), name: reason}

    def finish(self) -> None:
        """Write what is left; raises VitalsError where arrays do not have the images they should.

        An array that got too few is one; so is a group whose arrays differ in a dim.
        """
        for appender in self._appenders.values():
            appender.finish()
        for _, group in self.root.groups():
            _check_dims(group)

    def _create(
        self,
        name: str,
        dims: Sequence[str],
        shape: Sequence[int],
        dtype: np.dtype,
        chunks: Sequence[int],
        codecs: list[Any],
    ) -> zarr.Array:
        text = dtype.kind == "U"
        return self.root.create_array(
            name,
            shape=tuple(shape),
            dtype=str if text else dtype,
            chunks=tuple(max(1, size) for size in chunks),
            dimension_names=list(dims),
            fill_value=np.nan if dtype.kind == "f" else None,
            compressors=codecs,
            # comparing each chunk with the fill value would take most of the time of a write
            config={"write_empty_chunks": True},
        )


class _DiskStore(LocalStore):
    """Zarr's own, but for large files, which go straight to the disk where that is possible."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._direct = DirectWriter()

    async def set(self, key: str, value: Buffer) -> None:
        path, content = self.root / key, memoryview(value.as_buffer_like())
        if not await asyncio.to_thread(self._direct.write, path, content):
            await super().set(key, value)


@contextmanager
def new_shard(
    path: Path,
    provenance: dict[str, Any],
    encoding: Encoding | None = None,
    expects_bytes: int | None = None,
) -> Iterator[ShardWriter]:
    """Write a shard that appears at `path` when the block ends, whole, or not at all.

    provenance: what it is made from; expects_bytes: what it will take of the disk, if known.
    Raises VitalsError where another run is writing it, and where the disk has too little room.
    """
    encoding = encoding or Encoding()
    with placed(path, expects_bytes or 0) as partial:
        writer = ShardWriter(partial, encoding)
        yield writer
        writer.finish()
        attributes = {
            "provenance": {**provenance, **writer.notes},
            "encoding": asdict(encoding),
        }
        recorded = digests(partial, attributes)
        writer.root.attrs.update({**attributes, DIGESTS: recorded})


@contextmanager
def placed(path: Path, expects_bytes: int) -> Iterator[Path]:
    """A folder to fill that becomes the shard at `path` when the block ends, or goes again.

    Raises VitalsError as `new_shard` does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with claimed(path):
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        check_space(path.parent, expects_bytes)
        try:
            yield partial
            _sync(partial)
            # a stale shard goes, its root file first: what is left of it is never taken as whole
            (path / ROOT_FILE).unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)
            partial.rename(path)
            _sync_one(path.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _check_dims(group: zarr.Group) -> None:
    sizes: dict[str, tuple[int, str]] = {}
    for name, array in sorted(group.arrays()):
        for dim, size in zip(array.metadata.dimension_names, array.shape, strict=True):
            known, other = sizes.setdefault(dim, (size, name))
            if size != known:
                raise VitalsError(
                    f"{group.name}: {size} along {dim} in {name}, and {known} in {other}"
                )


def _sync(path: Path) -> None:
    """Zarr does not wait for the disk: without this a rename can outlive what it names."""
    with ThreadPoolExecutor(SYNCS_AT_ONCE) as pool:
        for _ in pool.map(_sync_one, [path, *path.rglob("*")]):
            pass


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
