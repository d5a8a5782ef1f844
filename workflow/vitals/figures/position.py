"""How large position embeddings are beside patch embeddings, and the fall of similarity there."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitals.figures import rows, style

VARIABLES = {"position": ("dominance", "dominance_centered"), "similarity": ("centered_cosine",)}
RATIOS = {"dominance": "dominance", "dominance_centered": "dominance, both centred over patches"}
CLIFF = ("embed", "norm_pre", "position")
APART = 0.12  # between the two ratios of a model, in rows


def draw(
    results: Mapping[str, Mapping[str, xr.Dataset]],
    *,
    palette: str = "colorblind",
    scale: float = 1.0,
) -> tuple[Figure, pd.DataFrame]:
    """The figure, and the table of what is in it.

    results: by model, those of position and similarity.
    """
    table = rows.drawn(results, VARIABLES)
    table = table[(table["metric"] == "position") | table["layer"].isin(["", *CLIFF])]
    colors = style.colors(results, palette)
    with style.theme(scale):
        figure = style.page(max(style.ROW * 1.3, 0.35 * len(colors)))
        left, right = figure.subplots(1, 2)
        _draw_ratios(left, rows.select(table, metric="position"), colors)
        _draw_cliff(right, rows.select(table, metric="similarity"), colors)
        kinds = [
            style.line_handle(RATIOS[name], linestyle="", marker="o", **_marker(name))
            for name in RATIOS
        ]
        style.legend(figure, kinds)
        style.caption(
            figure,
            style.images(results, "similarity"),
            style.INTERVALS,
            *rows.missing(table, [*RATIOS, "centered_cosine"]),
        )
    return figure, table.reset_index(drop=True)


def _marker(ratio: str) -> dict[str, object]:
    return {"markerfacecolor": "white"} if ratio == "dominance_centered" else {}


def _draw_ratios(axes: Axes, table: pd.DataFrame, colors: Mapping[str, object]) -> None:
    if reason := rows.why_absent(table):
        style.note(axes, reason)
        return
    place = {model: row for row, model in enumerate(colors)}
    for offset, ratio in zip((-APART, APART), RATIOS, strict=True):
        for model, found in rows.select(table, variable=ratio).groupby("model", sort=False):
            at = np.full(len(found), place[model] + offset)
            style.points_across(axes, at, found, colors[model], markersize=4, **_marker(ratio))
    axes.set_yticks(list(place.values()), list(place), fontweight="bold")
    for label, color in zip(axes.get_yticklabels(), colors.values(), strict=True):
        label.set_color(color)
    axes.set_ylim(len(place) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("norm of positions / of patch embeddings")
    axes.set_title("size of the position embedding")


def _draw_cliff(axes: Axes, table: pd.DataFrame, colors: Mapping[str, object]) -> None:
    if reason := rows.why_absent(table):
        style.note(axes, reason)
        return
    for model, found in table.groupby("model", sort=False):
        axes.plot(found["depth"], found["value"], color=colors[model])
        style.points(axes, found["depth"], found, colors[model], markersize=4)
    taps = table[table["layer"] != ""].drop_duplicates("layer").sort_values("depth")
    axes.set_xticks(taps["depth"], taps["layer"])
    axes.set_xlim(taps["depth"].min() - 0.3, taps["depth"].max() + 0.3)
    axes.set_xlabel("tap")
    axes.set_ylabel("centred cosine")
    axes.set_title("the cliff")
