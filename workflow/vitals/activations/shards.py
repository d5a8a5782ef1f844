"""The whole shards of a model, found, checked and opened lazily.

One of the modules that know Zarr: encoding, chunks and store (writing), shards (reading).
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from vitals.activations.integrity import ROOT_FILE, check_files, is_whole_chunk, recorded
from vitals.errors import VitalsError
from vitals.places import is_local

CHUNK_KEY = re.compile(r".+/c(/\d+)*")


class _CheckedStore(WrapperStore[LocalStore | FsspecStore]):
    """Reads chunks that are whole: a missing one is no fill value, a torn one has its name."""

    @property
    def _place(self) -> object:
        return self._store.root if isinstance(self._store, LocalStore) else self._store.path

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if not CHUNK_KEY.fullmatch(key):
            return await super().get(key, prototype, byte_range)
        chunk = await super().get(key, prototype)
        if chunk is None:
            raise VitalsError(f"{self._place} lacks {key}: extract it again")
        if not is_whole_chunk(chunk.as_numpy_array()):
            raise VitalsError(f"{self._place}: {key} is not what was written: it is torn")
        return chunk if byte_range is None else await super().get(key, prototype, byte_range)


def _stored(path: Path) -> LocalStore | FsspecStore:
    if is_local(path):  # a worker of a cluster may stand in another folder
        return LocalStore(path.absolute(), read_only=True)
    options = dict(path.storage_options)
    return FsspecStore.from_url(str(path), storage_options=options, read_only=True)


def open_group(path: Path, group: str) -> xr.Dataset | None:
    """One tier of a whole shard as a lazy dataset; None where the shard has no such tier.

    Variables that the tier has not, with their reasons, are in `attrs["absent"]`.
    Raises VitalsError for a shard that lacks a file or whose metadata was altered; and, when values
    are read, for a chunk that is torn.
    """
    if not check_files(path, group):
        return None
    store = _CheckedStore(_stored(path))
    dataset = xr.open_zarr(store, group=group, consolidated=False)
    # Coordinates are small: read now, with the text type that netCDF and indexing know, and in the
    # order of their names: that of a folder's files is the disk's, and would get into results.
    values = {n: dataset[n].values for n in sorted(dataset.coords)}
    text = {n: np.array(v.tolist()) for n, v in values.items() if v.dtype.kind == "T"}
    read = {n: (dataset[n].dims, v) for n, v in {**values, **text}.items()}
    return dataset.drop_vars(list(read)).assign_coords(read)


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
    return recorded(path, "provenance")
