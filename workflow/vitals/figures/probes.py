"""What a linear probe reads of the class from [CLS], from the patches and from both, by layer."""

from collections.abc import Mapping

import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitals.figures import rows, style

VARIABLES = {"probes": ("accuracy", "accuracy_gap")}
LABELS = {"accuracy": "test accuracy", "accuracy_gap": "patch_mean − cls"}
MAJORITY = {"color": style.FAINT, "linewidth": 0.8}


def draw(
    results: Mapping[str, Mapping[str, xr.Dataset]],
    *,
    palette: str = "colorblind",
    scale: float = 1.0,
) -> tuple[Figure, pd.DataFrame]:
    """The figure, and the table of what is in it.

    results: by model, that of probes.
    """
    found = rows.drawn(results, VARIABLES)
    chance = rows.attribute(results, "probes", "majority_accuracy")
    table = pd.concat([found, *chance], ignore_index=True)
    colors = style.colors(results, palette)
    with style.theme(scale):
        figure, panels, together = style.model_panels(list(results), len(LABELS))
        for (model, color), row in zip(colors.items(), panels, strict=True):
            for axes, variable in zip(row, LABELS, strict=True):
                style.title_model(axes, model, color)
                _draw_variable(axes, rows.select(table, model=model), variable, color)
        for column in panels.T:
            style.label_depth(column)
        for axes, (variable, label) in zip(together, _together(table).items(), strict=False):
            shown = rows.select(table, variable=variable)
            if variable == "accuracy":
                shown = rows.select(shown, feature=_headline(shown))
            style.curves_together(axes, shown, colors, label)
            if variable == "accuracy_gap":
                style.zero_line(axes)
        style.legend(
            figure,
            [*style.feature_handles(table), style.line_handle("most frequent class", **MAJORITY)],
        )
        style.caption(
            figure,
            style.images(results, "probes", "test"),
            style.INTERVALS,
            style.OPEN_MARKERS,
            style.taps(table),
            style.by_model(rows.reasons(results, "probes", "classes"), results),
        )
    return figure, table


def _headline(accuracy: pd.DataFrame) -> str:
    """The feature by which models are compared: the first that each with an accuracy has."""
    there = accuracy[accuracy["value"].notna()]
    models = there["model"].nunique()
    shared = there.groupby("feature", sort=False)["model"].nunique() == models
    return next(iter(shared.index[shared]), "")


def _together(table: pd.DataFrame) -> dict[str, str]:
    accuracy = rows.select(table, variable="accuracy")
    return {**LABELS, "accuracy": f"test accuracy, {_headline(accuracy)}".rstrip(", ")}


def _draw_variable(axes: Axes, table: pd.DataFrame, variable: str, color: object) -> None:
    found = rows.select(table, variable=variable)
    if reason := rows.why_absent(found):
        style.note(axes, reason)
        return
    for feature, curve in found.groupby("feature", sort=False):
        style.curve(axes, curve, color, **style.FEATURES.get(feature, style.SOLID))
    if variable == "accuracy":
        for chance in rows.select(table, variable="majority_accuracy")["value"]:
            axes.axhline(chance, **MAJORITY)
    else:
        style.zero_line(axes)
    axes.set_ylabel(LABELS[variable])
