"""What each change of the forward pass takes of the accuracy, over its strength or its place."""

from collections.abc import Mapping
from itertools import zip_longest

import pandas as pd
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vitals.figures import rows, style
from vitals.metrics.results import absences

STRENGTH, CONTROL, PLACE = (f"top1_change_by_{by}" for by in ("strength", "control", "place"))
PLACES = {
    "[CLS] replaced": ("cls_mean", "cls_other", "cls_zero"),
    "patches replaced": ("patch_mean", "patch_other", "patch_zero"),
    "attention cut": ("to_cls_cut", "from_cls_cut", "attention_off"),
    "blocks": ("block_skipped", "exit"),
}
LINES = (style.SOLID, style.DASHED, style.DOTTED)
WORDS = {
    "cls_mean": "by the mean",
    "cls_other": "by another image's",
    "cls_zero": "by zero",
    "patch_mean": "by the mean",
    "patch_other": "by another image's",
    "patch_zero": "by zero",
    "to_cls_cut": "to [CLS]",
    "from_cls_cut": "from [CLS]",
    "attention_off": "all attention off",
    "block_skipped": "skipped",
    "exit": "exit",
}
MARKERS = {"random_field": "X", "shuffled_rows": "D", "mean_only": "_"}
CONTROL_LABELS = {
    "random_field": "random field for positions",
    "shuffled_rows": "shuffled positions",
    "mean_only": "mean position",
}


def draw(
    results: Mapping[str, Mapping[str, xr.Dataset]],
    *,
    palette: str = "colorblind",
    scale: float = 1.0,
) -> tuple[Figure, pd.DataFrame]:
    """The figure, and the table of what is in it.

    results: by model, that of interventions.
    """
    table = rows.drawn(results, {"interventions": (STRENGTH, CONTROL, PLACE)})
    colors = style.colors(results, palette)
    columns = _asked(table)
    with style.theme(scale):
        figure = style.page(style.ROW * len(colors))
        panels = figure.subplots(len(colors), 1 + len(columns), sharey=True, squeeze=False)
        for row, (line, (model, color)) in enumerate(zip(panels, colors.items(), strict=True)):
            found = rows.select(table, model=model)
            _draw_positions(line[0], found, color)
            style.title_model(line[0], model, color)
            reasons = absences(results[model].get("interventions", xr.Dataset()))
            for axes, (title, kinds) in zip(line[1:], columns.items(), strict=True):
                _draw_places(axes, found, kinds, color, reasons)
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
                if row == 0:
                    axes.set_title(title)
        for axes in panels[-1, 1:]:
            axes.set_xlabel("depth")
        panels[-1, 0].set_xlabel("strength of positions")
        style.legend(figure, _handles(table))
        style.caption(
            figure,
            style.images(results, "interventions", "test"),
            "Change of top-1 accuracy against the model as it is, on the same images.",
            style.INTERVALS,
            *rows.missing(table, (STRENGTH, CONTROL, PLACE)),
        )
    return figure, table


def _handles(table: pd.DataFrame) -> list[Artist]:
    drawn = set(rows.select(table, variable=CONTROL)["feature"])
    made = set(rows.select(table, variable=PLACE)["feature"])
    lines = []
    for kinds, line in zip(zip_longest(*PLACES.values()), LINES, strict=True):
        words = dict.fromkeys(WORDS[kind] for kind in kinds if kind in made)
        if words:
            lines.append(style.line_handle("; ".join(words), **line))
    points = [
        style.line_handle(CONTROL_LABELS[name], linestyle="", marker=marker)
        for name, marker in MARKERS.items()
        if name in drawn
    ]
    return [*lines, *points]


def _draw_positions(axes: Axes, table: pd.DataFrame, color: object) -> None:
    found = rows.select(table, variable=STRENGTH)
    if reason := rows.why_absent(found):
        style.note(axes, reason)
        return
    style.zero_line(axes)
    strength = found["feature"].astype(float)
    style.curve(axes, found.assign(strength=strength), color, x="strength")
    controls = rows.select(table, variable=CONTROL)
    for name, marker in MARKERS.items():
        drawn = rows.select(controls, feature=name)
        style.points(axes, [1.0] * len(drawn), drawn, style.INK, fmt=marker, markersize=4)
    axes.set_ylabel("change of accuracy")


def _asked(table: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """The columns of changes that any model has."""
    made = set(rows.select(table, variable=PLACE)["feature"])
    return {title: kinds for title, kinds in PLACES.items() if made.intersection(kinds)}


def _draw_places(
    axes: Axes,
    table: pd.DataFrame,
    kinds: tuple[str, ...],
    color: object,
    reasons: Mapping[str, str],
) -> None:
    changes = rows.select(table, variable=PLACE)
    changes = changes[changes["feature"].isin(kinds)]
    if rows.why_absent(changes):
        said = (reasons[name] for name in (*kinds, PLACE) if name in reasons)
        style.note(axes, next(said, "it is not defined anywhere"))
        return
    style.zero_line(axes)
    for kind, line in zip(kinds, LINES, strict=False):
        found = rows.select(changes, feature=kind)
        style.curve(axes, found[found["value"].notna()], color, **line)
