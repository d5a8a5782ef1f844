"""Where results lie: a path of this machine, or one of an object storage, such as s3://bucket/x."""

import os
from collections.abc import Iterator
from pathlib import Path

from vitals.errors import VitalsError


def place(path: str | Path) -> Path:
    """A path that can be read, listed and joined alike, wherever it is.

    Raises VitalsError where what reads such an object storage is not installed.
    """
    if isinstance(path, Path) or "://" not in str(path):
        return Path(path)
    try:
        from upath import UPath

        # what another process has written since is to be seen
        return UPath(path, use_listings_cache=False)
    except ImportError as error:
        raise VitalsError(f"{path}: object storage needs `pip install 'vitals[s3]'`") from error


def is_local(path: Path) -> bool:
    """Whether a place is a path of this machine."""
    return isinstance(path, Path)


def files_below(folder: Path) -> Iterator[str]:
    """The files in a folder and its folders, by their path in it, with "/" between."""
    if is_local(folder):
        for found, _, names in os.walk(folder):
            inside = Path(found).relative_to(folder)
            yield from ((inside / name).as_posix() for name in names)
        return
    root = folder.path.rstrip("/") + "/"
    for file in folder.fs.find(folder.path):
        yield file.removeprefix(root)
