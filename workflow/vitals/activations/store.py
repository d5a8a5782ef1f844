"""The layout of a shard's store on disk. The only module that knows Zarr.

A shard is one Zarr v3 group: the arrays of each tier in a subgroup, with xarray's dimension names,
and in the root's attributes what it was made from and a digest of each array. It is written beside
its place and renamed when whole, so its root zarr.json exists exactly when the store is complete.
Arrays are chunked one layer (or block) by a run of images, with all tokens and channels; each chunk
ends with its CRC-32C; the fill value of a float is NaN.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import Crc32cCodec

from vitals.errors import VitalsError

CHUNK_BYTES = 16 * 2**20
ONE_A_CHUNK = ("layer", "block")
ROOT_FILE = "zarr.json"


class ShardWriter:
    """Arrays of a shard: whole ones put at once, long ones appended to along `image`."""

    def __init__(self, path: Path) -> None:
        self.root = zarr.create_group(path)
        self._appenders: dict[str, _Appender] = {}

    def put(self, name: str, dims: Sequence[str], values: np.ndarray) -> None:
        """Write a whole array: `name` is "group/variable"."""
        array = self._create(name, dims, values.shape, values.dtype, values.shape)
        array[...] = values.astype(object) if values.dtype.kind == "U" else values

    def put_coordinate(self, name: str, dims: Sequence[str], values: np.ndarray) -> None:
        """Write a whole array that readers take as a coordinate of its group."""
        self.put(name, dims, values)
        group, variable = name.split("/")
        attributes = self.root[group].attrs
        attributes["coordinates"] = f"{attributes.get('coordinates', '')} {variable}".strip()

    def declare(
        self, name: str, dims: Sequence[str], shape: Sequence[int], dtype: np.dtype | str
    ) -> None:
        """Create an array that `append` fills; one of its dims is `image`."""
        chunks = chunk_shape(dims, shape, np.dtype(dtype).itemsize)
        array = self._create(name, dims, shape, np.dtype(dtype), chunks)
        self._appenders[name] = _Appender(array, list(dims).index("image"), name)

    def append(self, name: str, values: np.ndarray) -> None:
        """The next images of a declared array; whole chunks are written as they fill."""
        self._appenders[name].append(values)

    def finish(self) -> None:
        """Write what is left; raises VitalsError where an array got too few images."""
        for appender in self._appenders.values():
            appender.finish()

    def _create(
        self,
        name: str,
        dims: Sequence[str],
        shape: Sequence[int],
        dtype: np.dtype,
        chunks: Sequence[int],
    ) -> zarr.Array:
        text = dtype.kind == "U"
        return self.root.create_array(
            name,
            shape=tuple(shape),
            dtype=str if text else dtype,
            chunks=tuple(max(1, size) for size in chunks),
            dimension_names=list(dims),
            fill_value=np.nan if dtype.kind == "f" else None,
            compressors=[Crc32cCodec()],
            # comparing each chunk with the fill value would take most of the time of a write
            config={"write_empty_chunks": True},
        )


class _Appender:
    """Gathers images of one array until a chunk is whole: no chunk is ever written twice."""

    def __init__(self, array: zarr.Array, axis: int, name: str) -> None:
        self.array, self.axis, self.name = array, axis, name
        self.chunk = array.chunks[axis]
        self.waiting: list[np.ndarray] = []
        self.written = 0

    def append(self, values: np.ndarray) -> None:
        self.waiting.append(values)
        while self._gathered() >= self.chunk:
            self._write(self.chunk)

    def finish(self) -> None:
        if self._gathered():
            self._write(self._gathered())
        expected = self.array.shape[self.axis]
        if self.written != expected:
            raise VitalsError(f"{self.name}: {self.written} images written, expected {expected}")

    def _gathered(self) -> int:
        return sum(values.shape[self.axis] for values in self.waiting)

    def _write(self, count: int) -> None:
        gathered = np.concatenate(self.waiting, axis=self.axis)
        now, later = np.split(gathered, [count], axis=self.axis)
        region = [slice(None)] * now.ndim
        region[self.axis] = slice(self.written, self.written + count)
        self.array[tuple(region)] = now
        self.written += count
        self.waiting = [later] if later.shape[self.axis] else []


def chunk_shape(dims: Sequence[str], shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """One layer or block by as many images as make about 16 MiB, and all of the other dims.

    >>> chunk_shape(("layer", "image", "token", "channel"), (14, 5000, 197, 384), 2)
    (1, 110, 197, 384)
    """
    sizes = {d: 1 if d in ONE_A_CHUNK else n for d, n in zip(dims, shape, strict=True)}
    image_bytes = itemsize * int(np.prod([n for d, n in sizes.items() if d != "image"]))
    sizes["image"] = min(sizes["image"], max(1, CHUNK_BYTES // max(1, image_bytes)))
    return tuple(sizes[dim] for dim in dims)


@contextmanager
def new_shard(path: Path, provenance: dict[str, Any]) -> Iterator[ShardWriter]:
    """Write a shard that appears at `path` when the block ends, whole, or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    try:
        writer = ShardWriter(partial)
        yield writer
        writer.finish()
        writer.root.attrs.update({"provenance": provenance, "digests": _digests(partial)})
        _sync(partial)
        # a stale shard goes, its root file first: what is left of it is never taken as whole
        (path / ROOT_FILE).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def open_group(path: Path, group: str) -> xr.Dataset | None:
    """One tier of a whole shard as a lazy dataset; None where the shard has no such tier.

    Raises VitalsError for a shard that lacks an array or a chunk that was written.
    """
    recorded = {name for name in _recorded(path, "digests") if name.split("/")[0] == group}
    if not recorded:
        return None
    missing = sorted(name for name in recorded if not (path / name / ROOT_FILE).is_file())
    if missing:
        raise VitalsError(f"{path} lacks {', '.join(missing)}")
    for name, array in zarr.open_group(path / group, mode="r").arrays():
        if array.nchunks_initialized != array.nchunks:
            raise VitalsError(
                f"{path}: {group}/{name} has {array.nchunks_initialized} of {array.nchunks} chunks"
            )
    dataset = xr.open_zarr(path, group=group, consolidated=False)
    # coordinates are small: read now, and with the text type that netCDF and indexing know
    values = {n: c.values for n, c in dataset.coords.items()}
    text = {n: np.array(v.tolist()) for n, v in values.items() if v.dtype.kind == "T"}
    return dataset.assign_coords({n: (dataset[n].dims, v) for n, v in {**values, **text}.items()})


