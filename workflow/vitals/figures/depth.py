"""What an early exit gives up and saves: with a probe of its own, and with the model's head."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitals.figures import rows, style

LOSS, COMPUTE, OWN = "exit_loss", "exit_compute", "top1_change_by_place"
DEPTHS = ("useful_depth", "recommended_depth", "blocks")
EXIT = "exit"
APART = 0.16  # between the features of a model, in rows
MOST_BANDS = 8  # models whose bands can be told apart


def draw(
    results: Mapping[str, Mapping[str, xr.Dataset]],
    *,
    palette: str = "colorblind",
    scale: float = 1.0,
) -> tuple[Figure, pd.DataFrame]:
    """The figure, and the table of what is in it.

    results: by model, those of depth and interventions.
    """
    table = rows.drawn(results, {"depth": (LOSS, *DEPTHS), "interventions": (COMPUTE, OWN)})
    table = table[(table["variable"] != OWN) | table["feature"].isin(["", EXIT])]
    colors = style.colors(results, palette)
    with style.theme(scale):
        figure = style.page(max(2 * style.ROW, 0.3 * len(colors)))
        losses, own, depths = figure.subplots(1, 3)
        _draw_losses(losses, table, colors)
        _draw_own(own, table, colors)
        _draw_depths(depths, rows.select(table, metric="depth"), colors)
        models = style.model_handles(colors) if len(colors) <= MOST_BANDS else []
        style.legend(figure, [*models, *style.feature_handles(table)])
        style.caption(
            figure,
            style.images(results, "interventions", "test"),
            "Compute: share of the operations of the whole model. Right: useful depth with its "
            "interval; ▶ the depth to choose, | all blocks.",
            _thinned(table, len(colors)),
            style.INTERVALS,
            *rows.missing(table, (LOSS, COMPUTE, OWN, "useful_depth")),
        )
    return figure, table.reset_index(drop=True)


def _thinned(table: pd.DataFrame, models: int) -> str:
    """What the curves of many models leave out."""
    losses = rows.select(table, variable=LOSS)
    if models <= MOST_BANDS or losses.empty:
        return ""
    drawn = " or ".join(losses.groupby("model", sort=False)["feature"].first().unique())
    return f"Curves of {drawn} alone, without bands: {models} models."


def _draw_losses(axes: Axes, table: pd.DataFrame, colors: Mapping[str, object]) -> None:
    found = rows.select(table, variable=LOSS)
    if reason := rows.why_absent(found):
        style.note(axes, reason)
        return
    style.zero_line(axes)
    for model, losses in found.groupby("model", sort=False):
        features = losses["feature"].unique()
        if len(colors) > MOST_BANDS:
            features = features[:1]
        for feature in features:
            loss = rows.select(losses, feature=feature)
            curve = _over_compute(loss, rows.select(table, model=model, variable=COMPUTE))
            _draw_curve(axes, curve, model, colors, **style.FEATURES.get(feature, {}))
    axes.set_xlabel("share of compute")
    axes.set_ylabel("accuracy lost by the exit")
    axes.set_title("exit with its own probe")


def _draw_own(axes: Axes, table: pd.DataFrame, colors: Mapping[str, object]) -> None:
    found = rows.select(table, variable=OWN)
    if reason := rows.why_absent(found):
        style.note(axes, reason)
        return
    style.zero_line(axes)
    for model, change in found.groupby("model", sort=False):
        curve = _over_compute(change, rows.select(table, model=model, variable=COMPUTE))
        _draw_curve(axes, curve, model, colors)
    axes.set_xlabel("share of compute")
    axes.set_ylabel("change of accuracy")
    axes.set_title("exit to the model's own head")


def _draw_curve(
    axes: Axes, curve: pd.DataFrame, model: str, colors: Mapping[str, object], **line: object
) -> None:
    """A curve over compute; of many models without its band."""
    if len(colors) > MOST_BANDS:
        axes.plot(curve["compute"], curve["value"], color=colors[model], linewidth=0.8)
    else:
        style.curve(axes, curve, colors[model], x="compute", **line)


def _over_compute(curve: pd.DataFrame, compute: pd.DataFrame) -> pd.DataFrame:
    """The curve with the share of compute of each of its taps, where that is known."""
    share = compute.set_index("layer")["value"]
    curve = curve.assign(compute=curve["layer"].map(share).astype(float))
    return curve[np.isfinite(curve["compute"]) & np.isfinite(curve["value"])]


def _draw_depths(axes: Axes, table: pd.DataFrame, colors: Mapping[str, object]) -> None:
    if reason := rows.why_absent(rows.select(table, variable="useful_depth")):
        style.note(axes, reason)
        return
    for row, (model, color) in enumerate(colors.items()):
        found = rows.select(table, model=model)
        useful = rows.select(found, variable="useful_depth")
        for place, feature in enumerate(useful["feature"]):
            at = row + APART * (place - (len(useful) - 1) / 2)
            marker = style.FEATURES.get(feature, style.SOLID)["marker"]
            point = rows.select(useful, feature=feature)
            style.points_across(axes, [at], point, color, fmt=marker, markersize=3)
            chosen = rows.select(found, variable="recommended_depth", feature=feature)
            axes.plot(chosen["value"], [at] * len(chosen), ">", color=color, markersize=3,
                      markerfacecolor="white")  # fmt: skip
        blocks = rows.select(found, variable="blocks")["value"]
        axes.plot(blocks, [row] * len(blocks), "|", color=style.INK, markersize=9)
    axes.set_yticks(range(len(colors)), list(colors))
    for label, color in zip(axes.get_yticklabels(), colors.values(), strict=True):
        label.set_color(color)
    axes.set_ylim(len(colors) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("blocks")
    axes.set_title("how deep to go")
