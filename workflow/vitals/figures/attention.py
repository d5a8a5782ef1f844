"""Who looks at [CLS], whether patches look at the same things, and how the heads differ."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vitals.figures import rows, style

CURVES = {
    "cls_inflow": "attention to [CLS] (uniform shares)",
    "consensus": "consensus (mean cosine of rows)",
    "entropy": "entropy of a patch's row (log T)",
}
HEADS = "cls_inflow_head"
VARIABLES = {"attention": (*CURVES, HEADS)}
MAPS_A_ROW = 3
MAP = sns.color_palette("vlag", as_cmap=True)
UNIFORM = 1.0  # the inflow of [CLS] when every token is looked at alike


def draw(
    results: Mapping[str, Mapping[str, xr.Dataset]],
    *,
    palette: str = "colorblind",
    scale: float = 1.0,
) -> tuple[Figure, pd.DataFrame]:
    """The figure, and the table of what is in it.

    results: by model, that of attention.
    """
    table = rows.drawn(results, VARIABLES)
    colors = style.colors(results, palette)
    map_rows = -(-len(colors) // MAPS_A_ROW)
    with style.theme(scale):
        figure = style.page(style.ROW * (1.15 + map_rows))
        upper, lower = figure.add_gridspec(2, 1, height_ratios=[1.15, map_rows])
        panels = upper.subgridspec(1, len(CURVES)).subplots()
        for axes, (variable, label) in zip(panels, CURVES.items(), strict=True):
            _draw_curves(axes, rows.select(table, variable=variable), label, colors)
        columns = min(len(colors), MAPS_A_ROW)
        maps = lower.subgridspec(map_rows, columns).subplots(squeeze=False).ravel()
        _draw_maps(figure, maps, rows.select(table, variable=HEADS), colors)
        style.legend(figure, style.model_handles(colors))
        style.caption(
            figure,
            style.images(results, "attention"),
            style.INTERVALS,
            "Grey line: uniform attention.",
            *rows.missing(table, CURVES),
        )
    return figure, table


def _blocks(table: pd.DataFrame) -> pd.Series:
    """The number of each row's block."""
    return table["layer"].str.removeprefix("block.").astype(int)


def _draw_curves(axes: Axes, table: pd.DataFrame, label: str, colors: Mapping[str, object]) -> None:
    if reason := rows.why_absent(table):
        style.note(axes, reason)
        return
    there = table[table["layer"] != ""]
    for model, curve in there.assign(block=_blocks(there)).groupby("model", sort=False):
        style.curve(axes, curve, colors[model], x="block")
    style.zero_line(axes, UNIFORM)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("block")
    axes.set_title(label)


def _draw_maps(
    figure: Figure, panels: np.ndarray, table: pd.DataFrame, colors: Mapping[str, object]
) -> None:
    """A map (head, block) for each model, all on one scale about uniform attention."""
    values = table["value"].dropna()
    norm = (
        TwoSlopeNorm(UNIFORM, min(values.min(), 0.99), max(values.max(), 1.01))
        if len(values)
        else None
    )
    shown = []
    for axes, (model, color) in zip(panels, colors.items(), strict=False):
        heads = rows.select(table, model=model)
        style.title_model(axes, model, color)
        if reason := rows.why_absent(heads):
            style.note(axes, f"no heads: {reason}")
            continue
        grid = heads.assign(block=_blocks(heads), head=heads["feature"].astype(int))
        grid = grid.pivot(index="head", columns="block", values="value")
        axes.pcolormesh(grid.columns, grid.index, grid, norm=norm, cmap=MAP)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("block")
        axes.set_ylabel("head")
        shown.append(axes)
    for axes in panels[len(colors) :]:
        axes.set_axis_off()
    if shown:
        bar = figure.colorbar(ScalarMappable(norm, MAP), ax=shown, pad=0.02, aspect=12)
        bar.set_label("uniform shares, by head")
