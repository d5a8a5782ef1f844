"""Which runs are at work in a folder, as the kernel knows it: it forgets one however it ends.

Each run, and each command that a run has started, holds a shared lock on one file, the mark. Who
could have that file alone is alone: no run is alive, and none that was killed has a job that is.
"""

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from typing import IO

MARK = "VITALS_MARK"  # the variable that tells the commands of a run where its mark is


def join(mark: Path, locks: Path) -> IO[str]:
    """Be one of the runs of a folder until the file that is given back is closed or forgotten.

    locks: the folder of the locks by which runs keep out of each other's way. Those that a killed
    run left behind are taken away: where no run is alive, and none was started on another machine,
    whose locks a disk may not show here.
    """
    mark.parent.mkdir(parents=True, exist_ok=True)
    file = mark.open("a+")
    alone = _locked(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    file.seek(0)
    machines, here = set(file.read().split()), platform.node()
    if alone and machines <= {here}:
        rmtree(locks, ignore_errors=True)
    if alone and not any(locks.glob("*")):
        file.truncate(0)
        machines = set()
    if here not in machines:
        print(here, file=file, flush=True)
    _locked(file, fcntl.LOCK_SH)  # in place of the other
    return file


@contextmanager
def held() -> Iterator[None]:
    """Hold the mark of the run that started this process, if one did."""
    with ExitStack() as stack:
        with suppress(KeyError, OSError):  # no run did, or its folder is not there any more
            file = stack.enter_context(Path(os.environ[MARK]).open())
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield


def _locked(file: IO[str], kind: int) -> bool:
    """Whether a lock could be had; never on a disk that knows none."""
    try:
        fcntl.flock(file, kind)
    except OSError:
        return False
    return True
