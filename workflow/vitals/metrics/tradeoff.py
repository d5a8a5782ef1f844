"""Where in depth does what is known of the label overtake what is left of the input?

>>> import numpy as np, xarray as xr
>>> task = np.linspace(0, 1, 13)
>>> dataset = xr.Dataset({"r2_all": ("layer", 1 - task), "accuracy": ("layer", task)})
>>> result = compute(dataset)
>>> result["crossing"].item(), result["crossing_relative"].item(), result["onset"].item()
(6.0, 0.5, 1.0)
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from vitals.errors import VitalsError
from vitals.metrics import axes, bootstrap
from vitals.metrics.results import PAPER, RECONSTRUCTED, absences, describe, mark_absent

SOURCE = f"{PAPER}, information-task trade-off; the formulas are a stated choice"
INFORMATION = ("r2_all", "r2_self")
# Where each input comes from, and may be absent with a reason.
ORIGIN = {"r2_all": "scrambling", "r2_self": "scrambling", "accuracy": "probes"}
# A trajectory that leaves its chord by less than this (of the unit square) is straight.
STRAIGHT = 1e-9

VARIABLES = {
    "crossing": (
        "depth at which the normalised task and information curves cross",
        "the normalised curves do not cross",
    ),
    "onset": (
        "first depth of two successive steps that gain task and lose information",
        "no two successive steps gain task and lose information",
    ),
    "knee": (
        "depth at which the trajectory of information and task is farthest from its chord",
        "the trajectory of information and task has no bend",
    ),
}


def compute(dataset: xr.Dataset, *, margin: float = 0.0) -> xr.Dataset:
    """Crossing, onset and knee of information I(ℓ) against task A(ℓ), in layers and relative.

    With Î, Â the curves scaled to [0, 1] over the taps: `crossing` is where Â − Î first changes
    sign, linear in depth between taps; `onset` the first ℓ where ΔA > 0 and ΔI < −`margin` at both
    ℓ and ℓ + 1, with Δx(ℓ) = x(ℓ) − x(ℓ−1) of the curves unscaled, of taps at whole depths: a tap
    within a block is no layer; `knee` the tap whose point (Î, Â) is farthest from the straight line
    between the first and the last. `{name}_relative` divides by the largest depth of the taps used:
    all where every curve is defined.

    dataset: of scrambling, `r2_all` and `r2_self` (layer, or (null, layer), of which "none" is
    taken); of probes, `accuracy` (layer[, feature]); and, for an interval, their `_draws`
    (..., draw), taken draw by draw. Results over (information[, feature]), with `_low`, `_high`,
    `_draws` and `_defined_share`, the share of draws in which the quantity exists. Where I and A
    are over different numbers of images, `note` says that their draws are not paired. A quantity
    that exists nowhere is absent; an entry that does not exist is NaN, explained by `undefined`.
    Raises VitalsError where an input, or the null "none", is missing without a reason.
    Source: arXiv 2511.21635 names the trade-off; the formulas are a stated choice.
    """
    result = xr.Dataset()
    reason = _missing(dataset)
    if reason:
        mark_absent(result, "tradeoff", reason)
        return result
    present = [name for name in INFORMATION if name in dataset]
    for name in set(INFORMATION) - set(present):
        mark_absent(result, name, absences(dataset).get(name, f"the dataset lacks {name}"))

    taps = _measured(dataset)
    with_draws = all(f"{name}_draws" in taps for name in [*present, "accuracy"])
    if not with_draws:
        mark_absent(result, "interval", "the information or the accuracy has no draws")
    curves = {name: _curve(taps, name, with_draws) for name in [*present, "accuracy"]}
    information = xr.concat([curves[name] for name in present], dim="information")
    information = information.assign_coords(information=present)
    information, task, depth = _common_taps(information, curves["accuracy"], axes.depth(taps))
    if depth.size < 3:
        mark_absent(result, "tradeoff", f"two steps in depth need 3 taps, found {depth.size}")
        return result

    quantities = {
        "crossing": _over_taps(crossing, information, task, depth=depth),
        "onset": _over_taps(onset, information, task, depth=depth, margin=margin),
        "knee": _over_taps(knee, information, task, depth=depth),
    }
    note = _unpaired(taps, [*present, "accuracy"]) if with_draws else ""
    for name, values in quantities.items():
        _add(result, name, values, depth.max(), note)
    return result


def crossing(information: np.ndarray, task: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Depth at which the scaled curves (..., layer) first cross; NaN where they do not: (...)."""
    gap = _scaled(task) - _scaled(information)
    sign = np.sign(gap)
    before, after = gap[..., :-1], gap[..., 1:]
    crosses = (sign[..., :-1] * sign[..., 1:] <= 0) & (before != 0)  # false where NaN
    step = np.where(crosses, before - after, 1.0)
    where = depth[:-1] + np.diff(depth) * before / step
    return _first(crosses, where)


def onset(
    information: np.ndarray, task: np.ndarray, depth: np.ndarray, margin: float
) -> np.ndarray:
    """First depth of two successive steps with ΔA > 0 and ΔI < −margin; NaN without: (...).

    A step leads from one whole depth to the next that there is.
    """
    layers = np.flatnonzero(depth == np.floor(depth))
    trades = (np.diff(task[..., layers]) > 0) & (np.diff(information[..., layers]) < -margin)
    twice = trades[..., :-1] & trades[..., 1:]
    return _first(twice, np.broadcast_to(depth[layers][1:-1], twice.shape))


