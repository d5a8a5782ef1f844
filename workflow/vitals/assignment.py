"""Which accelerator of several a process takes: one that no other has.

A machine with several is used by several jobs, and nobody tells a job which is its own: Snakemake
counts them, and SLURM alone gives them out by number. So each takes the first one that is free, by
a lock on a file of the machine's own, which the kernel gives back however the process ends.
"""

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from vitals.progress import announce

VISIBLE = "CUDA_VISIBLE_DEVICES"
LOCKS = Path("/tmp/vitals-accelerators")  # of this machine, whoever runs here
SECONDS = 0.5  # between two looks for a free one


@contextmanager
def one_of_several(locks: Path = LOCKS) -> Iterator[str | None]:
    """Hold an NVIDIA accelerator that no other process holds, and see no other.

    It waits until one is free. Gives its UUID; None, and holds nothing, where there are not several
    to choose from: then there is one, or SLURM or a user has chosen, or there is none.
    """
    choice = candidates()
    if len(choice) < 2:
        yield None
        return
    locks.mkdir(mode=0o777, exist_ok=True)
    with suppress(PermissionError):  # another user has made it
        locks.chmod(0o777)
    before = os.environ.get(VISIBLE)
    uuid, descriptor = _first_free(choice, locks)
    os.environ[VISIBLE] = uuid  # before CUDA is asked for the first time
    announce(f"accelerator {uuid}, one of {len(choice)}")
    try:
        yield uuid
    finally:
        os.close(descriptor)
        os.environ.pop(VISIBLE)
        if before is not None:
            os.environ[VISIBLE] = before


def candidates() -> list[str]:
    """UUIDs of the accelerators that this process may use, in the order of nvidia-smi.

    Numbers in CUDA_VISIBLE_DEVICES are those of nvidia-smi.
    """
    named = os.environ.get(VISIBLE)
    shown = None if named is None else [part.strip() for part in named.split(",") if part.strip()]
    if (shown is not None and len(shown) < 2) or shutil.which("nvidia-smi") is None:
        return shown or []
    said = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    # GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-5a3d...)
    lines = [line for line in said.stdout.splitlines() if line.startswith("GPU ")]
    uuids = [line.rpartition("UUID: ")[2].rstrip(")") for line in lines]
    if shown is None:
        return uuids
    return [uuids[int(one)] if one.isdecimal() and int(one) < len(uuids) else one for one in shown]


def _first_free(choice: Sequence[str], locks: Path) -> tuple[str, int]:
    """One that is free, and the descriptor that holds it."""
    waiting = False
    while True:
        for uuid in choice:
            descriptor = _opened(locks / f"{uuid}.lock")
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
            else:
                return uuid, descriptor
        if not waiting:
            announce(f"all {len(choice)} accelerators are taken: waiting for one")
        waiting = True
        time.sleep(SECONDS)


def _opened(file: Path) -> int:
    """A file that every user of the machine may open."""
    with suppress(FileNotFoundError):
        return os.open(file, os.O_RDWR)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    with suppress(PermissionError):
        os.fchmod(descriptor, 0o666)
    return descriptor
