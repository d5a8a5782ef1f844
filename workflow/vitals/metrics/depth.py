"""How deep need a model be: after which block does an exit with its own probe lose nothing?

>>> import numpy as np, xarray as xr
>>> accuracy = np.array([[0.5], [0.9], [0.9], [0.9]])  # what two more blocks do not improve
>>> dataset = xr.Dataset(
...     {
...         "accuracy": (("layer", "feature"), accuracy),
...         "accuracy_draws": (("layer", "feature", "draw"), np.repeat(accuracy[..., None], 9, 2)),
...         "exit_compute": ("place", [0.25, 0.5, 0.75, 1.0]),
...     },
...     coords={
...         "layer": ["block.0", "block.1", "block.2", "block.3"],
...         "place": ["block.0", "block.1", "block.2", "block.3"],
...         "feature": ["cls"],
...     },
... )
>>> result = compute(dataset)
>>> [result[name].item() for name in ("blocks", "useful_depth", "recommended_depth")]
[4, 2.0, 2.0]
>>> result["compute_saved"].item(), result["accuracy_kept"].item()
(0.5, 1.0)
"""

import numpy as np
import xarray as xr

from vitals.metrics import axes, bootstrap
from vitals.metrics.results import RECONSTRUCTED, absences, describe, mark_absent

SOURCE = "early exits with probes of their own; the rule is a stated choice"
SEQUENCE = f"{SOURCE}; a fixed sequence of tests, Maurer, Hothorn and Lehmacher 1995"
MIXING = {
    "isi": "Information Scrambling Index",
    "r2_all": "share of the patch embedding recovered from all tokens",
}
ROUNDING = 1e-6  # of draws, which are kept in float32
NONE_BEYOND = "no block lies beyond the recommended depth"


def compute(dataset: xr.Dataset, *, tolerance: float = 0.01) -> xr.Dataset:
    """After how many blocks a probe reads the class as well as after the last; what that saves.

    The exit after block i is the probe of tap "block.i", and its loss the accuracy after the last
    block less its own, over the same test images. `useful_depth` is the least number of blocks from
    which on no exit loses more than `tolerance`; it is found anew in each draw. `recommended_depth`
    asks more: from there on each loss is, with 97.5 % confidence, at most `tolerance`. From the
    last exit backwards that is a fixed sequence of tests, which ends at the first that fails, so
    that the confidence holds for all of them together.

    dataset: of probes, `accuracy` (layer, feature) with `accuracy_draws`; of interventions,
    `exit_compute` (place); of scrambling, `isi` and `r2_all` (null, layer) with their draws.
    Returns `blocks`; over (feature): `useful_depth` with `_low`, `_high`, `_draws`, and relative to
    the number of blocks; `recommended_depth`; `accuracy_kept`, the accuracy there over that of the
    last exit, with `_low` and `_high`; `compute_saved`, the share of the operations that the blocks
    beyond it take; `extra_isi` and `extra_r2_all`, what the blocks beyond it add of either, with
    `_low` and `_high`, NaN where there is none; and `exit_loss` (layer, feature), with `_low`,
    `_high`. What an input lacks is absent, with its reason.
    Raises VitalsError where the accuracy is missing without a reason.
    Source: ours; the sequence of tests, Maurer, Hothorn and Lehmacher 1995.
    """
    result = xr.Dataset()
    if reason := _missing(dataset):
        mark_absent(result, "depth", reason)
        return result
    dataset = dataset.compute()  # small: a number a tap and draw
    names = dataset["layer"].values.astype(str)
    exits = np.flatnonzero(
        [axes.BLOCK.fullmatch(n) is not None and n.count(".") == 1 for n in names]
    )
    exits = exits[np.argsort([int(names[at].split(".")[1]) for at in exits])]
    values = dataset["accuracy"].isel(layer=exits).transpose("feature", "layer").astype(float)
    draws = dataset["accuracy_draws"].isel(layer=exits).transpose("feature", "layer", "draw")
    draws = draws.astype(float)
    last = {"layer": -1, "drop": True}
    # the order of dims, which a difference takes from its first term, is that of the second
    loss, lost = ((x.isel(**last) - x).transpose(*x.dims) for x in (values, draws))
    _, high = bootstrap.bounds(lost)
    recommended = _first_of_the_rest(high.values <= tolerance + ROUNDING)

    result = result.assign_coords(feature=values["feature"], layer=names[exits])
    result["blocks"] = _described(xr.DataArray(len(exits)), "blocks of the model", "blocks")
    _add(result, "exit_loss", loss, "accuracy that an exit with its own probe loses", "1", lost)
    result["exit_loss"] = result["exit_loss"].transpose("layer", "feature")
    _add_useful(result, loss, lost, tolerance)
    found = _of_feature(result, recommended.astype(float))
    result["recommended_depth"] = _described(
        found, "least number of blocks that surely loses no more than the tolerance", "blocks"
    ).assign_attrs(source=SEQUENCE, tolerance=tolerance)

    at = _of_feature(result, recommended - 1)
    kept, kept_draws = (
        x.isel(layer=at) / x.isel(**last).where(x.isel(**last) > 0) for x in (values, draws)
    )
    _add(result, "accuracy_kept", kept, "accuracy at the recommended depth over that of the last "
         "exit", "1", kept_draws)  # fmt: skip
    _add_compute(result, dataset, names[exits][recommended - 1])
    for name, long_name in MIXING.items():
        _add_extra(result, dataset, name, long_name, exits, recommended)
    return result


