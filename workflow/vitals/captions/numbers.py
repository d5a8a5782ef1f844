"""Numbers of a summary as they stand in a sentence.

>>> row = {"model": "vit", "variable": "climb_start", "layer": "", "feature": "", "note": "",
...        "value": 6.25, "low": 6.0, "high": 6.5, "unit": "layers"}
>>> Told(pd.DataFrame([row])).number("vit", "climb_start")
'6.25 [6, 6.5] layers'
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

DIGITS = 3
FEATURES = ("", "none", "cls", "patch_mean", "r2_all,cls", "r2_all,patch_mean")
LAST_BLOCK = "the last block"
SWEEP = "sweep"


class Told:
    """The summary of a study, asked for what to say."""

    def __init__(self, table: pd.DataFrame) -> None:
        self.by = dict(list(table.groupby(["model", "variable"], sort=False)))

    def number(
        self, model: str, variable: str, layer: str = "", features: Sequence[str] = FEATURES
    ) -> str:
        """A value with its interval and unit; what it is not there for, in parentheses.

        layer: a tap, or "the last block", or none for what has no depth.
        """
        rows = self.by.get((model, variable))
        if rows is None:
            return "(absent)"
        if layer == LAST_BLOCK:
            blocks = rows[rows["layer"].str.startswith("block.")]
            rows = blocks[blocks["depth"] == blocks["depth"].max()] if len(blocks) else rows
        elif layer:
            rows = rows[rows["layer"] == layer]
        there = rows[np.isfinite(rows["value"])]
        for feature in features:
            row = there[there["feature"] == feature]
            if len(row):
                return _said(row.iloc[0])
        notes = [note for note in rows["note"] if note]
        return f"({notes[0]})" if notes else "(absent)"

    def pairs(self) -> list[str]:
        """The pairs of models, "a - b", that have differences; those of a sweep are of levels."""
        return list(
            dict.fromkeys(
                model
                for (model, _), rows in self.by.items()
                if " - " in model and (rows["metric"] != SWEEP).any()
            )
        )


def _said(row: pd.Series) -> str:
    value, low, high = (_digits(row[name]) for name in ("value", "low", "high"))
    unit = "" if row["unit"] in ("", "1") else f" {row['unit']}"
    ends = f" [{low}, {high}]" if np.isfinite([row["low"], row["high"]]).all() else ""
    return f"{value}{ends}{unit}"


def _digits(value: float) -> str:
    return f"{value:.{DIGITS}g}".replace("-", "−")