def knee(information: np.ndarray, task: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Depth of the point (Î, Â) farthest from the chord of its ends; NaN if straight: (...)."""
    x, y = _scaled(information), _scaled(task)  # (..., layer)
    x, y = x - x[..., :1], y - y[..., :1]
    chord = np.hypot(x[..., -1], y[..., -1])
    area = np.abs(x[..., -1:] * y - y[..., -1:] * x)
    distance = area / np.where(chord > 0, chord, np.nan)[..., None]
    bent = (distance.max(axis=-1) > STRAIGHT)[..., None]
    farthest = (distance > distance.max(axis=-1, keepdims=True) - STRAIGHT) & bent
    return _first(farthest, np.broadcast_to(depth, farthest.shape))


def _scaled(curve: np.ndarray) -> np.ndarray:
    """Each curve (..., layer) from its minimum, 0, to its maximum, 1; NaN where it is constant."""
    low = curve.min(axis=-1, keepdims=True)
    span = curve.max(axis=-1, keepdims=True) - low
    return (curve - low) / np.where(span > 0, span, np.nan)


def _first(holds: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The first of `values` (..., layer) where `holds`, NaN where it never does: (...)."""
    if not holds.shape[-1]:
        return np.full(holds.shape[:-1], np.nan)
    first = np.take_along_axis(values, holds.argmax(axis=-1)[..., None], axis=-1)[..., 0]
    return np.where(holds.any(axis=-1), first, np.nan)


def _missing(dataset: xr.Dataset) -> str | None:
    """Why there is no trade-off, where the results it needs say so themselves."""
    reasons = absences(dataset)
    for name in ("r2_all", "accuracy"):
        if name not in dataset:
            reason = reasons.get(name) or reasons.get(ORIGIN[name])
            if reason is None:
                axes.require(dataset, name)
            return f"no {name}: {reason}"
    return None


def _measured(dataset: xr.Dataset) -> xr.Dataset:
    """The measurement itself, without its nulls, in order of depth: a merge sorts by name."""
    if "null" in dataset.dims:
        if "none" not in dataset["null"].values:
            raise VitalsError(
                f"the trade-off needs the null 'none', found {dataset['null'].values.tolist()}"
            )
        dataset = dataset.sel(null="none", drop=True)
    return dataset.sortby("depth") if "depth" in dataset.coords else dataset


def _unpaired(taps: xr.Dataset, names: Sequence[str]) -> str:
    """What to say of draws that are not of the same images, by the numbers of images."""
    images = {name: taps[name].attrs["images"] for name in names if "images" in taps[name].attrs}
    if len(set(images.values())) < 2:
        return ""
    counts = ", ".join(f"{name} over {count}" for name, count in images.items())
    return f"the draws of both curves are not paired: {counts} test images"


def _curve(taps: xr.Dataset, name: str, with_draws: bool) -> xr.DataArray:
    """The curve as draw 0, and its draws after it: (..., layer, draw)."""
    curve = taps[name].drop_attrs().astype(np.float64).expand_dims("draw")
    if with_draws:
        curve = xr.concat([curve, taps[f"{name}_draws"].astype(np.float64)], dim="draw")
    return curve.compute()


def _common_taps(
    information: xr.DataArray, task: xr.DataArray, depth: xr.DataArray
) -> tuple[xr.DataArray, xr.DataArray, np.ndarray]:
    """The taps at which every curve is defined, and their depths."""
    curves = (information, task)
    defined = [np.isfinite(c).all([d for d in c.dims if d != "layer"]).values for c in curves]
    kept = np.flatnonzero(np.logical_and(*defined))
    return information.isel(layer=kept), task.isel(layer=kept), depth.values[kept].astype(float)


def _over_taps(function, information: xr.DataArray, task: xr.DataArray, **params) -> xr.DataArray:
    """A function of two curves, over every pair of information and feature, in each draw."""
    values = xr.apply_ufunc(
        function, information, task, input_core_dims=[["layer"], ["layer"]], kwargs=params
    )
    return values.transpose("information", ..., "draw")


def _add(result: xr.Dataset, name: str, values: xr.DataArray, deepest: float, note: str) -> None:
    """A quantity (..., draw) in layers and relative to depth, with its intervals."""
    long_name, undefined = VARIABLES[name]
    point, draws = values.isel(draw=0), values.isel(draw=slice(1, None))
    if draws.sizes["draw"]:
        share = np.isfinite(draws).mean("draw")
        result[f"{name}_defined_share"] = describe(
            share, f"share of draws that have a {name}", "1", RECONSTRUCTED, SOURCE
        )
    for variable, scale, units in ((name, 1.0, "layers"), (f"{name}_relative", deepest, "1")):
        if not np.isfinite(point).any():
            mark_absent(result, variable, undefined)
            continue
        described = describe(point / scale, long_name, units, RECONSTRUCTED, SOURCE)
        said = {"undefined": undefined} | ({"note": note} if note else {})
        result[variable] = described.assign_attrs(said)
        if draws.sizes["draw"]:
            bootstrap.add_draws(result, variable, draws / scale)
