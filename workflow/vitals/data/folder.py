"""A folder of class folders."""

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import pandas as pd
from PIL import Image

from vitals.data import class_folders, decode
from vitals.errors import VitalsError

NO_STAMP = "unreadable"


class Folder:
    """Image files in folders of their classes; an image's id is its path below the root."""

    shape = None

    def __init__(self, path: str) -> None:
        self.root = Path(path)
        self.where = f"images.path = '{path}'"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the folders of the first level, sorted."""
        return self._listed[0]

    def listing(self) -> pd.DataFrame:
        """One row a file; its stamp is its size and the time of its last change."""
        return self._listed[1]

    def read(self, path: str, index: int) -> bytes:
        """The file as it is."""
        try:
            return (self.root / path).read_bytes()
        except OSError:
            self._check_root()  # a disk that is gone is no unreadable image
            raise

    def decode(self, content: bytes) -> Image.Image:
        """The picture of a file."""
        return decode.picture(content)

    @cached_property
    def _listed(self) -> tuple[tuple[str, ...], pd.DataFrame]:
        self._check_root()
        try:
            with os.scandir(self.root) as entries:
                folders = [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
            stamps = dict(_files(str(self.root), ""))
        except OSError as error:
            raise VitalsError(f"{self.where} cannot be listed: {error}") from error
        return class_folders.listing(stamps, folders, self.where)

    def _check_root(self) -> None:
        if not self.root.is_dir():
            found = "a file" if self.root.exists() else "nothing"
            raise VitalsError(f"{self.where}: expected a folder of class folders, found {found}")


def _files(folder: str, prefix: str) -> Iterator[tuple[str, str]]:
    """Path from the root and stamp of each image below a folder, links followed."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _files(entry.path, f"{prefix}{entry.name}/")
            elif class_folders.is_image(entry.name):
                yield prefix + entry.name, _stamp(entry)


def _stamp(entry: os.DirEntry) -> str:
    try:
        found = entry.stat()
    except OSError:  # a link to nothing: listed, and met again where it is read
        return NO_STAMP
    return f"{found.st_size}-{found.st_mtime_ns}"
