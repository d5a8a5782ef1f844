"""Who looks at [CLS], whether patches look at the same things, and how the heads differ."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vitals.figures import rows, style

CURVES = {
    "cls_inflow": "attention to [CLS] (uniform shares)",
    "consensus": "consensus (mean cosine of rows)",
    "entropy": "entropy of a patch's row (log T)",
}
INFLOW, CONSENSUS = "cls_inflow_head", "consensus_head"
HEADS = {INFLOW: "uniform shares to [CLS]", CONSENSUS: "consensus"}
VARIABLES = {"attention": (*CURVES, *HEADS)}
MAPS_A_ROW = 3
MAPS = {
    INFLOW: sns.color_palette("vlag", as_cmap=True),
    CONSENSUS: sns.color_palette("mako", as_cmap=True),
}
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
        figure = style.page(style.ROW * (1.15 + len(HEADS) * map_rows))
        upper, *lower = figure.add_gridspec(
            1 + len(HEADS), 1, height_ratios=[1.15, *[map_rows] * len(HEADS)]
        )
        panels = upper.subgridspec(1, len(CURVES)).subplots()
        for axes, (variable, label) in zip(panels, CURVES.items(), strict=True):
            _draw_curves(axes, rows.select(table, variable=variable), label, colors)
        columns = min(len(colors), MAPS_A_ROW)
        for place, variable in zip(lower, HEADS, strict=True):
            maps = place.subgridspec(map_rows, columns).subplots(squeeze=False).ravel()
            _draw_maps(figure, maps, rows.select(table, variable=variable), variable, colors)
        style.legend(figure, style.model_handles(colors))
        style.caption(
            figure,
            style.images(results, "attention"),
            style.INTERVALS,
            "Grey line: uniform attention. Maps: each head of each block, mean over images.",
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
    figure: Figure,
    panels: np.ndarray,
    table: pd.DataFrame,
    variable: str,
    colors: Mapping[str, object],
) -> None:
    """A map (head, block) for each model, all on one scale."""
    norm, colormap = _norm(variable, table["value"].dropna()), MAPS[variable]
    shown = []
    for axes, (model, color) in zip(panels, colors.items(), strict=False):
        heads = rows.select(table, model=model)
        style.title_model(axes, model, color)
        if reason := rows.why_absent(heads):
            style.note(axes, f"no heads: {reason}")
            continue
        grid = heads.assign(block=_blocks(heads), head=heads["feature"].astype(int))
        grid = grid.pivot(index="head", columns="block", values="value")
        axes.pcolormesh(grid.columns, grid.index, grid, norm=norm, cmap=colormap)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("block")
        axes.set_ylabel("head")
        shown.append(axes)
    for axes in panels[len(colors) :]:
        axes.set_axis_off()
    if shown:
        bar = figure.colorbar(ScalarMappable(norm, colormap), ax=shown, pad=0.02, aspect=12)
        bar.set_label(HEADS[variable])


def _norm(variable: str, values: pd.Series) -> Normalize | None:
    """The scale of a map: about uniform attention, or from nothing to full consensus."""
    if values.empty:
        return None
    if variable == INFLOW:
        return TwoSlopeNorm(UNIFORM, min(values.min(), 0.99), max(values.max(), 1.01))
    return Normalize(0, 1)
