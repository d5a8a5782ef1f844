"""A summary in which the numbers of two models are planted."""

import numpy as np
import pandas as pd

from vitals.metrics import summary

BLOCKS = {"small": 4, "deep": 8}
PAIR = "small - deep"
RELATIVE = {"accuracy": "cls", "cls_inflow": "", "consensus": "", "isi": "none",
            "nc1_quotient": "cls"}  # fmt: skip


def row(model, variable, value, spread=0.01, **columns):
    """A number with an interval of so much on either side."""
    given = {"value": value, "low": value - spread, "high": value + spread, "unit": "1"}
    return {"model": model, "variable": variable, "layer": "", "feature": "", **given, **columns}


def difference(variable, value, spread=0.01, pair=PAIR):
    """A difference between models over relative depth: zero at first, and this at the last."""
    ends = ((0.0, 0.0), (1.0, value))
    name = f"{variable}_difference_relative"
    feature = RELATIVE[variable]
    return [row(pair, name, v, spread, feature=feature, relative_depth=d) for d, v in ends]


def phases(model, cliff=-0.2, plateau=0.0, climb=0.1, share=1.0):
    slopes = {"slope_cliff": cliff, "slope_plateau": plateau, "slope_climb": climb}
    pieces = row(model, "pieces_share", share, np.nan, feature="3")
    return [*(row(model, name, value) for name, value in slopes.items()), pieces]


def consensus(model, first, last):
    ends = {0: first, BLOCKS[model] - 1: last}
    return [
        row(model, "consensus", value, layer=f"block.{block}", depth=block + 2.0)
        for block, value in ends.items()
    ]


def taps(model):
    """A row of every block, which says how many there are."""
    return [row(model, "cosine", 0.5, layer=f"block.{i}") for i in range(BLOCKS[model])]


def table(*rows):
    """The summary of models "small", of 4 blocks, and "deep", of 8, with these rows."""
    found = [*taps("small"), *taps("deep"), *rows]
    columns = pd.DataFrame(found).reindex(columns=summary.COLUMNS)
    texts = [name for name in summary.COLUMNS if name not in summary.NUMBERS]
    return columns.assign(**columns[texts].astype(object).fillna(""))
