"""Every number of a study, with its interval, as one tidy table.

>>> import xarray as xr
>>> from vitals.metrics.results import describe
>>> curve = describe(xr.DataArray([0.0, 0.5], dims="layer"), "a curve", "1", "published", "here")
>>> result = xr.Dataset({"cosine": curve}, coords={"layer": ["embed", "position"]})
>>> rows = table({("vit", "similarity"): result}, study="digits")
>>> print(rows[["model", "variable", "layer", "depth", "value"]].to_string(index=False))
model variable    layer  depth  value
  vit   cosine    embed    0.0    0.0
  vit   cosine position    1.0    0.5
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from vitals.metrics import axes
from vitals.metrics.results import absences

COLUMNS = [
    "study",
    "model",
    "metric",
    "variable",
    "layer",
    "depth",
    "relative_depth",
    "feature",
    "value",
    "low",
    "high",
    "unit",
    "status",
    "note",
    "top1",
]
DIFFERENCES = [
    "study",
    "metric",
    "variable",
    "pair",
    "feature",
    "depth",
    "relative_depth",
    "difference",
    "low",
    "high",
    "excludes_zero",
    "points",
    "excluding",
    "band_low",
    "band_high",
    "band_excludes_zero",
    "unit",
]
NUMBERS = ["depth", "relative_depth", "value", "low", "high", "top1"]
# What belongs to another variable, and has no rows of its own.
BAND = ("_simultaneous_low", "_simultaneous_high")
EXCLUDES_ZERO = ("_excludes_zero", "_excludes_zero_simultaneous")
COMPANIONS = ("_low", "_high", "_draws", *BAND, *EXCLUDES_ZERO)
# Dimensions that have a column; the values of all others are joined in `feature`.
PLACED = ("layer", "place", "first_layer", "block", "depth", "relative_depth", "pair")
# The depth of taps in either model of a pair, over (pair, layer): NaN at taps of other models.
PADDED = {"first_layer": "first_depth", "second_layer": "second_depth"}


def table(results: Mapping[tuple[str, str], xr.Dataset], *, study: str) -> pd.DataFrame:
    """One row for each scalar, and each point of each curve, that the results describe.

    results: by (model, metric); a comparison's rows have the pair, "a - b", as their model. Values
    over `image` are averaged. A row of a block stands at the tap that the block writes, "block.i".
    `feature` joins the values of the other dims with ",". What is absent has one row, without a
    value, and its reason in `note`; so has a point at which nothing is defined. `top1` is the
    accuracy of the row's model on the test split, beside each of its numbers.
    Returns the columns `COLUMNS`, in the order of the results.
    """
    frames = [
        frame.assign(study=study, metric=metric, top1=top1(results.get((model, "accuracy"), {})))
        for (model, metric), result in results.items()
        for frame in _frames(model, result)
    ]
    rows = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=COLUMNS)
    rows = rows.reindex(columns=COLUMNS).astype(object)
    texts = [column for column in COLUMNS if column not in NUMBERS]
    rows[texts] = rows[texts].fillna("")
    return rows.astype(dict.fromkeys(texts, str) | dict.fromkeys(NUMBERS, float))


def differences(results: Mapping[str, xr.Dataset], *, study: str) -> pd.DataFrame:
    """Which differences between models exclude zero: a row for each that is defined.

    results: comparisons by metric. Variables are named as in `table`, pairs "a - b". Of a scalar
    there is one interval, `low` to `high`, and whether it `excludes_zero`. Of a curve this is said
    point by point, of which one in 20 excludes zero by chance: `excluding` says how many of its
    `points` do, and the band from `band_low` to `band_high` holds them all at once, so that where
    it excludes zero (`band_excludes_zero`) the curves differ. Without a band, as a scalar, a
    row stands for itself. The rows of several curves are not corrected for each other.
    Returns the columns `DIFFERENCES`, in the order of the results.
    """
    frames = [
        _difference_rows(result, str(name)).assign(study=study, metric=metric, variable=str(name))
        for metric, result in results.items()
        for name in result.data_vars
        if f"{name}{EXCLUDES_ZERO[0]}" in result
    ]
    rows = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=DIFFERENCES)
    rows = rows.dropna(subset="difference").reindex(columns=DIFFERENCES)
    curve = rows.groupby(["metric", "variable", "pair", "feature"], sort=False)
    rows["points"] = curve["low"].transform("count")
    rows["excluding"] = curve["excludes_zero"].transform("sum")
    return rows.reset_index(drop=True)


def top1(accuracy: Mapping[str, xr.DataArray]) -> float:
    """A model's accuracy on the test split, from that metric's result; NaN where it has none."""
    return float(accuracy["top1"]) if "top1" in accuracy else np.nan


def _difference_rows(result: xr.Dataset, name: str) -> pd.DataFrame:
    rows = _rows(result, name).rename(columns={"model": "pair", "value": "difference"})
    companions = dict(zip(("band_low", "band_high"), BAND, strict=True))
    companions |= dict(zip(("excludes_zero", "band_excludes_zero"), EXCLUDES_ZERO, strict=True))
    dims = result[name].dims
    for column, end in companions.items():
        if name + end in result:
            rows[column] = result[name + end].transpose(*dims).values.ravel()
    if "band_excludes_zero" not in rows:
        rows["band_excludes_zero"] = rows["excludes_zero"]
    return rows


def _frames(model: str, result: xr.Dataset) -> list[pd.DataFrame]:
    """The rows of each variable of one result, and of what it lacks."""
    frames = [
        _rows(result, str(name)).assign(variable=str(name))
        for name, array in result.data_vars.items()
        if "status" in array.attrs and not _is_companion(result, str(name))
    ]
    absent = absences(result)
    if absent:
        frames.append(pd.DataFrame({"variable": absent.keys(), "note": absent.values()}))
    return [frame if "model" in frame else frame.assign(model=model) for frame in frames]


def _is_companion(result: xr.Dataset, name: str) -> bool:
    return any(name.endswith(end) and name.removesuffix(end) in result for end in COMPANIONS)


def _rows(result: xr.Dataset, name: str) -> pd.DataFrame:
    """One variable's points: where each is, its value and interval, its unit and status."""
    values = _averaged(result[name])
    points = np.indices(values.shape).reshape(values.ndim, values.size)
    index = dict(zip(map(str, values.dims), points, strict=True))  # of each row, by dim
    attrs = result[name].attrs
    undefined = attrs.get("undefined", "undefined")
    columns = {
        "feature": _feature(result, index, values.size),
        "value": values.values.ravel(),
        **_interval(result, name, values),
        "unit": attrs.get("units", ""),
        "status": attrs["status"],
        "note": np.where(np.isnan(values.values.ravel()), undefined, attrs.get("note", "")),
    }
    rows = pd.DataFrame({**_place(result, index), **columns})
    return rows[_there(result, index, values.size)]


