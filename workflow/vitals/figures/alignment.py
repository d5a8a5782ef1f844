"""Which taps of two models hold the same geometry: a map for each pair of models."""

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

CKA = "cka"
FEATURE = "patch_mean"  # what every model has
COLUMNS = 3
HEIGHT = 1.4  # of a row of maps, in rows
MAP, ALIKE = sns.color_palette("mako", as_cmap=True), Normalize(0, 1)


def draw(
    results: Mapping[str, xr.Dataset],
    *,
    palette: str = "colorblind",
    scale: float = 1.0,
) -> tuple[Figure, pd.DataFrame]:
    """The figure, and the table of what is in it.

    results: by name, that of alignment.
    """
    result = results["alignment"]
    table = rows.drawn({"": results}, {"alignment": [CKA]})
    feature = table["feature"].str.partition(",")[0]
    table = table[feature.isin(["", FEATURE])].reset_index(drop=True)
    names = (result[name].values.astype(str) for name in ("pair", "first", "second"))
    pairs = {pair: (first, second) for pair, first, second in zip(*names, strict=True)}
    models = dict.fromkeys(model for sides in pairs.values() for model in sides)
    with style.theme(scale):
        colors = style.colors(models, palette)
        lines = max(1, -(-len(pairs) // COLUMNS))
        figure = style.page(HEIGHT * style.ROW * lines)
        columns = max(1, min(len(pairs), COLUMNS))
        panels = figure.subplots(lines, columns, squeeze=False).ravel()
        shown = []
        for axes, pair in zip(panels, pairs, strict=False):
            if _draw_pair(axes, rows.select(table, model=pair), pairs[pair], colors):
                shown.append(axes)
        for axes in panels[len(pairs) :]:
            axes.set_axis_off()
        if not pairs:
            style.note(panels[0], rows.why_absent(table))
        if shown:
            bar = figure.colorbar(ScalarMappable(ALIKE, MAP), ax=shown, pad=0.02, aspect=12)
            bar.set_label("linear CKA")
        style.caption(
            figure,
            _images(result),
            "Linear CKA of the mean patch between all taps of two models, unbiased.",
            "Ticks at the first tap and the last.",
            *(f"{key.removeprefix('cka, ')}: {why}." for key, why in absences(result).items()),
        )
    return figure, table


def _images(result: xr.Dataset) -> str:
    return f"n = {result[CKA].attrs['images']:,} images." if CKA in result else ""


def _draw_pair(
    axes: Axes, table: pd.DataFrame, sides: tuple[str, str], colors: Mapping[str, object]
) -> bool:
    """The map of a pair, or a note; whether there was one to draw."""
    first, second = sides
    if reason := rows.why_absent(table):
        style.note(axes, f"no alignment of {first} and {second}: {reason}")
        return False
    other = table["feature"].str.partition(",")[2]
    taps, other_taps = table["layer"].unique(), other.unique()
    grid = table.assign(other=other).pivot(index="other", columns="layer", values="value")
    axes.pcolormesh(grid.loc[other_taps, taps], norm=ALIKE, cmap=MAP)
    axes.set_aspect("equal")
    for axis, names, model in ((axes.xaxis, taps, first), (axes.yaxis, other_taps, second)):
        ends = [0, len(names) - 1]
        axis.set_ticks(np.add(ends, 0.5), names[ends])
        axis.set_label_text(model, color=colors[model], fontweight="bold")
    return True
