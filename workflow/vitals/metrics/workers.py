"""The same work on tap after tap: here, or on the workers of a dask cluster that one is named.

Where dask's setting `scheduler-address` names a scheduler (the variable DASK_SCHEDULER_ADDRESS does
that), each tap is a task of its own. A worker reads what it needs from the store itself, so the
file system is one that all see; it works on one thread, in the order and the blocks in which it
would be done here, so that the result is the same.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import dask
import torch
from threadpoolctl import threadpool_limits

from vitals.errors import VitalsError, one_line
from vitals.provenance import LIBRARY, code_digest

if TYPE_CHECKING:
    from distributed import Client

ADDRESS = "scheduler-address"

Item = TypeVar("Item")
Found = TypeVar("Found")


def are_named() -> bool:
    """Whether a dask scheduler is named."""
    return dask.config.get(ADDRESS, None) is not None


def each(work: Callable[[Item], Found], items: Iterable[Item]) -> Iterator[Found]:
    """What the work finds of each item, in order.

    Raises VitalsError where the scheduler that is named does not answer, and where a worker runs
    another version of the library or of a package that computes numbers.
    """
    if not are_named():
        yield from map(work, items)
        return
    with _client() as client:
        tasks = [client.submit(_alone, work, item, pure=False) for item in items]
        for task in tasks:
            yield task.result()


def _alone(work: Callable[[Item], Found], item: Item) -> Found:
    """The work on one thread, reading without the help of other workers: they may wait for it."""
    torch.set_num_threads(1)
    with threadpool_limits(1), dask.config.set(scheduler="synchronous"):
        return work(item)


@contextmanager
def _client() -> "Iterator[Client]":
    address = dask.config.get(ADDRESS)
    try:
        from distributed import Client

        client = Client(address, set_as_default=False)
    except (ImportError, OSError, ValueError) as error:
        raise VitalsError(f"the dask scheduler '{address}': {one_line(error)}") from error
    with client:
        modules = [name for name in sys.modules if name.split(".")[0] == LIBRARY.name]
        here = _version(modules)
        for worker, there in client.run(_version, modules).items():
            if there != here:
                raise VitalsError(
                    f"the dask worker {worker} runs another version of vitals, or of a package "
                    "that computes numbers: start it in the environment and checkout of the study"
                )
        yield client


def _version(modules: Sequence[str]) -> str:
    """What tells whether two processes compute the same: code, and packages."""
    try:
        return code_digest(modules)
    except ModuleNotFoundError:
        return "lacks a module"
