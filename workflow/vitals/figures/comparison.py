"""How models differ over relative depth, and by how many layers, with paired intervals."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vitals.figures import rows, style
from vitals.metrics.results import absences

CURVES = {
    "similarity": {"cosine": "cosine", "centered_cosine": "centred cosine"},
    "scrambling": {
        "r2_all": "R² from all tokens",
        "isi": "scrambling index",
    },
    "attention": {"cls_inflow": "uniform shares to [CLS]", "consensus": "consensus"},
    "collapse": {"nc1_quotient": "NC1", "ncc_accuracy": "NCC"},
    "probes": {"accuracy": "probes"},
}
DEPTHS = {
    "phases": {"climb_start": "climb starts", "plateau_length": "plateau length"},
    "tradeoff": {"crossing": "crossing", "onset": "onset", "knee": "knee"},
}
RELATIVE_DEPTHS = {
    "phases": {"plateau_length_relative": "plateau length"},
    "tradeoff": {f"{name}_relative": label for name, label in DEPTHS["tradeoff"].items()},
}
# What differs by decades over depth is drawn on an axis that is linear only up to this difference.
LINEAR_UP_TO = {"NC1": 0.1}
# Of what there is for several features and nulls, what is drawn.
FEATURES = ("", "none", "cls", "patch_mean")
INFORMATION = "r2_all"
MOST_PAIRS = 6
COLUMNS = 4
ROW = 0.85 * style.ROW
DEPTHS_ROWS = 1.3  # height of the lower panels, in rows
SEPARATOR = "_difference, "  # between a variable and the model that lacks it
STRIPES = (0, (3, 3))
Labels = Mapping[str, Mapping[str, str]]


def draw(
    results: Mapping[str, xr.Dataset],
    *,
    palette: str = "colorblind",
    scale: float = 1.0,
) -> tuple[Figure, pd.DataFrame]:
    """The figure, and the table of what is in it.

    results: by metric, the differences between models; a line has the colours of both its models.
    """
    models, pairs = _models_and_pairs(results)
    colors = style.colors(models, palette)
    stripes = {pair: (colors[first], colors[second]) for pair, (first, second) in pairs.items()}
    curves = _drawn(results, CURVES, "_difference_relative", pairs)
    depths = _drawn(results, DEPTHS, "_difference", pairs)
    relative = _drawn(results, RELATIVE_DEPTHS, "_difference", pairs)
    lacks = _lacks(results)
    panels = _panels(curves)
    lines = -(-len(panels) // COLUMNS)
    with style.theme(scale):
        figure = style.page(ROW * (lines + DEPTHS_ROWS))
        upper, lower = figure.add_gridspec(2, 1, height_ratios=[lines, DEPTHS_ROWS])
        grid = upper.subgridspec(lines, COLUMNS).subplots(squeeze=False)
        _draw_panels(grid.ravel(), panels, stripes)
        left, right = lower.subgridspec(1, 2).subplots()
        _draw_depths(left, depths, DEPTHS, "difference (layers)", stripes)
        _draw_depths(right, relative, RELATIVE_DEPTHS, "difference (relative depth)", stripes)
        style.legend(figure, _handles(stripes))
        style.caption(
            figure,
            _images(results),
            "The first model less the second, at equal relative depth; below, of several features "
            "the first that both have. Bands and bars: 95 % intervals of a bootstrap over the same "
            "images for both.",
            *(
                f"{row['model']}: no {row['variable']} ({row['note']})."
                for _, row in lacks.iterrows()
            ),
        )
    return figure, pd.concat([curves, depths, relative, lacks], ignore_index=True)


def _images(results: Mapping[str, xr.Dataset]) -> str:
    """How many images both models of a pair have, by metric."""
    metrics: dict[int, list[str]] = {}
    for metric, result in results.items():
        if "images" in result.attrs and metric in CURVES:
            metrics.setdefault(int(result.attrs["images"]), []).append(metric)
    said = [f"{count:,} images ({', '.join(names)})" for count, names in metrics.items()]
    return f"n = {'; '.join(said)}." if said else ""


def _models_and_pairs(
    results: Mapping[str, xr.Dataset],
) -> tuple[list[str], dict[str, tuple[str, str]]]:
    """The models in the order of the study, and the pairs to draw: all, or neighbours of many."""
    pairs: dict[str, tuple[str, str]] = {}
    for result in results.values():
        if "pair" in result.coords:
            names = (result[name].values.astype(str) for name in ("pair", "first", "second"))
            pairs |= {pair: (first, second) for pair, first, second in zip(*names, strict=True)}
    models = list(
        dict.fromkeys(model for sides in zip(*pairs.values(), strict=True) for model in sides)
    )
    if len(pairs) > MOST_PAIRS:
        neighbours = list(pairwise(models))
        pairs = {pair: sides for pair, sides in pairs.items() if sides in neighbours}
    return models, pairs


def _drawn(
    results: Mapping[str, xr.Dataset], labels: Labels, ending: str, pairs: Mapping[str, object]
) -> pd.DataFrame:
    """The rows of the pairs that are drawn, and of what no pair has."""
    variables = {metric: [name + ending for name in names] for metric, names in labels.items()}
    table = rows.drawn({"": results}, variables)
    features = table["feature"].str.removeprefix(f"{INFORMATION},")
    return table[table["model"].isin(["", *pairs]) & features.isin(FEATURES)]


def _lacks(results: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """A row for each variable that one model lacks, and so its pairs."""
    reasons = {
        (metric, key): why
        for metric in CURVES
        for key, why in absences(results.get(metric, xr.Dataset())).items()
        if SEPARATOR in key
    }
    frames = [
        rows.extra(key.partition(SEPARATOR)[2], metric, key.partition(SEPARATOR)[0], note=why)
        for (metric, key), why in reasons.items()
    ]
    return pd.concat(frames) if frames else rows.extra("", "", "").iloc[:0]


def _panels(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each panel by its title: a variable, or one feature of it."""
    panels = {}
    for names in CURVES.values():
        for name, label in names.items():
            found = rows.select(table, variable=f"{name}_difference_relative")
            for feature, part in found.groupby("feature", sort=False):
                suffix = "" if feature in ("", "none") else f", {feature}"
                panels[label + suffix] = part
    return panels


