"""Results on disk: one netCDF file each, which knows what it was made from."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import xarray as xr

from vitals.provenance import canonical, versions
from vitals.whole import whole_file


def write(
    result: xr.Dataset, path: Path, spec: str, code: str, **origin: Mapping[str, str]
) -> None:
    """Write a result, whole or not at all, with the settings, code and versions behind it.

    origin: what else it was made from, kept as JSON: `modules`, `inputs`.
    """
    said = {name: canonical(value) for name, value in origin.items()}
    result = result.assign_attrs(spec=spec, code=code, versions=canonical(versions()), **said)
    with whole_file(path) as partial:
        result.to_netcdf(partial, engine="h5netcdf")


def read(path: Path) -> xr.Dataset:
    """Read a result into memory."""
    return xr.load_dataset(path, engine="h5netcdf")


def read_by_metric(paths: Iterable[Path]) -> dict[str, xr.Dataset]:
    """Files {metric}.nc by metric."""
    return {path.stem: read(path) for path in paths}


def read_by_model(paths: Iterable[Path]) -> dict[str, dict[str, xr.Dataset]]:
    """Files {model}/metrics/{metric}.nc by model, then by metric, in the order given.

    Those of comparisons, compare/{metric}.nc, stand under "compare".
    """
    found: dict[str, dict[str, xr.Dataset]] = {}
    for path in paths:
        of_model = path.parent.name == "metrics"
        model = path.parent.parent.name if of_model else path.parent.name
        found.setdefault(model, {})[path.stem] = read(path)
    return found
