"""How do models differ on one metric, at equal depth and at equal relative depth?

>>> import numpy as np, xarray as xr
>>> def model(depth):  # the same curve of relative depth, for 3 images
...     curve = np.linspace(0, 1, depth + 1)[:, None] * np.ones(3)
...     return xr.Dataset({"cosine": (("layer", "image"), curve)})
>>> result = compute({"small": model(4), "large": model(8)}, metric="similarity")
>>> result["cosine_difference"].sel(pair="small - large").values.tolist()
[0.0, 0.125, 0.25, 0.375, 0.5]
>>> float(abs(result["cosine_difference_relative"]).max())
0.0
"""

import operator
from collections.abc import Mapping
from itertools import combinations

import numpy as np
import xarray as xr

from vitals.errors import VitalsError, unknown
from vitals.metrics import axes, bootstrap
from vitals.metrics.paired_images import in_one_order
from vitals.metrics.results import RECONSTRUCTED, absences, describe, mark_absent

SOURCE = "paired bootstrap over images"
BAND_SOURCE = "Romano & Wolf 2005, studentised maximum over the curve"
HEADLINES = {
    "accuracy": ("top1", "top5"),
    "similarity": ("centered_cosine", "cosine"),
    "phases": ("cliff_end", "climb_start", "plateau_length", "plateau_length_relative"),
    "position": ("dominance",),
    "scrambling": ("isi", "r2_all", "r2_self"),
    "attention": ("cls_inflow", "consensus"),
    "collapse": ("nc1_quotient", "ncc_accuracy"),
    "probes": ("accuracy",),
    "tradeoff": (
        "crossing",
        "crossing_relative",
        "onset",
        "onset_relative",
        "knee",
        "knee_relative",
    ),
    "interventions": ("top1", "top1_change_by_strength", "top1_change_by_place"),
    "depth": ("useful_depth", "useful_depth_relative"),
    "geometry": ("effective_rank", "participation_ratio", "intrinsic_dimension"),
}


def compute(
    results: Mapping[str, xr.Dataset],
    *,
    metric: str,
    positions: int = 21,
    bootstrap_samples: int = 1000,
    bootstrap_seed: int = 0,
) -> xr.Dataset:
    """The difference a − b of every pair of models on the headline variables of a metric.

    `{variable}_difference`: at equal depth, (pair, ..., depth), over the depths (and features) that
    both models have, without tap "norm"; for a variable without depth, (pair, ...).
    `{variable}_difference_relative`: at `positions` equal steps of `relative_depth`, 0 the first
    and 1 the last tap (or block) that the variable has, linear between taps.
    Each has `_low`, `_high` and `_excludes_zero`, from resamples in which both models see the same
    images: of the per-image values, matched by `image_id`, or else the result's own `_draws`. These
    hold point by point; a curve also has `_simultaneous_low`, `_simultaneous_high` and
    `_excludes_zero_simultaneous`, of a band that holds the whole curve of a pair at once.
    Where over 2.5 % of the draws are undefined there is no interval (NaN), and zero not excluded.

    results: the results of one metric by model, in the order in which pairs are named. A variable
    that fewer than two models have is absent; a pair that lacks one is NaN, and the model's reason
    is recorded under "{variable}_difference, {model}". Units are the variable's own.
    The attribute `images` is how many both have, where a metric keeps values of each image.
    Depth is in blocks: a tap that only one model has (before a norm that follows positions, after
    an attention) takes part in its curve over relative depth, and in no difference at equal depth.
    Raises VitalsError for an unknown metric, other images or another number of draws.
    Source: the bootstrap of paired differences (Efron & Tibshirani 1993); the band is that of the
    studentised maximum (Romano & Wolf 2005).
    """
    if metric not in HEADLINES:
        raise unknown("metric with a comparison", metric, HEADLINES)
    result = _pairs(list(results))
    if len(results) < 2:
        found = ", ".join(results) or "none"
        mark_absent(result, "comparison", f"a difference needs two models, found {found}")
        return result

    images = {dataset.sizes["image"] for dataset in results.values() if "image" in dataset.sizes}
    if len(images) == 1:
        result.attrs["images"] = images.pop()
    for variable in HEADLINES[metric]:
        reasons = {m: _unusable(dataset, metric, variable) for m, dataset in results.items()}
        for model, reason in reasons.items():
            if reason:
                mark_absent(result, f"{variable}_difference, {model}", reason)
        usable = {m: dataset for m, dataset in results.items() if not reasons[m]}
        if len(usable) < 2:
            mark_absent(result, f"{variable}_difference", "fewer than two models have it")
            continue
        curves = _curves(usable, variable, bootstrap_samples, bootstrap_seed)
        attrs = next(iter(usable.values()))[variable].attrs
        _add_differences(result, variable, curves, attrs, np.linspace(0, 1, positions))
    return result


