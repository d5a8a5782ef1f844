"""What every result says of itself: units, status and source of a variable, and what is absent."""

import json

import xarray as xr

PAPER = "arXiv 2511.21635"
PUBLISHED = "published"
RECONSTRUCTED = "reconstructed"


def describe(
    array: xr.DataArray, long_name: str, units: str, status: str, source: str
) -> xr.DataArray:
    """The same array with the attributes that each result variable carries."""
    return array.assign_attrs(long_name=long_name, units=units, status=status, source=source)


def mark_absent(result: xr.Dataset, name: str, reason: str) -> None:
    """Say that `name` is not in the result, and why; absent is never zero."""
    result.attrs["absent"] = json.dumps({**absences(result), name: reason}, sort_keys=True)


def absences(result: xr.Dataset) -> dict[str, str]:
    """Which variables (or whole metric) a result lacks, and the reason of each."""
    return json.loads(result.attrs.get("absent", "{}"))