def shards(path: Path) -> list[Path]:
    """The shards of a model in order, from its folder, its activations folder or one of them.

    Raises VitalsError where there is none, and where a folder lacks one before its last.
    """
    path = path.parent if path.name == ROOT_FILE else path
    if path.suffix == ".zarr":
        return [path]
    folder = path if path.name == "activations" else path / "activations"
    found = sorted(folder.glob("[0-9]*.zarr"), key=lambda shard: int(shard.stem))
    if not found:
        raise VitalsError(f"no shards at {folder}: expected {folder / '0.zarr'}")
    for number, shard in enumerate(found):
        if int(shard.stem) != number:
            raise VitalsError(f"{folder} lacks {number}.zarr")
    return found


def provenance(path: Path) -> dict[str, Any]:
    """What a shard was made from: settings, code, digests of weights and images, versions.

    Raises VitalsError for a shard that is not whole.
    """
    return _recorded(path, "provenance")


def torn_arrays(path: Path) -> list[str]:
    """The arrays and groups of a shard whose content is not what was written."""
    recorded = _recorded(path, "digests")
    found = _digests(path)
    return sorted(n for n in recorded.keys() | found if recorded.get(n) != found.get(n))


def _recorded(path: Path, attribute: str) -> dict[str, Any]:
    if not (path / ROOT_FILE).is_file():
        raise VitalsError(f"{path} is not a whole shard: it has no {ROOT_FILE}")
    attributes = zarr.open_group(path, mode="r").attrs
    if attribute not in attributes:
        raise VitalsError(f"{path} is not a shard of ViTals: its root has no {attribute}")
    return attributes[attribute]


def _digests(path: Path) -> dict[str, str]:
    """A digest of each group and array: over the names and bytes of its own files, in order."""
    nodes = {file.parent for file in path.glob(f"*/**/{ROOT_FILE}")}
    return {str(node.relative_to(path)): _node_digest(node) for node in sorted(nodes)}


def _node_digest(folder: Path) -> str:
    chunks = sorted(file for file in (folder / "c").rglob("*") if file.is_file())
    digest = hashlib.sha256()
    for file in (folder / ROOT_FILE, *chunks):
        digest.update(str(file.relative_to(folder)).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _sync(path: Path) -> None:
    """Zarr does not wait for the disk: without this a rename can outlive what it names."""
    for file in [path, *path.rglob("*")]:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
