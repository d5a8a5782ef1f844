"""A tar of class folders, read in place: no member is ever written to disk."""

import os
import tarfile
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from PIL import Image

from vitals.data import class_folders, decode
from vitals.errors import VitalsError, one_line


class _Member(NamedTuple):
    offset: int
    size: int
    stamp: str


class Tar:
    """Members class/name of an uncompressed tar; an image's id is its path in the tar.

    Each read opens the file anew, so that threads and processes share nothing.
    """

    shape = None

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.where = f"images.path = '{path}'"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the folders of the first level, sorted."""
        return self._listed[0]

    def listing(self) -> pd.DataFrame:
        """One row a member; its stamp is its size and time, wherever in the tar it lies."""
        return self._listed[1]

    def read(self, path: str, index: int) -> bytes:
        """The member as it is."""
        members, _ = self._scanned
        if path not in members:
            raise FileNotFoundError(f"no member {path} in the tar")
        member = members[path]
        with open(self.path, "rb", buffering=0) as file:
            return os.pread(file.fileno(), member.size, member.offset)

    def decode(self, content: bytes) -> Image.Image:
        """The picture of a member."""
        return decode.picture(content)

    @cached_property
    def _listed(self) -> tuple[tuple[str, ...], pd.DataFrame]:
        members, folders = self._scanned
        stamps = {path: member.stamp for path, member in members.items()}
        return class_folders.listing(stamps, folders, self.where)

    @cached_property
    def _scanned(self) -> tuple[dict[str, _Member], set[str]]:
        """Image members by path, the last of a name; folders of the first level."""
        if not self.path.is_file():
            found = "a folder" if self.path.exists() else "nothing"
            raise VitalsError(f"{self.where}: expected a tar of class folders, found {found}")
        members: dict[str, _Member] = {}
        folders: set[str] = set()
        try:
            with tarfile.open(self.path, "r:", tarinfo=_Header) as archive:
                for header in archive:
                    self._take(header, members, folders)
                self._check_end(archive.offset)
        except (tarfile.TarError, OSError) as error:
            raise VitalsError(
                f"{self.where}: expected a whole tar without compression: {one_line(error)}"
            ) from error
        return members, folders

    def _check_end(self, offset: int) -> None:
        """TarError where it goes on: the standard library takes a damaged header for the end."""
        with open(self.path, "rb", buffering=0) as file:
            if os.pread(file.fileno(), tarfile.BLOCKSIZE, offset) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"no member and no end at byte {offset}")

    def _take(
        self, header: tarfile.TarInfo, members: dict[str, _Member], folders: set[str]
    ) -> None:
        path = header.name.removeprefix("./")
        if not path or class_folders.is_hidden(path):
            return
        if header.isdir():
            if "/" not in path:
                folders.add(path)
        elif class_folders.is_image(path):
            if not header.isreg() or header.issparse():
                raise VitalsError(
                    f"{self.where}: the member '{path}' is a link or another special file: "
                    "expected the image itself; make the tar with --hard-dereference --dereference"
                )
            stamp = f"{header.size}-{header.mtime}"
            members[path] = _Member(header.offset_data, header.size, stamp)


class _Header(tarfile.TarInfo):
    """A header of which only what an image needs is decoded: the standard one takes long."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> "_Header":
        """See `tarfile.TarInfo.frombuf`."""
        kind = buf[156:157]
        if kind not in (tarfile.REGTYPE, tarfile.XHDTYPE) or len(buf) != tarfile.BLOCKSIZE:
            return super().frombuf(buf, encoding, errors)
        checksum = buf[148:156]
        if sum(buf) - sum(checksum) + 8 * ord(" ") != tarfile.nti(checksum):
            return super().frombuf(buf, encoding, errors)  # which says what is wrong
        header = cls(tarfile.nts(buf[:100], encoding, errors))
        header.type = kind
        header.size = tarfile.nti(buf[124:136])
        header.mtime = tarfile.nti(buf[136:148])
        prefix = tarfile.nts(buf[345:500], encoding, errors)
        if prefix:
            header.name = f"{prefix}/{header.name}"
        return header
