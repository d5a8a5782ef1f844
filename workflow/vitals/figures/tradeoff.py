"""What each layer gains for the task against what it loses of the input."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vitals.figures import rows, style

INFORMATION, TASK = "r2_all", "accuracy"
SCALED = {INFORMATION: style.SOLID, TASK: style.DASHED}
MOMENTS = ("crossing", "onset", "knee")
FOOT = {"onset": ("^", 0.05), "knee": ("D", 0.13)}  # marker, height above the axis
VARIABLES = {
    "scrambling": (INFORMATION,),
    "probes": (TASK,),
    "tradeoff": (*MOMENTS, "crossing_relative"),
}
LABELS = {INFORMATION: "R² of the patch embedding from all tokens", TASK: "probe accuracy"}
TRAJECTORY_ROWS = 3
PALEST = 0.15  # of a model's colour, at the first tap


def draw(
    results: Mapping[str, Mapping[str, xr.Dataset]],
    *,
    palette: str = "colorblind",
    scale: float = 1.0,
) -> tuple[Figure, pd.DataFrame]:
    """The figure, and the table of what is in it.

    results: by model, those of scrambling, probes and tradeoff.
    """
    table = _with_scaled(_headline(rows.drawn(results, VARIABLES)))
    colors = style.colors(results, palette)
    count = len(colors)
    with style.theme(scale):
        figure = style.page(style.ROW * max(count, 2))
        grid = figure.add_gridspec(count, 2)
        plane = figure.add_subplot(grid[: min(count, TRAJECTORY_ROWS), 0])
        _draw_trajectories(plane, table, colors)
        panels = [figure.add_subplot(grid[index, 1]) for index in range(count)]
        for axes, (model, color) in zip(panels, colors.items(), strict=True):
            _draw_curves(axes, rows.select(table, model=model), model, color)
        style.label_depth(panels)
        style.legend(figure, _handles())
        style.caption(
            figure,
            style.images(results, "scrambling", "test"),
            style.INTERVALS,
            "Left: points darken with depth, the star is the crossing. Right: curves from their "
            "least (0) to their most (1), the line is the crossing; open: after the final norm.",
            style.taps(table),
            style.by_model(rows.notes(rows.select(table, metric="tradeoff")), results),
            *rows.missing(table, FOOT),
        )
    return figure, table


def _handles() -> list[Artist]:
    names = {INFORMATION: "information (R²)", TASK: "task (accuracy)"}
    lines = [style.line_handle(names[name], **line) for name, line in SCALED.items()]
    feet = [style.line_handle(name, linestyle="", marker=m) for name, (m, _) in FOOT.items()]
    return [*lines, *feet]


def _headline(table: pd.DataFrame) -> pd.DataFrame:
    """Of each model the measured information, and the first feature that has an accuracy."""
    kept = []
    for _, found in table.groupby("model", sort=False):
        feature = rows.select(found, variable=TASK)["feature"].iloc[0]
        moment = ",".join(part for part in (INFORMATION, feature) if part)
        kept.append(found[found["feature"].isin(["", "none", feature, moment])])
    return pd.concat(kept, ignore_index=True)


def _with_scaled(table: pd.DataFrame) -> pd.DataFrame:
    """And both curves of each model from their least, 0, to their most, 1."""
    frames = [table]
    for variable in SCALED:
        for _, curve in rows.select(table, variable=variable).groupby("model", sort=False):
            least, most = curve["value"].min(), curve["value"].max()
            if most > least:
                bounds = ["value", "low", "high"]
                scaled = curve.assign(variable=f"{variable}, scaled", unit="1")
                scaled[bounds] = (curve[bounds] - least) / (most - least)
                frames.append(scaled)
    return pd.concat(frames, ignore_index=True)


def _draw_trajectories(axes: Axes, table: pd.DataFrame, colors: Mapping[str, object]) -> None:
    paths = {model: _path(rows.select(table, model=model)) for model in colors}
    paths = {model: path for model, path in paths.items() if len(path)}
    if not paths:
        curves = [rows.select(table, variable=variable) for variable in (INFORMATION, TASK)]
        style.note(axes, next(filter(None, map(rows.why_absent, curves))))
        return
    for model, path in paths.items():
        _draw_path(axes, path, colors[model])
        crossing = rows.select(table, model=model, variable="crossing")["value"]
        for depth in crossing.dropna():
            place = [np.interp(depth, path["depth"], path[name]) for name in ("x", "y")]
            star = {"color": colors[model], "markeredgecolor": style.INK, "zorder": 4}
            axes.plot(*place, "*", markersize=9, **star)
    axes.set_xlabel(LABELS[INFORMATION])
    features = rows.select(table, variable=TASK)["feature"].unique()
    axes.set_ylabel(f"{LABELS[TASK]}, {' or '.join(filter(None, features))}".rstrip(", "))
    axes.set_title("trajectories")
    axes.margins(x=0.12, y=0.08)


def _path(table: pd.DataFrame) -> pd.DataFrame:
    """Information x and task y of the taps that have both, in order of depth."""
    x, y = (
        rows.select(table, variable=variable).set_index("layer")["value"]
        for variable in (INFORMATION, TASK)
    )
    place = table[table["layer"] != ""].drop_duplicates("layer").set_index("layer")
    path = place[["depth", "relative_depth"]].assign(x=x, y=y)
    return path.dropna().sort_values("depth").reset_index()


def _draw_path(axes: Axes, path: pd.DataFrame, color: object) -> None:
    """A model's way through the plane: its taps, and the name of the last."""
    axes.plot(path["x"], path["y"], color=color, linewidth=0.8)
    for _, tap in path.iterrows():
        shade = _shade(color, tap["relative_depth"])
        axes.plot(tap["x"], tap["y"], "o", markersize=4, color=shade, markeredgecolor=color)
    for _, tap in path.tail(1).iterrows():
        look = {"color": color, "ha": "center", "textcoords": "offset points"}
        axes.annotate(tap["layer"], (tap["x"], tap["y"]), xytext=(0, 5), **look)