def _averaged(array: xr.DataArray) -> xr.DataArray:
    array = array.astype(np.float64)
    return array.mean("image") if "image" in array.dims else array


def _interval(result: xr.Dataset, name: str, values: xr.DataArray) -> dict[str, np.ndarray]:
    """The ends of the interval, where there is one, in the order of the values."""
    ends = {end: f"{name}_{end}" for end in ("low", "high") if f"{name}_{end}" in result}
    return {
        end: result[bound].transpose(*values.dims).values.ravel() for end, bound in ends.items()
    }


def _feature(result: xr.Dataset, index: Mapping[str, np.ndarray], rows: int) -> list[str]:
    """The coordinates of each row along the dims that have no column, joined."""
    others = [result[dim].values[i] for dim, i in index.items() if dim not in PLACED]
    return [",".join(str(other[row]) for other in others) for row in range(rows)]


def _there(result: xr.Dataset, index: Mapping[str, np.ndarray], rows: int) -> np.ndarray:
    """Whether the models of each row have the taps of which it would be."""
    there = np.ones(rows, dtype=bool)
    for dim, depth in PADDED.items():
        if dim in index:
            there &= np.isfinite(result[depth].values[index["pair"], index[dim]])
    return there


def _place(result: xr.Dataset, index: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns that say where in a model, or between which two, each row is."""
    place = {d: result[d].values[index[d]] for d in ("depth", "relative_depth") if d in index}
    if "pair" in index:
        place["model"] = result["pair"].values[index["pair"]]
    if "layer" in index:
        place["layer"] = result["layer"].values[index["layer"]].astype(str)
        place |= _depth_columns(axes.depth(result), index["layer"])
    if "place" in index:
        place["layer"] = result["place"].values[index["place"]].astype(str)
        place |= _depth_columns(result["place_depth"], index["place"])
    if "first_layer" in index:
        place["layer"] = result["first_layer"].values[index["first_layer"]].astype(str)
        depth = result["first_depth"].rename(first_layer="layer")
        place |= _depth_columns(depth, (index["pair"], index["first_layer"]))
    if "block" in index:
        place["layer"] = axes.block_names(result)[index["block"]]
        place |= _depth_columns(axes.block_depth(result), index["block"])
    return place


def _depth_columns(
    depth: xr.DataArray, index: np.ndarray | tuple[np.ndarray, ...]
) -> dict[str, np.ndarray]:
    return {
        "depth": depth.values[index],
        "relative_depth": axes.relative_depth(depth).values[index],
    }
