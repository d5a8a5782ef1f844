"""How many dimensions tokens fill, how large the largest are, and which taps are alike."""

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

CURVES = {
    "effective_rank": "effective rank, all patches",
    "image_effective_rank": "effective rank, in an image",
    "intrinsic_dimension": "intrinsic dimension, images",
    "participation_ratio": "participation ratio, all patches",
    "massive_ratio": "largest activation / median",
    "high_norm_share": "share of high-norm patches",
}
CKA = "cka"
FEATURE = "patch_mean"  # what every model has
VARIABLES = {"geometry": (*CURVES, CKA)}
COLUMNS = 3
MAP, ALIKE = sns.color_palette("mako", as_cmap=True), Normalize(0, 1)


def draw(
    results: Mapping[str, Mapping[str, xr.Dataset]],
    *,
    palette: str = "colorblind",
    scale: float = 1.0,
) -> tuple[Figure, pd.DataFrame]:
    """The figure, and the table of what is in it.

    results: by model, that of geometry.
    """
    found = rows.drawn(results, VARIABLES)
    table = found[found["feature"].str.partition(",")[0].isin(["", FEATURE])]
    table = table.reset_index(drop=True)
    colors = style.colors(results, palette)
    lines, map_rows = len(CURVES) // COLUMNS, -(-len(colors) // COLUMNS)
    with style.theme(scale):
        figure = style.page(style.ROW * (lines + 1.3 * map_rows))
        upper, lower = figure.add_gridspec(2, 1, height_ratios=[lines, 1.3 * map_rows])
        panels = upper.subgridspec(lines, COLUMNS).subplots()
        for axes, (variable, label) in zip(panels.flat, CURVES.items(), strict=True):
            style.curves_together(
                axes, rows.select(table, variable=variable), colors, "", named=False
            )
            axes.set_title(label)
        _label(panels)
        columns = min(len(colors), COLUMNS)
        maps = lower.subgridspec(map_rows, columns).subplots(squeeze=False).ravel()
        _draw_maps(figure, maps, rows.select(table, variable=CKA), colors)
        style.legend(figure, style.model_handles(colors))
        style.caption(
            figure,
            style.images(results, "geometry"),
            style.INTERVALS,
            "Maps: CKA between all taps, of the mean patch; ticks at the first and last.",
            style.OPEN_MARKERS,
            *rows.missing(table, [*CURVES, CKA]),
        )
    return figure, table


def _label(panels: np.ndarray) -> None:
    """What the axes are, below the last of each column that is not a note."""
    for column in panels.T:
        for axes in [axes for axes in column if axes.axison][-1:]:
            axes.set_xlabel(style.RELATIVE)


def _draw_maps(
    figure: Figure, panels: np.ndarray, table: pd.DataFrame, colors: Mapping[str, object]
) -> None:
    """A map (tap, tap) for each model, all on one scale."""
    shown = []
    for axes, (model, color) in zip(panels, colors.items(), strict=False):
        pairs = rows.select(table, model=model)
        style.title_model(axes, model, color)
        if reason := rows.why_absent(pairs):
            style.note(axes, f"no alignment: {reason}")
            continue
        _draw_map(axes, pairs)
        shown.append(axes)
    for axes in panels[len(colors) :]:
        axes.set_axis_off()
    if shown:
        bar = figure.colorbar(ScalarMappable(ALIKE, MAP), ax=shown, pad=0.02, aspect=12)
        bar.set_label("linear CKA")


def _draw_map(axes: Axes, pairs: pd.DataFrame) -> None:
    taps = pairs["layer"].unique()
    other = pairs["feature"].str.partition(",")[2]
    grid = pairs.assign(other=other).pivot(index="other", columns="layer", values="value")
    axes.pcolormesh(grid.loc[taps, taps], norm=ALIKE, cmap=MAP)
    axes.set_aspect("equal")
    ends = [0, len(taps) - 1]
    axes.set_xticks(np.add(ends, 0.5), taps[ends])
    axes.set_yticks(np.add(ends, 0.5), taps[ends])
