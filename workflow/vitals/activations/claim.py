"""A place to write that no other run has, with room for what is to come."""

import errno
import fcntl
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitals.errors import VitalsError

WITHOUT_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Hold `path` for this process alone; the kernel frees it, however the process ends.

    Raises VitalsError where another holds it.
    """
    file = lock_of(path)
    descriptor = _locked(file, path)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # while it is held: who waits for it finds another file
        os.close(descriptor)


def lock_of(path: Path) -> Path:
    """The file that who claims `path` holds a lock on."""
    return path.with_name(f".{path.name}.lock")


def is_held(lock: Path) -> bool:
    """Whether a process holds the lock of a file; also where the disk cannot say that none does."""
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def check_space(folder: Path, expected: int) -> None:
    """Raises VitalsError where the disk of a folder has fewer than the expected bytes free."""
    free = shutil.disk_usage(folder).free
    if free < expected:
        raise VitalsError(
            f"{folder}: {expected / 1e9:.3g} GB are needed and {free / 1e9:.3g} GB are free: "
            "store fewer token_images, or use another disk"
        )


def _locked(file: Path, path: Path) -> int:
    """A descriptor of the file, locked, that is still the one at its place."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT)
        try:
            _lock(descriptor, path)
            if _is_at(descriptor, file):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever held it has removed it meanwhile


def _is_at(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise VitalsError(
            f"{path} is being written by another run: wait for it, or stop it"
        ) from error
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        warnings.warn(f"{path}: its disk knows no locks: start no second run", stacklevel=2)
