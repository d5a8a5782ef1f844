"""What a figure draws: rows of the summary table, and the reason of each that is not there.

>>> import xarray as xr
>>> from vitals.metrics.results import describe, mark_absent
>>> result = xr.Dataset({"entropy": describe(xr.DataArray(0.5), "entropy", "1", "published", "x")})
>>> mark_absent(result, "cls_inflow", "the model has no [CLS] token")
>>> table = drawn({"vit": {"attention": result}}, {"attention": ["entropy", "cls_inflow"]})
>>> print(table[["model", "variable", "value"]].to_string(index=False))
model   variable  value
  vit    entropy    0.5
  vit cls_inflow    NaN
>>> why_absent(select(table, variable="cls_inflow"))
'the model has no [CLS] token'
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from vitals.metrics import summary
from vitals.metrics.results import absences

# without what is not of a figure's own metrics
COLUMNS = [name for name in summary.COLUMNS if name not in ("study", "top1")]
NUMBERS = [name for name in summary.NUMBERS if name in COLUMNS]
COMPANIONS = ("", "_low", "_high")
Results = Mapping[str, Mapping[str, xr.Dataset]]  # by model, then metric


def drawn(results: Results, variables: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """The summary's rows of these variables of each metric, model by model.

    A variable that a model lacks has one row without a value, and the reason in `note`.
    """
    frames = [
        _variable(found.get(metric), model, metric, name)
        for model, found in results.items()
        for metric, names in variables.items()
        for name in names
    ]
    return pd.concat(frames, ignore_index=True)[COLUMNS]


def with_accuracy(
    table: pd.DataFrame, accuracies: Mapping[str, Mapping[str, xr.Dataset]]
) -> pd.DataFrame:
    """The table with the model's accuracy on the test split in each row, none for a pair.

    accuracies: by model, its results, that of accuracy among them.
    """
    top1 = {model: summary.top1(found["accuracy"]) for model, found in accuracies.items()}
    return table.assign(top1=table["model"].map(top1))


def _variable(result: xr.Dataset | None, model: str, metric: str, name: str) -> pd.DataFrame:
    if result is None or name not in result:
        return extra(model, metric, name, note=_reason(result, metric, name))
    parts = [name + end for end in COMPANIONS if name + end in result]
    table = summary.table({(model, metric): result[parts]}, study="")
    return table[table["variable"] == name]  # and not what else the result lacks


def _reason(result: xr.Dataset | None, metric: str, name: str) -> str:
    """Why a result lacks a variable: its own reason, or that of what it is part of."""
    if result is None:
        return f"there is no result of {metric}"
    reasons = absences(result)
    begins = sorted((key for key in reasons if name.startswith(key)), key=len)
    if begins or metric in reasons:
        return reasons[begins[-1] if begins else metric]
    if reasons and not result.data_vars:
        return next(iter(reasons.values()))
    return f"the result lacks {name}"


def extra(model: str, metric: str, variable: str, **columns: object) -> pd.DataFrame:
    """One row that the summary does not hold, with the columns given."""
    texts = dict.fromkeys((c for c in COLUMNS if c not in NUMBERS), "")
    row = {**dict.fromkeys(NUMBERS, np.nan), **texts}
    row |= {"model": model, "metric": metric, "variable": variable, **columns}
    return pd.DataFrame([row])[COLUMNS]


def attribute(results: Results, metric: str, name: str) -> list[pd.DataFrame]:
    """A row for each model whose result has this number among its attributes."""
    attributes = {m: found[metric].attrs for m, found in results.items() if metric in found}
    values = {m: attrs[name] for m, attrs in attributes.items() if name in attrs}
    return [extra(m, metric, name, value=v, unit="1") for m, v in values.items()]


def select(table: pd.DataFrame, **values: str) -> pd.DataFrame:
    """The rows of these values of the columns, in their order."""
    kept = np.logical_and.reduce([table[column] == value for column, value in values.items()])
    return table[kept]


def why_absent(rows: pd.DataFrame) -> str:
    """Why none of the rows has a value; empty where one has."""
    if np.isfinite(rows["value"]).any():
        return ""
    return next((note for note in rows["note"] if note), "it is not defined anywhere")


def notes(table: pd.DataFrame) -> dict[str, str]:
    """What is said of values that are there, by model."""
    there = table[np.isfinite(table["value"]) & (table["note"] != "")]
    return {m: "; ".join(found["note"].unique()) for m, found in there.groupby("model", sort=False)}


def reasons(results: Results, metric: str, name: str) -> dict[str, str]:
    """Why something that is no variable is not in the result of a metric, by model."""
    found = {m: absences(of[metric]) for m, of in results.items() if metric in of}
    return {m: f"{name} {absent[name]}" for m, absent in found.items() if name in absent}


def missing(table: pd.DataFrame, variables: Iterable[str]) -> list[str]:
    """One sentence for each model and reason for which variables have no value."""
    lacking: dict[tuple[str, str], list[str]] = {}
    for variable in variables:
        for model, rows in select(table, variable=variable).groupby("model", sort=False):
            if reason := why_absent(rows):
                lacking.setdefault((model, reason), []).append(variable)
    return [f"{model}: no {', '.join(v)} ({reason})." for (model, reason), v in lacking.items()]


def lacking(reasons: Mapping[str, str]) -> list[str]:
    """One sentence for each reason why "{quantity}, {model}", or a quantity of all, is absent.

    >>> lacking({"cliff, a": "few taps", "climb, a": "few taps", "cliff, b": "few taps"})
    ['No cliff of a, b: few taps.', 'No climb of a: few taps.']
    >>> lacking({"cliff, a": "few taps", "climb, a": "few taps", "length": "no models"})
    ['No cliff, climb of a: few taps.', 'No length: no models.']
    """
    models: dict[tuple[str, str], list[str]] = {}
    for name, reason in reasons.items():
        quantity, _, model = name.partition(", ")
        models.setdefault((quantity, reason), []).append(model)
    quantities: dict[tuple[str, str], list[str]] = {}
    for (quantity, reason), names in models.items():
        quantities.setdefault((", ".join(filter(None, names)), reason), []).append(quantity)
    return [
        f"No {', '.join(found)}{' of ' + names if names else ''}: {reason}."
        for (names, reason), found in quantities.items()
    ]
