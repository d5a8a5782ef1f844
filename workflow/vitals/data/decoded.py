"""Prepared images kept on disk, for the models that prepare them alike.

One .npy file a list of images and way of preparing them: one record an image, with the fields
`readable` and `pixels`. It is there whole or not at all, and mapped into memory where it is read.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib.format import dtype_to_descr, write_array_header_1_0

from vitals.data.images import ImageList
from vitals.errors import VitalsError, one_line
from vitals.provenance import canonical, digest_of
from vitals.whole import whole_file


def kept(
    folder: Path,
    key: str,
    images: ImageList,
    stream: Iterator[np.ndarray | None],
    skip_unreadable: bool = False,
) -> Iterator[np.ndarray | None]:
    """What `stream` gives for these images: from the folder if it is there, else kept on the way.

    key: how the images are prepared, all of it; stream: as `pixels.prepared` makes it, not begun
    where it is not needed. Images that were left out are so again with skip_unreadable, and
    without it the stream says what is wrong with them. Of two that would keep the same images at
    once, one does.
    Raises VitalsError for a file that is not what it was.
    """
    contents = canonical([key, images.table["digest"].tolist()])
    path = folder / f"{digest_of(contents.encode())[:32]}.npy"
    folder.mkdir(parents=True, exist_ok=True)
    with _only_one(path.with_suffix(".lock")) as alone:
        if alone and not path.exists():
            yield from _keeping(path, len(images.table), stream)
            return
    found = _opened(path, len(images.table)) if path.exists() else None
    if found is None or not (skip_unreadable or found["readable"].all()):
        yield from stream
        return
    for record in found:
        yield np.array(record["pixels"]) if record["readable"] else None


def _keeping(
    path: Path, count: int, stream: Iterator[np.ndarray | None]
) -> Iterator[np.ndarray | None]:
    """The stream; when it has ended, the file is there."""
    dtype, missed = None, 0
    with whole_file(path) as partial, partial.open("wb") as file:
        for pixels in stream:
            if pixels is None and dtype is None:
                missed += 1
            else:
                if dtype is None:
                    dtype = _record_type(pixels)
                    _begin(file, dtype, count, missed)
                file.write(_record(pixels, dtype))
            yield pixels
        if dtype is None:
            _begin(file, _record_type(np.zeros(0, np.uint8)), count, missed)
        file.flush()
        os.fsync(file.fileno())


def _record_type(pixels: np.ndarray) -> np.dtype:
    return np.dtype([("readable", "?"), ("pixels", pixels.dtype, pixels.shape)], align=True)


def _begin(file: BinaryIO, dtype: np.dtype, count: int, missed: int) -> None:
    """The head of the file, and the records of the images that were left out before the first."""
    about = {"descr": dtype_to_descr(dtype), "fortran_order": False, "shape": (count,)}
    write_array_header_1_0(file, about)
    for _ in range(missed):
        file.write(_record(None, dtype))


def _record(pixels: np.ndarray | None, dtype: np.dtype) -> bytes:
    record = np.zeros((), dtype)
    if pixels is not None:
        record["readable"], record["pixels"] = True, pixels
    return record.tobytes()


def _opened(path: Path, count: int) -> np.ndarray:
    try:
        found = np.load(path, mmap_mode="r")
        if found.shape != (count,) or "readable" not in (found.dtype.names or ()):
            raise ValueError(f"{found.dtype} of {found.shape} for {count} images")
    except (ValueError, EOFError, OSError) as error:
        raise VitalsError(
            f"{path} is not what was kept ({one_line(error)}): remove it, and the images are "
            "prepared anew"
        ) from error
    return found


@contextmanager
def _only_one(lock: Path) -> Iterator[bool]:
    """Whether this is the only one that holds the lock; the kernel frees it if it is killed."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another holds it, or the disk knows no locks
            yield False
        else:
            yield True
