"""Writing large files straight to the disk, past the page cache.

A shard is many gigabytes that nobody reads again before it is whole. Through the page cache each
of them is copied into memory that the kernel must find first, and pushes out what others read.
"""

import errno
import mmap
import os
from pathlib import Path
from threading import Lock

LEAST = 2**20  # bytes of a file that is worth it
BLOCK = 4096  # what memory, place and length must be multiples of
AT_ONCE = 2**22  # bytes of one call


class DirectWriter:
    """Writes files one after another, from one piece of aligned memory."""

    def __init__(self) -> None:
        self._memory = memoryview(mmap.mmap(-1, AT_ONCE))
        self._lock = Lock()
        self._flag = getattr(os, "O_DIRECT", None)

    def write(self, path: Path, content: bytes | memoryview) -> bool:
        """Write a new file, and return whether that was possible: not every file system can.

        Where it was not there is no file. As with any write, only a sync makes it durable.
        """
        view = memoryview(content).cast("B")
        if self._flag is None or len(view) < LEAST:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            try:
                self._write(path, view)
            except OSError as error:
                path.unlink(missing_ok=True)
                if error.errno != errno.EINVAL:
                    raise
                self._flag = None
        return self._flag is not None

    def _write(self, path: Path, view: memoryview) -> None:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | self._flag, 0o666)
        try:
            for start in range(0, len(view), AT_ONCE):
                part = view[start : start + AT_ONCE]
                self._memory[: len(part)] = part
                padded = -(-len(part) // BLOCK) * BLOCK
                _write_all(file, self._memory[:padded])
            os.ftruncate(file, len(view))  # what the last block was filled up with
        finally:
            os.close(file)


def _write_all(file: int, view: memoryview) -> None:
    while view:
        view = view[os.write(file, view) :]