def _shade(color: object, share: float) -> tuple[float, ...]:
    """A colour, paler near the first tap."""
    strength = PALEST + (1 - PALEST) * min(share, 1.0)  # tap "norm" lies beyond 1
    return tuple(1 - strength * (1 - channel) for channel in to_rgb(color))


def _draw_curves(axes: Axes, table: pd.DataFrame, model: str, color: object) -> None:
    style.title_model(axes, model, color)
    curves = {name: rows.select(table, variable=f"{name}, scaled") for name in SCALED}
    for variable, curve in curves.items():
        if curve.empty:
            reason = rows.why_absent(rows.select(table, variable=variable))
            style.note(axes, reason or f"{LABELS[variable]} does not change over depth")
            return
    for variable, curve in curves.items():
        style.curve(axes, curve, color, **SCALED[variable])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("share of range")
    axes.set_ylim(-0.25, 1.08)
    _draw_moments(axes, table)


def _draw_moments(axes: Axes, table: pd.DataFrame) -> None:
    """The crossing as a line with its interval, onset and knee as markers at the foot."""
    found = {name: rows.select(table, variable=name) for name in MOMENTS}
    crossing = found["crossing"]
    if reason := rows.why_absent(crossing):
        style.title_right(axes, reason)
    else:
        layers, low, high = crossing[["value", "low", "high"]].to_numpy()[0]
        relative = rows.select(table, variable="crossing_relative")["value"].iloc[0]
        axes.axvline(layers, color=style.INK, linewidth=0.8)
        axes.axvspan(low, high, color=style.INK, alpha=0.12, linewidth=0)
        style.title_right(axes, f"crossing at {layers:.1f} layers ({relative:.2f})")
    for name, (marker, height) in FOOT.items():
        shown = found[name].dropna(subset="value")
        heights = np.full(len(shown), height)
        style.points_across(
            axes, heights, shown, style.INK, fmt=marker, transform=axes.get_xaxis_transform()
        )