def _missing(dataset: xr.Dataset) -> str | None:
    reasons = absences(dataset)
    if "accuracy" not in dataset and (reason := reasons.get("accuracy") or reasons.get("probes")):
        return f"no accuracy: {reason}"
    axes.require(dataset, "accuracy", "accuracy_draws", "layer", "feature")
    return None


def _first_of_the_rest(holds: np.ndarray) -> np.ndarray:
    """From which place of (..., layer, ...) on all hold, counted from 1: along axis 1.

    >>> _first_of_the_rest(np.array([[True, False, True, True], [False, False, False, True]]))
    array([3, 4])
    """
    to_the_end = np.logical_and.accumulate(holds[:, ::-1], axis=1)
    return holds.shape[1] + 1 - to_the_end.sum(axis=1)


def _add_useful(
    result: xr.Dataset, loss: xr.DataArray, lost: xr.DataArray, tolerance: float
) -> None:
    blocks = loss.sizes["layer"]
    depth = _first_of_the_rest(loss.values <= tolerance + ROUNDING).astype(float)
    drawn = _first_of_the_rest(lost.values <= tolerance + ROUNDING).astype(float)
    for name, scale, units in (
        ("useful_depth", 1, "blocks"),
        ("useful_depth_relative", blocks, "1"),
    ):
        long_name = "least number of blocks from which on no exit loses more than the tolerance"
        result[name] = _described(_of_feature(result, depth / scale), long_name, units)
        bootstrap.add_draws(result, name, _of_feature(result, drawn / scale, "draw"))


def _add_compute(result: xr.Dataset, dataset: xr.Dataset, taps: np.ndarray) -> None:
    if "exit_compute" not in dataset:
        reason = absences(dataset).get("exit_compute", "the interventions do not say")
        mark_absent(result, "compute_saved", reason)
        return
    share = dataset["exit_compute"].sel(place=taps).values
    long_name = "share of the operations that the blocks beyond the recommended depth take"
    result["compute_saved"] = _described(_of_feature(result, 1 - share), long_name, "1")


def _add_extra(
    result: xr.Dataset,
    dataset: xr.Dataset,
    name: str,
    long_name: str,
    exits: np.ndarray,
    recommended: np.ndarray,
) -> None:
    """What the blocks beyond the recommended depth add of a share of the embedding."""
    if name not in dataset or f"{name}_draws" not in dataset:
        reasons = absences(dataset)
        reason = reasons.get(name) or reasons.get("scrambling") or f"the result lacks {name}"
        mark_absent(result, f"extra_{name}", reason)
        return
    at = _of_feature(result, exits[recommended - 1])
    beyond = _of_feature(result, recommended < len(exits))
    value, draws = (
        (x.isel(layer=int(exits[-1])) - x.isel(layer=at)).where(beyond)
        for x in (_measured(dataset[each]) for each in (name, f"{name}_draws"))
    )
    said = f"{long_name}, of the last block less that at the recommended depth"
    _add(result, f"extra_{name}", value, said, "1", draws)
    result[f"extra_{name}"].attrs["undefined"] = NONE_BEYOND


def _measured(values: xr.DataArray) -> xr.DataArray:
    """The measurement itself, without its nulls."""
    values = values.astype(float).drop_attrs().reset_coords(drop=True)
    return values.sel(null="none", drop=True) if "null" in values.dims else values


def _add(
    result: xr.Dataset,
    name: str,
    values: xr.DataArray,
    long_name: str,
    units: str,
    draws: xr.DataArray,
) -> None:
    result[name] = _described(values.drop_attrs().reset_coords(drop=True), long_name, units)
    bootstrap.add_interval(result, name, draws.reset_coords(drop=True))


def _described(values: xr.DataArray, long_name: str, units: str) -> xr.DataArray:
    return describe(values, long_name, units, RECONSTRUCTED, SOURCE)


def _of_feature(result: xr.Dataset, values: np.ndarray, *dims: str) -> xr.DataArray:
    return xr.DataArray(values, dims=("feature", *dims), coords={"feature": result["feature"]})
