"""How much of the patch embeddings is left at each layer, and how much has moved between tokens."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitals.figures import rows, style

VARIABLES = {"scrambling": ("r2_self", "r2_all", "isi", "isi_excess")}
# Of each panel, its curves: variable, null, line and what it is; the last row draws the first.
PANELS = {
    "R² of embedding": (
        ("r2_all", "none", style.SOLID, "R² from all tokens"),
        ("r2_self", "none", style.DASHED, "R² from the same token"),
    ),
    "scrambling index": (
        ("isi", "none", style.SOLID, "index"),
        ("isi", "noise_matched", style.DOTTED, "index, noise-matched null"),
    ),
}
ROUNDING = 1e-9
TOGETHER = {
    "r2_all": "R² from all tokens",
    "isi_excess": "index above its null",
}


def draw(
    results: Mapping[str, Mapping[str, xr.Dataset]],
    *,
    palette: str = "colorblind",
    scale: float = 1.0,
) -> tuple[Figure, pd.DataFrame]:
    """The figure, and the table of what is in it.

    results: by model, that of scrambling.
    """
    table = _shown(rows.drawn(results, VARIABLES))
    colors = style.colors(results, palette)
    with style.theme(scale):
        figure, panels, together = style.model_panels(list(results), len(PANELS))
        for (model, color), row in zip(colors.items(), panels, strict=True):
            for axes, (label, curves) in zip(row, PANELS.items(), strict=True):
                style.title_model(axes, model, color)
                _draw_curves(axes, rows.select(table, model=model), label, curves, color)
        for column in panels.T:
            style.label_depth(column)
        for axes, (variable, label) in zip(together, TOGETHER.items(), strict=False):
            style.curves_together(axes, rows.select(table, variable=variable), colors, label)
        _draw_zero_as_zero(panels[0, -1])
        curves = [curve for panel in PANELS.values() for curve in panel]
        style.legend(figure, [style.line_handle(name, **line) for *_, line, name in curves])
        style.caption(
            figure,
            style.images(results, "scrambling", "test"),
            style.INTERVALS,
            style.OPEN_MARKERS,
            style.taps(table),
            *rows.missing(table, ["isi_excess"]),
        )
    return figure, table


def _draw_zero_as_zero(axes: Axes) -> None:
    """An index that is zero everywhere has an axis about zero, and not one of its rounding."""
    if np.ptp(axes.get_ylim()) < ROUNDING:
        axes.set_ylim(-1, 1)


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """Of the nulls, the noise-matched index alone: its R² from the same token is the measured."""
    keep = (table["feature"] != "noise_matched") | (table["variable"] == "isi")
    return table[keep].reset_index(drop=True)


def _draw_curves(axes: Axes, table: pd.DataFrame, label: str, curves: tuple, color: object) -> None:
    found = table[table["variable"].isin([variable for variable, *_ in curves])]
    if reason := rows.why_absent(found):
        style.note(axes, reason)
        return
    for variable, null, line, _ in curves:
        curve = rows.select(table, variable=variable, feature=null)
        style.curve(axes, curve, color, **line)
    if label != next(iter(PANELS)):
        style.zero_line(axes)
    axes.set_ylabel(label)
