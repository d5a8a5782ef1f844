"""What goes with accuracy over the models of a sweep, and what goes with what."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from vitals.figures import rows, style
from vitals.metrics.results import absences

MATRIX, OWN, PARTIAL = "rank_correlation", "correlation", "partial_correlation"
MAP, RANGE = sns.color_palette("vlag", as_cmap=True), Normalize(-1, 1)
APART = 0.14  # between the two correlations of a predictor, in rows


def draw(
    results: Mapping[str, xr.Dataset],
    *,
    palette: str = "colorblind",
    scale: float = 1.0,
) -> tuple[Figure, pd.DataFrame]:
    """The figure, and the table of what is in it.

    results: by name, that of the sweep. The palette is not used: correlations have a scale.
    """
    result = results["sweep"]
    table = rows.drawn({"": results}, {"sweep": (MATRIX, OWN, PARTIAL)})
    if reason := absences(result).get("sweep"):
        with style.theme(scale):
            return style.noted(reason), table
    with style.theme(scale):
        style.colors([], palette)
        figure = style.page(2 * style.ROW)
        left, right = figure.subplots(1, 2)
        _draw_matrix(figure, left, rows.select(table, variable=MATRIX))
        _draw_correlations(right, result, table)
        kinds = [
            style.line_handle("over all models", linestyle="", marker="o"),
            style.line_handle("without what the level explains", linestyle="", marker="o",
                              markerfacecolor="white"),
            style.line_handle("all predictors at once", color=style.FAINT),
        ]  # fmt: skip
        style.legend(figure, kinds)
        said = result.attrs
        style.caption(
            figure,
            f"{said['models']} models; {said['note']}." if "note" in said else "",
            "Spearman's rank correlation; bold in the map: the 95 % interval excludes 0.",
            *rows.lacking(absences(result)),
        )
    return figure, table


def _draw_matrix(figure: Figure, axes: Axes, table: pd.DataFrame) -> None:
    if reason := rows.why_absent(table):
        style.note(axes, reason)
        return
    parts = table["feature"].str.partition(",")
    table = table.assign(first=parts[0], second=parts[2])
    names = list(dict.fromkeys(table["first"]))
    grid = table.pivot(index="first", columns="second", values="value").loc[names, names]
    axes.pcolormesh(np.ma.masked_invalid(grid.to_numpy(float)), norm=RANGE, cmap=MAP)
    for _, row in table.iterrows():
        place = names.index(row["second"]) + 0.5, names.index(row["first"]) + 0.5
        if np.isfinite(row["value"]):
            sure = row["low"] > 0 or row["high"] < 0
            axes.text(*place, f"{row['value']:.2f}", ha="center", va="center", fontsize="x-small",
                      fontweight="bold" if sure else "normal")  # fmt: skip
    labels = [name.replace("_", " ") for name in names]
    axes.set_xticks(np.arange(len(names)) + 0.5, labels, rotation=45, ha="right")
    axes.set_yticks(np.arange(len(names)) + 0.5, labels)
    axes.invert_yaxis()
    figure.colorbar(ScalarMappable(RANGE, MAP), ax=axes, aspect=20).set_label("rank correlation")


def _draw_correlations(axes: Axes, result: xr.Dataset, table: pd.DataFrame) -> None:
    own = rows.select(table, variable=OWN)
    if reason := rows.why_absent(own):
        style.note(axes, reason)
        return
    names = own["feature"].tolist()
    for at, name in enumerate(names):
        of = result.sel(predictor=name)
        ends = [of[f"{OWN}_simultaneous_{end}"].item() for end in ("low", "high")]
        axes.plot(np.clip(ends, -1, 1), [at - APART] * 2, color=style.FAINT, linewidth=0.8)
        for variable, place, face in ((OWN, at - APART, style.INK), (PARTIAL, at + APART, "white")):
            point = rows.select(table, variable=variable, feature=name)
            style.points_across(axes, [place], point, style.INK, markersize=4, markerfacecolor=face)
    axes.axvline(0, color=style.FAINT, linewidth=0.6, zorder=0)
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(-1.05, 1.05)
    axes.set_xlabel("rank correlation with accuracy")
