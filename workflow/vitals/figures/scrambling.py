"""How much of the patch embeddings is left at each layer, and how much has moved between tokens."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitals.figures import rows, style
from vitals.metrics.published_values import ISI_BAND
from vitals.metrics.results import absences

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
        ("isi", "patch_shuffled", style.DASHED, "index, patches shuffled"),
        ("isi", "attention_off", style.DASH_DOTTED, "index, attention off"),
    ),
}
BAND = "paper_band"
EXTRACTED_NULLS = ("patch_shuffled", "attention_off")
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
    paper_models: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Figure, pd.DataFrame]:
    """The figure, and the table of what is in it.

    results: by model, that of scrambling; paper_models: which models are one of the paper's: the
    band that the paper reports of it is drawn behind its index.
    """
    table = pd.concat([_shown(rows.drawn(results, VARIABLES)), *_bands(paper_models)])
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
        style.legend(figure, _handles(table))
        style.caption(
            figure,
            style.images(results, "scrambling", "test"),
            style.INTERVALS,
            style.OPEN_MARKERS,
            style.taps(table),
            *rows.missing(table, ["isi_excess"]),
            *_said_of_nulls(results),
        )
    return figure, table


def _bands(paper_models: Mapping[str, str]) -> list[pd.DataFrame]:
    """The band that the paper reports, of the models that are the one it reports it of."""
    bands = {model: ISI_BAND[name] for model, name in paper_models.items() if name in ISI_BAND}
    return [
        rows.extra(m, "scrambling", BAND, value=np.mean(ends), low=ends[0], high=ends[1], unit="1")
        for m, ends in bands.items()
    ]


def _handles(table: pd.DataFrame) -> list[Artist]:
    """Legend entries of the curves that the table holds, and of the paper's band."""
    there = set(zip(table["variable"], table["feature"], strict=True))
    curves = [curve for panel in PANELS.values() for curve in panel if curve[:2] in there]
    bands = [style.patch_handle("the paper's band", style.SHADE)] * (BAND in set(table["variable"]))
    return [*(style.line_handle(name, **line) for *_, line, name in curves), *bands]


def _said_of_nulls(results: Mapping[str, Mapping[str, xr.Dataset]]) -> list[str]:
    """Nulls that were asked for and are not there, with the reason."""
    found = {m: absences(of["scrambling"]) for m, of in results.items() if "scrambling" in of}
    return [
        f"{model}: no null {null} ({absent[null]})."
        for model, absent in found.items()
        for null in EXTRACTED_NULLS
        if null in absent
    ]


def _draw_zero_as_zero(axes: Axes) -> None:
    """An index that is zero everywhere has an axis about zero, and not one of its rounding."""
    if np.ptp(axes.get_ylim()) < ROUNDING:
        axes.set_ylim(-1, 1)


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """Of the nulls the index alone: R² is the measured one."""
    keep = table["feature"].isin(["", "none"]) | (table["variable"] == "isi")
    return table[keep].reset_index(drop=True)


def _draw_curves(axes: Axes, table: pd.DataFrame, label: str, curves: tuple, color: object) -> None:
    found = table[table["variable"].isin([variable for variable, *_ in curves])]
    if reason := rows.why_absent(found):
        style.note(axes, reason)
        return
    for variable, null, line, _ in curves:
        curve = rows.select(table, variable=variable, feature=null)
        if len(curve):
            style.curve(axes, curve, color, **line)
    if any(variable == "isi" for variable, *_ in curves):
        for _, band in rows.select(table, variable=BAND).iterrows():
            axes.axhspan(band["low"], band["high"], color=style.SHADE, linewidth=0, zorder=0)
    if label != next(iter(PANELS)):
        style.zero_line(axes)
    axes.set_ylabel(label)
