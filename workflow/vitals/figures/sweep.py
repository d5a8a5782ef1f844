"""What grows with the level of a sweep and what stays: accuracy, the phases, the useful depth."""

from collections.abc import Mapping
from itertools import combinations

import pandas as pd
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitals.figures import rows, style
from vitals.metrics.results import absences

ACCURACY, STEPS, LENGTH = "level_accuracy", "accuracy_difference", "length"
MOST_STEPS = 15  # pairs of levels that a panel holds


def draw(
    results: Mapping[str, xr.Dataset],
    *,
    palette: str = "colorblind",
    scale: float = 1.0,
) -> tuple[Figure, pd.DataFrame]:
    """The figure, and the table of what is in it.

    results: by name, that of the sweep.
    """
    result = results["sweep"]
    table = rows.drawn({"": results}, {"sweep": (ACCURACY, STEPS, LENGTH)})
    if reason := absences(result).get("sweep"):
        with style.theme(scale):
            return style.noted(reason), table
    factor = str(result.attrs.get("factor", "level"))
    quantities = result["quantity"].values.tolist() if "quantity" in result.coords else []
    with style.theme(scale):
        colors = style.colors(quantities, palette) if quantities else {}
        figure = style.page(1.8 * style.ROW)
        level, steps, lengths = figure.subplots(1, 3)
        _draw_levels(level, rows.select(table, variable=ACCURACY), factor)
        _draw_steps(steps, result, rows.select(table, variable=STEPS), factor)
        _draw_lengths(lengths, rows.select(table, variable=LENGTH), colors, factor)
        style.legend(figure, _handles(result, colors))
        said = result.attrs
        style.caption(
            figure,
            f"{said['models']} models; {said['note']}." if "note" in said else "",
            "Middle: the later level less the one before, thin bars hold all pairs at once. "
            "Bars: 95 % intervals.",
            *rows.lacking(absences(result)),
        )
    return figure, table


def _handles(result: xr.Dataset, colors: Mapping[str, object]) -> list[Artist]:
    """Each length, with what becomes of it from level to level."""
    verdicts = result["verdict"].values if colors else []
    return [
        style.line_handle(f"{name.replace('_', ' ')}: {verdict}", color=color, marker="o")
        for (name, color), verdict in zip(colors.items(), verdicts, strict=True)
    ]


def _draw_levels(axes: Axes, table: pd.DataFrame, factor: str) -> None:
    if reason := rows.why_absent(table):
        style.note(axes, reason)
        return
    level = table["feature"].astype(float)
    axes.plot(level, table["value"], color=style.INK)
    style.points(axes, level, table, style.INK, markersize=4)
    axes.set_xlabel(factor)
    axes.set_ylabel("accuracy")
    axes.set_title("accuracy")


def _draw_steps(axes: Axes, result: xr.Dataset, table: pd.DataFrame, factor: str) -> None:
    if reason := rows.why_absent(table):
        style.note(axes, reason)
        return
    band = {
        end: dict(
            zip(result["pair"].values, result[f"{STEPS}_simultaneous_{end}"].values, strict=True)
        )
        for end in ("low", "high")
    }
    levels = result.sizes["level"]
    # of many levels, neighbours
    near = [at for at, (a, b) in enumerate(combinations(range(levels), 2)) if b == a + 1]
    shown = table.iloc[near] if len(table) > MOST_STEPS else table
    for at, pair in enumerate(shown["model"]):
        ends = [band[end][pair] for end in ("low", "high")]
        axes.plot(ends, [at, at], color=style.FAINT, linewidth=0.8)
        style.points_across(axes, [at], shown.iloc[[at]], style.INK, markersize=3)
    axes.axvline(0, color=style.FAINT, linewidth=0.6, zorder=0)
    axes.set_yticks(range(len(shown)), shown["model"])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlabel("difference of accuracy")
    axes.set_title(f"is it monotone in {factor}?")


def _draw_lengths(
    axes: Axes, table: pd.DataFrame, colors: Mapping[str, object], factor: str
) -> None:
    if reason := rows.why_absent(table):
        style.note(axes, reason)
        return
    parts = table["feature"].str.partition(",")
    for name, found in table.groupby(parts[0], sort=False):
        level = found["feature"].str.partition(",")[2].astype(float)
        axes.plot(level, found["value"], color=colors[name])
        style.points(axes, level, found, colors[name])
    axes.set_xlabel(factor)
    axes.set_ylabel("blocks")
    axes.set_title("how long")