def _draw_panels(
    grid: Sequence[Axes], panels: Mapping[str, pd.DataFrame], stripes: Mapping[str, Sequence]
) -> None:
    for axes, (title, found) in zip(grid, panels.items(), strict=False):
        axes.set_title(title)
        _draw_curves(axes, found, stripes)
        for label, limit in LINEAR_UP_TO.items():
            if title.startswith(label) and axes.axison:
                axes.set_yscale("symlog", linthresh=limit)
    for axes in grid[max(0, len(panels) - COLUMNS) : len(panels)]:
        axes.set_xlabel("relative depth")
    for axes in grid[len(panels) :]:
        axes.set_axis_off()


def _draw_curves(axes: Axes, table: pd.DataFrame, stripes: Mapping[str, Sequence]) -> None:
    if reason := rows.why_absent(table):
        style.note(axes, reason)
        return
    style.zero_line(axes)
    for pair, curve in table.groupby("model", sort=False):
        first, second = stripes[pair]
        place = curve["relative_depth"]
        axes.plot(place, curve["value"], color=first, gapcolor=second, linestyle=STRIPES)
        band = {"color": _between(first, second), "alpha": style.BAND, "linewidth": 0}
        axes.fill_between(place, curve["low"], curve["high"], **band)
    axes.set_xticks([0, 0.5, 1])


def _draw_depths(
    axes: Axes, table: pd.DataFrame, labels: Labels, unit: str, stripes: Mapping[str, Sequence]
) -> None:
    """A row for each quantity and a point for each pair."""
    if reason := rows.why_absent(table):
        style.note(axes, reason)
        return
    names = {name: label for group in labels.values() for name, label in group.items()}
    axes.axvline(0, color=style.FAINT, linewidth=0.6, zorder=0.5)
    offsets = np.linspace(-0.25, 0.25, len(stripes)) if len(stripes) > 1 else [0.0]
    for row, name in enumerate(names):
        found = rows.select(table, variable=f"{name}_difference")
        for offset, (pair, (first, second)) in zip(offsets, stripes.items(), strict=True):
            point = rows.select(found, model=pair).dropna(subset="value").head(1)
            halves = {"fillstyle": "left", "markerfacecoloralt": second, "markeredgewidth": 0}
            at = np.full(len(point), row + offset)
            style.points_across(axes, at, point, first, markersize=5, **halves)
    axes.set_yticks(range(len(names)), names.values())
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(unit)


def _between(first: Sequence[float], second: Sequence[float]) -> tuple[float, ...]:
    return tuple((a + b) / 2 for a, b in zip(first, second, strict=True))


def _handles(stripes: Mapping[str, Sequence]) -> list[Artist]:
    return [
        Line2D([], [], color=first, gapcolor=second, linestyle=STRIPES, label=pair)
        for pair, (first, second) in stripes.items()
    ]