def _pairs(models: list[str]) -> xr.Dataset:
    """An empty result with the coordinate `pair`, and its `first` and `second` model."""
    pairs = list(combinations(models, 2))
    return xr.Dataset(
        coords={
            "pair": [f"{a} - {b}" for a, b in pairs],
            "first": ("pair", [a for a, _ in pairs]),
            "second": ("pair", [b for _, b in pairs]),
        }
    )


def _unusable(dataset: xr.Dataset, metric: str, variable: str) -> str | None:
    """Why a model takes no part in the differences of a variable, if so."""
    if variable not in dataset:
        reasons = absences(dataset)
        return reasons.get(variable) or reasons.get(metric) or f"the result lacks {variable}"
    if "image" not in dataset[variable].dims and f"{variable}_draws" not in dataset:
        return "neither images nor draws to pair"
    return None


def _curves(
    results: Mapping[str, xr.Dataset], variable: str, samples: int, seed: int
) -> dict[str, xr.DataArray]:
    """Each model's variable as draw 0 and its paired resamples after it: (..., draw)."""
    by_image = {m: found for m, found in results.items() if "image" in found[variable].dims}
    results = {**results, **in_one_order(by_image, variable)}
    images = {m: found[variable].attrs.get("images") for m, found in results.items()}
    if len(set(images.values())) > 1:
        raise VitalsError(f"the draws of {variable} are of different numbers of images: {images}")
    curves = {m: _resampled(dataset, variable, samples, seed) for m, dataset in results.items()}
    sizes = {m: curve.sizes["draw"] - 1 for m, curve in curves.items()}
    if len(set(sizes.values())) > 1:
        raise VitalsError(f"the draws of {variable} are not paired, their numbers differ: {sizes}")
    return curves


def _resampled(dataset: xr.Dataset, variable: str, samples: int, seed: int) -> xr.DataArray:
    """A variable as draw 0 and its resamples after it, over the stream: (..., draw)."""
    dataset = axes.stream_taps(dataset)
    values = dataset[variable].astype(np.float64).compute()
    if "image" in values.dims:
        draws = bootstrap.mean_draws(values, samples, seed)
        values = values.mean("image")
    else:
        draws = dataset[f"{variable}_draws"].astype(np.float64).compute()
    curve = xr.concat([values.expand_dims("draw"), draws], dim="draw", coords="minimal")
    defined = curve.where(np.isfinite(curve))  # between infinite values there is no difference
    return _over_depth(defined.transpose(..., "draw"), dataset)


def _over_depth(curve: xr.DataArray, dataset: xr.Dataset) -> xr.DataArray:
    """The curve over `depth` in place of `layer`, `place` or `block`, if it has one."""
    curve = curve.reset_coords(drop=True)
    if "layer" in curve.dims:
        return curve.rename(layer="depth").assign_coords(depth=axes.depth(dataset).values)
    if "place" in curve.dims:
        return curve.rename(place="depth").assign_coords(depth=dataset["place_depth"].values)
    if "block" in curve.dims:
        return curve.rename(block="depth").assign_coords(depth=axes.block_depth(dataset).values)
    return curve


def _over_relative_depth(curve: xr.DataArray, positions: np.ndarray) -> xr.DataArray:
    """The curve at `positions` of its own length, linear between taps, over `relative_depth`."""
    depth = curve["depth"].values.astype(np.float64)
    own = (depth - depth[0]) / (depth[-1] - depth[0])
    curve = curve.rename(depth="relative_depth").assign_coords(relative_depth=own)
    return curve.interp(relative_depth=positions)


