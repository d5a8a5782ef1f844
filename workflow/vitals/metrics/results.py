"""What every result says of itself: units, status and source of a variable, and what is absent."""

import json
from collections.abc import Mapping

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
    """Which variables (or whole metric) a result or a dataset lacks, and the reason of each.

    A result has them as JSON, which a file can hold, and a dataset of activations as they are.
    """
    absent = result.attrs.get("absent", {})
    return json.loads(absent) if isinstance(absent, str) else dict(absent)


def joined(parts: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Results of several metrics, by name, as the one dataset of a metric that reads them all.

    Of several, per-image values stay behind: metrics differ in the images that they hold. What a
    result lacks is kept, under the names of the variables, and of the metric where it has none.
    """
    if len(parts) == 1:
        return next(iter(parts.values()))
    whole = xr.merge(
        [part.drop_dims("image", errors="ignore") for part in parts.values()],
        combine_attrs="override",  # those of the variables, each of which only one part has
        compat="override",
        join="exact",
    )
    whole.attrs = {}
    for name, part in parts.items():
        for variable, reason in absences(part).items():
            mark_absent(whole, variable, reason)
        reasons = absences(part)
        if reasons and not part.data_vars:
            mark_absent(whole, name, reasons.get(name, next(iter(reasons.values()))))
    return whole
