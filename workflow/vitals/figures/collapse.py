"""Neural collapse over depth: spread within classes, shape of their means, and the classifier."""

from collections.abc import Mapping

import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitals.figures import rows, style

PANELS = {
    "nc1_quotient": "NC1: within / between scatter",
    "nc2_etf_excess": "NC2: distance from simplex",
    "nc3_alignment": "NC3: cosine, weights to means",
    "nc4_agreement": "NC4: agreement with NCC",
    "ncc_accuracy": "NCC: accuracy",
}
VARIABLES = {"collapse": tuple(PANELS)}
LOGARITHMIC = "nc1_quotient"
MARGIN = 1.3  # of the logarithmic axis, whose intervals may have no end


def draw(
    results: Mapping[str, Mapping[str, xr.Dataset]],
    *,
    palette: str = "colorblind",
    scale: float = 1.0,
) -> tuple[Figure, pd.DataFrame]:
    """The figure, and the table of what is in it.

    results: by model, that of collapse.
    """
    table = rows.drawn(results, VARIABLES)
    attributes = {m: found.get("collapse", xr.Dataset()).attrs for m, found in results.items()}
    colors = style.colors(results, palette)
    with style.theme(scale):
        figure = style.page(2.4 * style.ROW)
        panels = figure.subplots(2, 3)
        for axes, (variable, label) in zip(panels.flat, PANELS.items(), strict=False):
            axes.set_title(label)
            _draw_variable(axes, rows.select(table, variable=variable), colors)
        for axes in panels.flat[len(PANELS) :]:
            axes.set_axis_off()
        handles = [*style.model_handles(colors), *style.feature_handles(table)]
        panels.flat[-1].legend(handles=handles, loc="center left")
        style.caption(
            figure,
            style.by_model(_sizes(attributes), results),
            style.INTERVALS,
            style.OPEN_MARKERS,
            style.by_model(_warnings(attributes), results),
            style.by_model(rows.notes(table), results),
            style.by_model(rows.reasons(results, "collapse", "classes"), results),
            *rows.missing(table, PANELS),
        )
    return figure, table


def _sizes(attributes: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    """The number of images and classes, and the width of each model."""
    return {
        model: f"n = {attrs['fit_images']:,} fit images (NC1, NC2, NC3) and "
        f"{attrs['test_images']:,} test images (NC4, NCC), C = {attrs['classes']} classes, "
        f"D = {attrs['channels']} channels"
        for model, attrs in attributes.items()
        if "classes" in attrs
    }


def _warnings(attributes: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    """Where a model's width and number of classes rule its values."""
    return {
        model: str(attrs["regime_warning"])
        for model, attrs in attributes.items()
        if "regime_warning" in attrs
    }


def _draw_variable(axes: Axes, table: pd.DataFrame, colors: Mapping[str, object]) -> None:
    if reason := rows.why_absent(table):
        style.note(axes, reason)
        return
    there = table[table["layer"] != ""]
    for (model, feature), curve in there.groupby(["model", "feature"], sort=False):
        line = style.FEATURES.get(feature, style.SOLID)
        style.curve(axes, curve, colors[model], x="relative_depth", **line)
    if table["variable"].iloc[0] == LOGARITHMIC:
        axes.set_yscale("log", nonpositive="mask")
        axes.set_ylim(there["value"].min() / MARGIN, there["value"].max() * MARGIN)
    axes.set_xlabel(style.RELATIVE)
