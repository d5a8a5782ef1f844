"""Images of a list, read and prepared for a model ahead of where they are asked for."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from vitals.data.images import ImageList
from vitals.data.source import Picture, UnreadableError
from vitals.progress import announce

AHEAD = 2  # images a worker


def prepared(
    images: ImageList,
    prepare: Callable[[Picture], np.ndarray],
    workers: int,
    skip_unreadable: bool = False,
) -> Iterator[np.ndarray | None]:
    """Each image of a list after `prepare`, in order: (channel, row, column).

    `workers` threads read, decode and prepare; at most `AHEAD` images a worker are in memory before
    they are asked for, and nothing more is begun once the iterator is closed.
    An error is raised where its image would come. With skip_unreadable an image that cannot be read
    gives None, and is named on the way; one that is not what was listed is an error all the same.
    """
    waiting: deque[Future[np.ndarray | UnreadableError]] = deque()

    def one(place: int) -> np.ndarray | UnreadableError:
        try:
            picture = images.picture(place)
        except UnreadableError as error:
            return error
        return prepare(picture)

    pool = ThreadPoolExecutor(workers, "images")
    try:
        for place in range(len(images.table)):
            waiting.append(pool.submit(one, place))
            if len(waiting) == AHEAD * workers:
                yield _found(waiting.popleft(), skip_unreadable)
        while waiting:
            yield _found(waiting.popleft(), skip_unreadable)
    finally:
        pool.shutdown(cancel_futures=True)


def _found(
    future: "Future[np.ndarray | UnreadableError]", skip_unreadable: bool
) -> np.ndarray | None:
    found = future.result()
    if not isinstance(found, UnreadableError):
        return found
    if not skip_unreadable:
        raise UnreadableError(
            f"{found}. Mend it, or take it out of the dataset, and run the study again; or leave "
            "such images out with images.skip_unreadable: true"
        )
    announce(f"left out: {found}")
    return None
