"""How alike patch tokens are over depth, and the cliff, plateau and climb of the centred curve."""

from collections.abc import Mapping

import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitals.figures import rows, style

VARIABLES = {
    "similarity": ("cosine", "centered_cosine"),
    "phases": ("cliff_end", "climb_start", "slope_climb", "pieces", "pieces_share", "fit"),
}
LABELS = {"cosine": "cosine", "centered_cosine": "centred cosine"}
FIT = {"color": style.INK, "linestyle": (0, (4, 2)), "linewidth": 0.7}
FLOOR = {"color": style.INK, "linestyle": ":", "linewidth": 0.8}
PHASES = {"cliff": "0.80", "plateau": "0.96", "climb": "0.88"}


def draw(
    results: Mapping[str, Mapping[str, xr.Dataset]],
    *,
    palette: str = "colorblind",
    scale: float = 1.0,
) -> tuple[Figure, pd.DataFrame]:
    """The figure, and the table of what is in it.

    results: by model, those of similarity and phases.
    """
    found = rows.drawn(results, VARIABLES)
    floors = rows.attribute(results, "similarity", "floor")
    table = pd.concat([found, *floors], ignore_index=True)
    colors = style.colors(results, palette)
    with style.theme(scale):
        figure, panels, together = style.model_panels(list(results), len(LABELS))
        for (model, color), row in zip(colors.items(), panels, strict=True):
            _draw_model(row, rows.select(table, model=model), model, color)
        for column in panels.T:
            style.label_depth(column)
        _make_room(panels[0, -1])
        for axes, (variable, label) in zip(together, LABELS.items(), strict=False):
            style.curves_together(axes, rows.select(table, variable=variable), colors, label)
        fit = style.line_handle("three-piece fit", **FIT)
        floor = style.line_handle("floor −1/(N−1)", **FLOOR)
        shades = [style.patch_handle(name, shade) for name, shade in PHASES.items()]
        style.legend(figure, [*shades, fit, floor])
        style.caption(
            figure,
            style.images(results, "similarity"),
            style.INTERVALS,
            "Bars at the foot: those of the two ends of the plateau. Shades name the three pieces "
            "of the fit by their place; above, the slope of the third, per layer.",
            style.OPEN_MARKERS,
            style.taps(table),
            *rows.missing(table, ["cliff_end"]),
        )
    return figure, table


def _draw_model(panels: list[Axes], table: pd.DataFrame, model: str, color: object) -> None:
    for axes, variable in zip(panels, LABELS, strict=True):
        style.title_model(axes, model, color)
        curve = rows.select(table, variable=variable)
        if reason := rows.why_absent(curve):
            style.note(axes, reason)
            continue
        style.curve(axes, curve, color)
        axes.set_ylabel(LABELS[variable])
        if variable == "centered_cosine":
            _draw_floor(axes, table)
            _draw_phases(axes, table)


def _draw_floor(axes: Axes, table: pd.DataFrame) -> None:
    for floor in rows.select(table, variable="floor")["value"].unique():
        axes.axhline(floor, **FLOOR)


def _make_room(axes: Axes) -> None:
    """Space at the foot of the column for the intervals of the knots."""
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.2 * (high - low), high)


def _draw_phases(axes: Axes, table: pd.DataFrame) -> None:
    """The three phases shaded, the fit, the last slope, and how many pieces the curve supports."""
    ends = [rows.select(table, variable=name) for name in ("cliff_end", "climb_start")]
    if rows.why_absent(ends[0]):
        return
    fit = rows.select(table, variable="fit")
    axes.plot(fit["depth"], fit["value"], zorder=3, **FIT)
    knots = [float(end["value"].iloc[0]) for end in ends]
    edges = [0.0, *knots, fit["depth"].max()]
    for shade, left, right in zip(PHASES.values(), edges, edges[1:], strict=False):
        axes.axvspan(left, right, color=shade, linewidth=0, zorder=0)
    foot = axes.get_xaxis_transform()
    for height, end in zip((0.04, 0.1), ends, strict=True):
        bounds = end[["low", "high"]].to_numpy()[0]
        axes.plot(bounds, [height] * 2, "|-", color=style.INK, transform=foot, markersize=3)
        axes.plot(end["value"], [height], "|", color=style.INK, transform=foot, markersize=5)
    style.title_right(axes, f"{_climb(table)}, {_support(table)}")


def _climb(table: pd.DataFrame) -> str:
    slope = rows.select(table, variable="slope_climb")["value"].iloc[0]
    return f"climb {slope:+.4f}".replace("-", "−")


def _support(table: pd.DataFrame) -> str:
    """How many pieces the curve supports by BIC, and in what share of resamples."""
    count = f"{rows.select(table, variable='pieces')['value'].iloc[0]:.0f}"
    share = rows.select(table, variable="pieces_share", feature=count)["value"]
    sure = f" ({share.iloc[0]:.0%})" if len(share) else ""
    return f"BIC: {count} piece{'s' if count != '1' else ''}{sure}"
