"""Work that runs beside other work, in order and in bounded memory."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")


def ahead(items: Iterable[Item], depth: int = 2) -> Iterator[Item]:
    """The same items, of which up to `depth` are made in another thread before they are asked for.

    An error of theirs is raised where the item would have come.
    """
    source = iter(items)
    done = object()
    with ThreadPoolExecutor(1, "ahead") as thread:
        waiting = [thread.submit(next, source, done) for _ in range(depth)]
        try:
            while (item := waiting.pop(0).result()) is not done:
                waiting.append(thread.submit(next, source, done))
                yield item
        finally:
            for future in waiting:
                future.cancel()


@contextmanager
def behind(depth: int = 2) -> Iterator[Callable[..., None]]:
    """A function that runs calls one after another in another thread: `later(function, *args)`.

    It waits while `depth` calls have not ended, and the block ends when all have. The error of a
    call is raised by a later one, or where the block ends.
    """
    waiting: list[Future] = []
    with ThreadPoolExecutor(1, "behind") as thread:

        def later(function: Callable[..., Any], *arguments: Any) -> None:
            while len(waiting) >= depth:
                waiting.pop(0).result()
            waiting.append(thread.submit(function, *arguments))

        try:
            yield later
            while waiting:
                waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()