def _add_differences(
    result: xr.Dataset,
    variable: str,
    curves: Mapping[str, xr.DataArray],
    attrs: Mapping[str, str],
    positions: np.ndarray,
) -> None:
    """The differences of a variable at equal depth and, of a curve, at equal relative depth."""
    name, long_name = f"{variable}_difference", attrs.get("long_name", variable)
    if not all("depth" in curve.dims for curve in curves.values()):
        _add(result, name, curves, attrs, f"{long_name}, difference between models")
        return
    _add(result, name, curves, attrs, f"{long_name}, difference at equal depth")
    relative = {m: _over_relative_depth(c, positions) for m, c in curves.items()}
    described = f"{long_name}, difference at equal relative depth"
    _add(result, f"{name}_relative", relative, attrs, described)


def _add(
    result: xr.Dataset,
    name: str,
    curves: Mapping[str, xr.DataArray],
    attrs: Mapping[str, str],
    long_name: str,
) -> None:
    """One kind of difference with its interval; each pair over what both of its models have."""
    pairs = {f"{a} - {b}": _difference(curves[a], curves[b]) for a, b in combinations(curves, 2)}
    differences = xr.concat(list(pairs.values()), dim="pair", join="outer")
    differences = differences.assign_coords(pair=list(pairs)).reindex_like(result["pair"])
    differences = _in_order(differences, curves).transpose("pair", ..., "draw")
    status = attrs.get("status", RECONSTRUCTED)
    described = describe(
        differences.isel(draw=0), long_name, attrs.get("units", "1"), status, SOURCE
    )
    result[name] = described.assign_attrs(undefined="not defined in both models")
    draws = differences.isel(draw=slice(1, None))
    undefined = draws.isnull().mean("draw") > (1 - bootstrap.LEVEL) / 2
    bootstrap.add_interval(result, name, draws.where(~undefined))
    outside = _excludes_zero(result[f"{name}_low"], result[f"{name}_high"])
    result[f"{name}_excludes_zero"] = describe(
        outside, f"{long_name}: the interval excludes 0", "1", status, SOURCE
    )
    for dim in {"depth", "relative_depth"} & set(differences.dims):
        _add_band(result, name, draws.where(~undefined), dim)


def _add_band(result: xr.Dataset, name: str, draws: xr.DataArray, dim: str) -> None:
    """The band that holds a whole curve of differences at once, and where 0 is outside it."""
    attrs = result[name].attrs
    band = dict(
        zip(("low", "high"), bootstrap.simultaneous_bounds(result[name], draws, dim), strict=True)
    )
    for end, bound in band.items():
        long_name = (
            f"{attrs['long_name']}, {end} end of the simultaneous {bootstrap.LEVEL:.0%} band"
        )
        result[f"{name}_simultaneous_{end}"] = bound.assign_attrs({**attrs, "long_name": long_name})
    long_name = f"{attrs['long_name']}: the simultaneous band excludes 0"
    described = describe(_excludes_zero(**band), long_name, "1", attrs["status"], BAND_SOURCE)
    result[f"{name}_excludes_zero_simultaneous"] = described


def _excludes_zero(low: xr.DataArray, high: xr.DataArray) -> xr.DataArray:
    return (low > 0) | (high < 0)


def _difference(first: xr.DataArray, second: xr.DataArray) -> xr.DataArray:
    return operator.sub(*xr.align(first, second, join="inner"))


def _in_order(differences: xr.DataArray, curves: Mapping[str, xr.DataArray]) -> xr.DataArray:
    """What stands along a dim in the order of the models that have it: a join sorts names."""
    for dim in {"information", "feature", "null", "strength", "kind"} & set(differences.dims):
        labels = [label for curve in curves.values() for label in curve[dim].values.tolist()]
        kept = set(differences[dim].values.tolist())
        differences = differences.sel({dim: [x for x in dict.fromkeys(labels) if x in kept]})
    return differences
