"""The models of a sweep, each as a few numbers with their draws."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from vitals.errors import unknown
from vitals.metrics import axes, bootstrap
from vitals.metrics.results import absences

OUTCOME = "accuracy"
BASELINES = ("blocks", "parameters")
LENGTHS = ("cliff", "plateau", "climb", "useful_depth")
PREDICTORS = (*BASELINES, "isi", "marginalization", "collapse", "plateau", "useful_depth")
FEATURES = ("cls", "patch_mean")  # of several the first that a model has
FACTORS = ("depth", "width")

Found = tuple[float, np.ndarray]  # a value, and its draws


@dataclass(frozen=True)
class Swept:
    """By name the values of all models (model,), and their draws over images (model, draw).

    level, blocks: of each model; absent: by "{name}, {model}", why a value is NaN.
    """

    level: np.ndarray
    blocks: np.ndarray
    values: Mapping[str, np.ndarray]
    draws: Mapping[str, np.ndarray]
    absent: Mapping[str, str]


class _AbsentError(Exception):
    """Why a model has no such number."""


def level_of(
    results: Mapping[str, xr.Dataset], report: Mapping[str, Any], factor: str
) -> float | None:
    """The level of a model: its blocks, or its channels where its report says them.

    Raises VitalsError for a factor that is neither.
    """
    if factor not in FACTORS:
        raise unknown("factor of a sweep", factor, FACTORS)
    if factor == "width":
        return report.get("built", {}).get("options", {}).get("embed_dim")
    return _blocks(results)


def swept(
    results: Mapping[str, Mapping[str, xr.Dataset]],
    about: Mapping[str, Mapping[str, Any]],
    levels: Mapping[str, float],
    samples: int,
    seed: int,
) -> Swept:
    """The numbers of each model, NaN where it has none; without those that no model has."""
    values, draws, absent = {}, {}, {}
    for name, measure in MEASURES.items():
        found = []
        for model, of in results.items():
            try:
                found.append(measure(_Model(of, about[model], samples, seed)))
            except _AbsentError as reason:
                found.append((np.nan, np.full(samples, np.nan)))
                absent[f"{name}, {model}"] = str(reason)
        values[name] = np.array([value for value, _ in found], dtype=float)
        draws[name] = np.stack([drawn[:samples] for _, drawn in found])
    blocks = np.array([_blocks(of) for of in results.values()], dtype=float)
    return Swept(np.array(list(levels.values()), dtype=float), blocks, values, draws, absent)


@dataclass(frozen=True)
class _Model:
    results: Mapping[str, xr.Dataset]
    report: Mapping[str, Any]
    samples: int
    seed: int

    def constant(self, value: float) -> Found:
        return value, np.full(self.samples, float(value))

    def read(self, metric: str, variable: str) -> tuple[xr.DataArray, xr.DataArray]:
        """A variable and its draws, without nulls."""
        result = self.results.get(metric)
        if result is None or variable not in result:
            reasons = {} if result is None else absences(result)
            reason = reasons.get(variable) or reasons.get(metric) or f"no {variable} of {metric}"
            raise _AbsentError(reason)
        found = [result[name].astype(float) for name in (variable, f"{variable}_draws")]
        if "null" in found[0].dims:
            found = [x.sel(null="none", drop=True) for x in found]
        if found[1].sizes["draw"] < self.samples:
            raise _AbsentError(f"{variable} has {found[1].sizes['draw']} draws of {self.samples}")
        return found[0], found[1]

    def of_feature(self, metric: str, variable: str) -> tuple[xr.DataArray, xr.DataArray]:
        """The same of the feature that a head reads."""
        found = self.read(metric, variable)
        features = found[0]["feature"].values.tolist()
        feature = next((name for name in FEATURES if name in features), features[0])
        return tuple(x.sel(feature=feature) for x in found)


def _blocks(results: Mapping[str, xr.Dataset]) -> int:
    return results["interventions"].sizes["place"] - 1


def _accuracy(model: _Model) -> Found:
    top1 = model.results["interventions"].get("top1")
    if top1 is None:
        raise _AbsentError("the model has no classifier")
    return float(top1.mean()), bootstrap.mean_draws(top1, model.samples, model.seed).values


def _parameters(model: _Model) -> Found:
    return model.constant(model.report["parameters"])


def _isi(model: _Model) -> Found:
    """The mean over blocks."""
    return _over_blocks(model, lambda x: x.mean("layer"), *model.read("scrambling", "isi"))


def _collapse(model: _Model) -> Found:
    """NC1 after the last block."""
    found = model.of_feature("collapse", "nc1_quotient")
    return _over_blocks(model, lambda x: x.isel(layer=-1), *found)


def _over_blocks(
    model: _Model,
    reduce: Callable[[xr.DataArray], xr.DataArray],
    value: xr.DataArray,
    draws: xr.DataArray,
) -> Found:
    names = value["layer"].values.astype(str)
    blocks = [at for at, name in enumerate(names) if axes.BLOCK.fullmatch(name)]
    return float(reduce(value.isel(layer=blocks))), reduce(draws.isel(layer=blocks)).values


def _scalar(metric: str, variable: str) -> Callable[[_Model], Found]:
    def measure(model: _Model) -> Found:
        value, draws = model.read(metric, variable)
        return float(value), draws.values

    return measure


def _climb(model: _Model) -> Found:
    """From the start of the climb to the last block."""
    value, draws = model.read("phases", "climb_start")
    last = _blocks(model.results) + 1
    return last - float(value), last - draws.values


def _useful_depth(model: _Model) -> Found:
    value, draws = model.of_feature("depth", "useful_depth")
    return float(value), draws.values


MEASURES: dict[str, Callable[[_Model], Found]] = {
    OUTCOME: _accuracy,
    "blocks": lambda model: model.constant(_blocks(model.results)),
    "parameters": _parameters,
    "isi": _isi,
    "marginalization": _scalar("attention", "marginalization"),
    "collapse": _collapse,
    "cliff": _scalar("phases", "cliff_end"),
    "plateau": _scalar("phases", "plateau_length"),
    "climb": _climb,
    "useful_depth": _useful_depth,
}
