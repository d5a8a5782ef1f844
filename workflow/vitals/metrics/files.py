"""Results on disk: one netCDF file each, which knows what it was made from."""

from pathlib import Path

import xarray as xr

from vitals.provenance import canonical, versions
from vitals.whole import whole_file


def write(result: xr.Dataset, path: Path, spec: str, code: str) -> None:
    """Write a result, whole or not at all, with the settings, code and versions behind it."""
    result = result.assign_attrs(spec=spec, code=code, versions=canonical(versions()))
    with whole_file(path) as partial:
        result.to_netcdf(partial, engine="h5netcdf")


def read(path: Path) -> xr.Dataset:
    """Read a result into memory."""
    return xr.load_dataset(path, engine="h5netcdf")
