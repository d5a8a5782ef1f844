"""The values of a token metric that passes over the shards of a model have found, all as one."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import xarray as xr

from vitals.errors import VitalsError
from vitals.metrics import files

# what the shards of one model have in common
SAME = ("weights_digest", "code", "settings", "metric")


def read(paths: Sequence[Path]) -> xr.Dataset:
    """The values of all images, in the order of the list, whatever that of the files.

    Raises VitalsError for shards of other weights, settings or code, and where one is missing.
    """
    parts = sorted((files.read(path) for path in paths), key=lambda part: int(part.attrs["start"]))
    if parts[0].attrs["start"]:
        raise VitalsError(f"the first of {_names(paths)} is missing: stream it again")
    for before, part in pairwise(parts):
        if before.attrs["stop"] != part.attrs["start"]:
            raise VitalsError(
                f"of {_names(paths)} one starts at image {part.attrs['start']} and the one before "
                f"stops at {before.attrs['stop']}: stream them again"
            )
        one, other = _origin(before), _origin(part)
        for key in SAME:
            if one[key] != other[key]:
                raise VitalsError(f"{_names(paths)} differ in {key}: stream them again")
    if len(parts) == 1:
        return parts[0]
    return xr.concat(
        parts, "image", data_vars="minimal", coords="minimal", join="exact",
        compat="override", combine_attrs="override",
    )  # fmt: skip


def _origin(part: xr.Dataset) -> dict[str, object]:
    return {**part.attrs, **json.loads(part.attrs["spec"])}


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))
