"""Long work kept part by part, so that what was killed is taken up where it ended."""

import shutil
from pathlib import Path

import xarray as xr

from vitals.provenance import short_digest
from vitals.whole import whole_file

MADE_FROM = "made_from"


class Parts:
    """The parts of one result, in a hidden folder beside it until it is whole.

    Parts that were made from anything else are removed when this is made.
    """

    def __init__(self, result: Path, made_from: str) -> None:
        """made_from: all that decides the result, as one text."""
        self.folder = result.with_name(f".{result.name}.parts.partial")
        self.made_from = short_digest(made_from.encode())
        self.folder.mkdir(parents=True, exist_ok=True)
        for file in self.folder.iterdir():
            if self._read(file) is None:
                file.unlink()

    def read(self, name: str) -> xr.Dataset | None:
        """A part that is there and whole, or None."""
        return self._read(self.folder / f"{name}.nc")

    def write(self, name: str, part: xr.Dataset) -> None:
        """Keep a part, whole or not at all."""
        with whole_file(self.folder / f"{name}.nc") as partial:
            part.assign_attrs({MADE_FROM: self.made_from}).to_netcdf(partial, engine="h5netcdf")

    def remove(self) -> None:
        """The result is whole: its parts go."""
        shutil.rmtree(self.folder)

    def _read(self, file: Path) -> xr.Dataset | None:
        try:
            part = xr.load_dataset(file, engine="h5netcdf")
        except (OSError, ValueError, KeyError):  # absent, or torn
            return None
        return part if part.attrs.pop(MADE_FROM, "") == self.made_from else None
