"""Progress bars that are silent when nobody watches."""

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(items: Iterable[Item], what: str, total: int | None = None) -> Iterable[Item]:
    """Iterate with a bar on a terminal, and with nothing elsewhere.

    total: the number of items that have no length.
    """
    return tqdm(items, desc=what, total=total, disable=None, leave=False)


def announce(what: str) -> None:
    """Say, before long work, how much there is to do."""
    print(what, file=sys.stderr, flush=True)
