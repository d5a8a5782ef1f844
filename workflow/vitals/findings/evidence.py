"""The numbers of a study that a statement is judged by: rows of its summary, and their signs.

>>> import pandas as pd
>>> row = {"model": "deep - small", "variable": "isi_difference", "layer": "", "feature": "none"}
>>> table = pd.DataFrame([{**row, "relative_depth": 1.0, "value": 0.2, "low": 0.1, "high": 0.3,
...                        "unit": "1", "note": ""}])
>>> number = Evidence(table, ["small", "deep"]).difference("small", "deep", "isi_difference")
>>> number.value, number.low, number.high, number.sign
(-0.2, -0.3, -0.1, -1)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

MEASURED = ("", "none")  # features of what has no others, and of what is no null
NO_INTERVAL = "there is no interval"


@dataclass(frozen=True)
class Number:
    """An estimate with its 95 % interval."""

    quantity: str
    value: float
    low: float
    high: float
    unit: str

    @property
    def sign(self) -> int:
        """1 or −1 where the interval lies above or below zero, 0 where it does not say."""
        return int(self.low > 0) - int(self.high < 0)

    def meets(self, low: float, high: float) -> bool:
        """Whether the interval and this one have a point in common."""
        return self.low <= high and self.high >= low

    @property
    def bounded(self) -> bool:
        """Whether there is an interval."""
        return bool(np.isfinite([self.low, self.high]).all())

    def __str__(self) -> str:
        unit = "" if self.unit in ("", "1") else f" {self.unit}"
        if not self.bounded:
            return f"{self.quantity} {self.value:.3g}{unit}"
        return f"{self.quantity} {self.value:.3g} [{self.low:.3g}, {self.high:.3g}]{unit}"


class Missing(Exception):  # noqa: N818 (no error: a reason that is written down)
    """Why a number is not there."""


class Evidence:
    """The summary of a study, asked for one number at a time.

    table: as `vitals.metrics.summary.table` gives it; models: in the order of the study;
    paper_models: which models are one of the paper's. `number` and `difference` raise Missing, with
    the reason that the summary gives, for what is not there or has no interval.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        models: Sequence[str],
        paper_models: dict[str, str] | None = None,
    ) -> None:
        self.table, self.models = table, list(models)
        self.paper_models = paper_models or {}

    def blocks(self, model: str) -> int:
        """How many blocks a model has, as its rows say."""
        layers = self.table.loc[self.table["model"] == model, "layer"].unique()
        return sum(str(layer).removeprefix("block.").isdecimal() for layer in layers)

    def of_paper(self, name: str) -> str:
        """The model that is this one of the paper's."""
        for model, of_paper in self.paper_models.items():
            if of_paper == name:
                return model
        raise Missing(f"no model of this study is the paper's {name} (models.*.paper_model)")

    def by_depth(self) -> list[tuple[str, str]]:
        """Every pair of models of different depth: the deeper, the shallower."""
        pairs = [(a, b) for i, a in enumerate(self.models) for b in self.models[i + 1 :]]
        deeper = [sorted(pair, key=self.blocks, reverse=True) for pair in pairs]
        return [(a, b) for a, b in deeper if self.blocks(a) > self.blocks(b)]

    def number(
        self, model: str, variable: str, features: Sequence[str] = MEASURED, layer: str = ""
    ) -> Number:
        """One number of a model, of the first of these features that it has."""
        found = self._rows(model, variable)
        if layer:
            found = found[found["layer"] == layer]
        place = f" at {layer}" if layer else ""
        return self._one(found, f"{variable}{place}", features)

    def curve(self, model: str, variable: str) -> list[Number]:
        """The measured values of a model, block by block."""
        found = self._rows(model, variable)
        number = found["layer"].str.removeprefix("block.")
        found = found[number.str.isdecimal() & found["feature"].isin(MEASURED)]
        found = found.sort_values("depth")
        numbers = [_number(f"{variable} at {row['layer']}", row) for _, row in found.iterrows()]
        if not numbers:
            raise Missing(self._why_not(model, variable))
        return numbers

    def difference(
        self,
        first: str,
        second: str,
        variable: str,
        features: Sequence[str] = MEASURED,
        metric: str = "",
    ) -> Number:
        """The first model less the second, of a curve at its last tap.

        metric: whose variable it is, where several have one of that name.
        """
        if f"{first} - {second}" in set(self.table["model"]):
            return self._difference(f"{first} - {second}", variable, features, metric)
        there = self._difference(f"{second} - {first}", variable, features, metric)
        turned = (-there.value, -there.high, -there.low)
        return replace(there, **dict(zip(("value", "low", "high"), turned, strict=True)))

    def _difference(self, pair: str, variable: str, features: Sequence[str], metric: str) -> Number:
        found = self._rows(pair, variable)
        if metric:
            found = found[found["metric"] == metric]
        if found["relative_depth"].notna().any():
            found = found[found["relative_depth"] == found["relative_depth"].max()]
        return self._one(found, variable, features)

    def _rows(self, model: str, variable: str) -> pd.DataFrame:
        return self.table[(self.table["model"] == model) & (self.table["variable"] == variable)]

    def _one(self, found: pd.DataFrame, quantity: str, features: Sequence[str]) -> Number:
        for feature in features:
            row = found[(found["feature"] == feature) & np.isfinite(found["value"])]
            if len(row):
                named = "" if feature in MEASURED else f", {feature}"
                number = _number(f"{quantity}{named}", row.iloc[0])
                if not number.bounded:
                    raise Missing(f"{number}: {NO_INTERVAL}")
                return number
        notes = [note for note in found["note"] if note]
        raise Missing(f"no {quantity}" + (f" ({notes[0]})" if notes else ""))

    def _why_not(self, model: str, variable: str) -> str:
        notes = [note for note in self._rows(model, variable)["note"] if note]
        return f"no {variable}" + (f" ({notes[0]})" if notes else "")


def _number(quantity: str, row: pd.Series) -> Number:
    value, low, high = (float(row[name]) for name in ("value", "low", "high"))
    return Number(quantity, value, low, high, str(row["unit"]))
