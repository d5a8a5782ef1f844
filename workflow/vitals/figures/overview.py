"""A study on one page: every vital sign of every model over relative depth, and its landmarks."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitals.figures import rows, style

# Of each panel: variable, title and unit, and the features among which the first that all have.
PANELS = {
    "cosine": ("token similarity", "cosine", ("",)),
    "centered_cosine": ("centred token similarity", "cosine", ("",)),
    "r2_all": ("information left", "R², from all tokens", ("none",)),
    "isi": ("scrambling index", "R²", ("none",)),
    "cls_inflow": ("attention to [CLS]", "uniform shares", ("",)),
    "consensus": ("attention consensus", "cosine of rows", ("",)),
    "nc1_quotient": ("within-class spread, NC1", "within / between", ("cls", "patch_mean")),
    "nc2_etf_excess": ("distance from simplex, NC2", "norm", ("cls", "patch_mean")),
    "accuracy": ("linear probe", "test accuracy", ("cls", "patch_mean")),
}
MOMENTS = {
    "cliff_end": "cliff ends",
    "climb_start": "climb starts",
    "crossing": "information = task",
    "onset": "trade-off sets in",
    "knee": "knee of the trade-off",
}
VARIABLES = {
    "similarity": ("cosine", "centered_cosine"),
    "scrambling": ("r2_all", "isi"),
    "attention": ("cls_inflow", "consensus"),
    "collapse": ("nc1_quotient", "nc2_etf_excess"),
    "probes": ("accuracy",),
    "phases": ("cliff_end", "climb_start"),
    "tradeoff": ("crossing", "onset", "knee"),
}
COLUMNS = 3
LOGARITHMIC = ("nc1_quotient",)
MOMENTS_ROWS = 1.25  # height of the landmarks, in rows


def draw(
    results: Mapping[str, Mapping[str, xr.Dataset]],
    *,
    palette: str = "colorblind",
    scale: float = 1.0,
) -> tuple[Figure, pd.DataFrame]:
    """The figure, and the table of what is in it.

    results: by model, those of similarity, phases, scrambling, attention, collapse, probes and
    tradeoff.
    """
    table = _headlines(rows.drawn(results, VARIABLES))
    colors = style.colors(results, palette)
    lines = len(PANELS) // COLUMNS
    with style.theme(scale):
        figure = style.page(style.ROW * (lines + MOMENTS_ROWS))
        upper, lower = figure.add_gridspec(2, 1, height_ratios=[lines, MOMENTS_ROWS])
        grid = upper.subgridspec(lines, COLUMNS).subplots()
        for axes, variable in zip(grid.flat, PANELS, strict=True):
            _draw_curves(axes, rows.select(table, variable=variable), variable, colors)
        for axes in [axes for axes in grid[-1] if axes.axison]:
            axes.set_xlabel(style.RELATIVE)
        left, right = lower.subgridspec(1, 2).subplots(sharey=True)
        _draw_moments(left, table, "depth", colors)
        _draw_moments(right, table, "relative_depth", colors)
        style.legend(figure, style.model_handles(colors))
        style.caption(
            figure,
            style.images(results, "similarity"),
            style.images(results, "scrambling", "test"),
            style.INTERVALS,
            style.OPEN_MARKERS,
            "Landmarks in layers from the patch embedding, and as a share of the way to the last "
            "block.",
            *rows.missing(table, [*PANELS, *MOMENTS]),
        )
    return figure, table


def _headlines(table: pd.DataFrame) -> pd.DataFrame:
    """Of several features and nulls, those that are drawn."""
    kept = [_headline(table, variable) for variable in [*PANELS, *MOMENTS]]
    return pd.concat(kept, ignore_index=True)


def _headline(table: pd.DataFrame, variable: str) -> pd.DataFrame:
    """The rows of a variable with one feature, the first that each model that has it has."""
    found = rows.select(table, variable=variable)
    there = found[np.isfinite(found["value"])]
    wanted = PANELS[variable][2] if variable in PANELS else _moments_of(there)
    models = set(there["model"])
    shared = [f for f in wanted if models <= set(rows.select(there, feature=f)["model"])]
    return found[found["feature"].isin(["", *shared[:1]])]


def _moments_of(there: pd.DataFrame) -> list[str]:
    """Features of landmarks: of phases none, of the trade-off information from all tokens."""
    features = there["feature"].unique()
    return ["", *(name for name in features if name.startswith("r2_all,"))] if len(there) else []


def _draw_curves(
    axes: Axes, table: pd.DataFrame, variable: str, colors: Mapping[str, object]
) -> None:
    title, unit, _ = PANELS[variable]
    features = [name for name in table["feature"].unique() if name not in ("", "none")]
    if not rows.why_absent(table):
        if variable in LOGARITHMIC:
            axes.set_yscale("log", nonpositive="mask")
            bounds = table["value"].min(), table["value"].max()
            axes.set_ylim(bounds[0] / 1.3, bounds[1] * 1.3)
        axes.set_title(title)
    style.curves_together(axes, table, colors, ", ".join([unit, *features]), named=False)


def _draw_moments(
    axes: Axes, table: pd.DataFrame, place: str, colors: Mapping[str, object]
) -> None:
    """A row for each landmark and a point with its interval for each model."""
    moments = table[table["variable"].isin(MOMENTS)]
    if reason := rows.why_absent(moments):
        style.note(axes, reason)
        return
    offsets = np.linspace(-0.28, 0.28, len(colors)) if len(colors) > 1 else [0.0]
    for row, variable in enumerate(MOMENTS):
        found = rows.select(table, variable=variable)
        for offset, model in zip(offsets, colors, strict=True):
            point = rows.select(found, model=model).dropna(subset="value")
            if place == "relative_depth":
                point = _relative(point, _last_block(table, model))
            at = np.full(len(point), row + offset)
            style.points_across(axes, at, point, colors[model], markersize=3.5)
    axes.set_yticks(range(len(MOMENTS)), MOMENTS.values())
    axes.set_ylim(len(MOMENTS) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel(style.RELATIVE if place == "relative_depth" else "depth (layers)")
    axes.set_title("landmarks" if place == "depth" else "landmarks, relative to depth")


def _last_block(table: pd.DataFrame, model: str) -> float:
    """The depth of the last block of a model."""
    blocks = table[(table["model"] == model) & (table["relative_depth"] == 1)]
    return float(blocks["depth"].max()) if len(blocks) else np.nan


def _relative(points: pd.DataFrame, last: float) -> pd.DataFrame:
    return points.assign(**{name: points[name] / last for name in ("value", "low", "high")})
