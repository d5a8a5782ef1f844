"""How figures look: one theme, one colour a model, bands for intervals, notes for what is absent.

No figure belongs to pyplot, and no setting outlives the `theme` it is drawn in.
"""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from scipy.optimize import isotonic_regression

from vitals.errors import VitalsError
from vitals.figures import look
from vitals.figures.rows import why_absent
from vitals.metrics.axes import NORM

WIDTH = 7.2  # inches, both columns of a page
ROW = 1.55  # inches, a row of panels
MARGIN = 0.8  # inches, the legend and the caption
TEXT = 7.0  # points, at scale 1
INK, FAINT, SHADE = "0.15", "0.6", "0.88"
BAND = 0.22  # opacity of an interval
FAR = 1e30  # where a bound that is infinite is drawn: outside any axis
LETTER = 0.55  # mean width of a letter, in heights of the font
BOLD = 1.15  # width of a letter in bold
PANEL = 0.85  # of the width of a column, what its axes take
MOST_FOR_NAMES = 0.34  # of the width of a panel, what names beside curves may take
PANEL_HEIGHT = 0.68  # of the height of a row, what its axes take

SOLID = {"linestyle": "-", "marker": "o"}
DASHED = {"linestyle": (0, (4, 1.5)), "marker": "s"}
DOTTED = {"linestyle": (0, (1, 1)), "marker": "^"}
DASH_DOTTED = {"linestyle": (0, (5, 1.5, 1, 1.5)), "marker": "D"}
FEATURES = {"cls": SOLID, "patch_mean": DASHED, "cls+patch_mean": DOTTED}
NORM_PRE, ATTENTION = "norm_pre", ".attention"  # a tap, and the ending of others
UNBROKEN_PLUS = "\N{NO-BREAK SPACE}+\N{NO-BREAK SPACE}"
DEPTH = "depth (0 embed, 1 position, i + 2 block i)"
RELATIVE = "relative depth (1: last block)"
INTERVALS = "Bands and bars: 95 % bootstrap intervals over images."
OPEN_MARKERS = "Open markers: after the final norm, off the residual stream."


@contextmanager
def theme(scale: float) -> Iterator[None]:
    """The look of every figure while it is drawn: the style, its text and lines times `scale`."""
    with matplotlib.rc_context(look.settings(scale=scale)):
        yield


def colors(models: Iterable[str], palette: str) -> dict[str, tuple[float, float, float]]:
    """The colour of each model, by its place in the study.

    More models than the palette has colours take evenly spaced hues instead.
    Raises VitalsError for a palette that seaborn does not know.
    """
    models = list(models)
    try:
        found = sns.color_palette(palette, len(models))
    except ValueError:
        raise VitalsError(f"palette '{palette}' is not one that seaborn knows") from None
    if len(set(found)) < len(models):
        found = sns.color_palette("husl", len(models))
    return dict(zip(models, found, strict=True))


def page(height: float) -> Figure:
    """An empty figure as wide as a page; its height, in inches, grows with the text."""
    scale = matplotlib.rcParams["font.size"] / TEXT
    return Figure(figsize=(WIDTH, scale * (height + MARGIN)), layout="constrained")


def model_panels(models: Sequence[str], columns: int) -> tuple[Figure, np.ndarray, np.ndarray]:
    """Panels with a row for each model and, of several models, a last row for all of them.

    Returns the figure, its panels (model, column), and those of the last row (column,), none for a
    single model. A column has one y axis.
    """
    together = int(len(models) > 1)
    rows = len(models) + together
    figure = page(ROW * rows)
    panels = figure.subplots(rows, columns, sharey="col", squeeze=False)
    for axes in panels.flat:
        axes.yaxis.set_tick_params(labelleft=True)
    for axes in panels[: len(models)].flat:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in panels[len(models) :].flat:
        axes.set_title("all models")
        axes.set_xlabel(RELATIVE)
    return figure, panels[: len(models)], panels[len(models) :].ravel()


def taps(table: pd.DataFrame) -> str:
    """What the depths of taps count that not every model has.

    >>> taps(pd.DataFrame({"layer": ["embed", "norm_pre", "position", "block.0"]}))
    'Depth ½: before the norm that follows positions.'
    """
    layers = table["layer"].unique()
    said = []
    if NORM_PRE in layers:
        said.append("½: before the norm that follows positions")
    if any(layer.endswith(ATTENTION) for layer in layers):
        said.append("i + 1½: after the attention of block i".replace(" + ", UNBROKEN_PLUS))
    return f"Depth {'; '.join(said)}." if said else ""


def label_depth(panels: Iterable[Axes]) -> None:
    """What depth counts, below the last panel of a column that is not a note."""
    for axes in [axes for axes in panels if axes.axison][-1:]:
        axes.set_xlabel(DEPTH)


def curve(axes: Axes, rows: pd.DataFrame, color: object, x: str = "depth", **line: object) -> None:
    """A curve over depth with its band; tap "norm", off the residual stream, as an open marker."""
    stream, norm = rows[rows["layer"] != NORM], rows[rows["layer"] == NORM]
    line = {**SOLID, **line}
    axes.plot(stream[x], stream["value"], color=color, **line)
    axes.fill_between(
        stream[x],
        stream["low"],
        stream["high"].replace(np.inf, FAR),
        color=color,
        alpha=BAND,
        linewidth=0,
    )
    points(axes, norm[x], norm, color, fmt=line["marker"], markerfacecolor="white")


def curves_together(
    axes: Axes,
    table: pd.DataFrame,
    palette: Mapping[str, object],
    label: str,
    named: bool = True,
) -> None:
    """The curve of each model over relative depth; `named` at its end, or else in a legend."""
    if reason := why_absent(table):
        note(axes, reason)
        return
    ends = {}
    for model, rows in table.groupby("model", sort=False):
        curve(axes, rows, palette[model], x="relative_depth")
        on_stream = rows[(rows["layer"] != NORM) & np.isfinite(rows["value"])]
        if len(on_stream):
            ends[model] = tuple(on_stream[["relative_depth", "value"]].iloc[-1])
    if named:
        label_ends(axes, ends, palette)
        axes.set_xticks(np.linspace(0, 1, 5))
    axes.set_ylabel(label)


def label_ends(
    axes: Axes, ends: Mapping[str, tuple[float, float]], palette: Mapping[str, object]
) -> None:
    """Each model's name beside the end of its curve, on room made right of it, none on another.

    There are none for one model, nor where more than fit into the height of a panel or longer than
    a third of its width.
    """
    size = matplotlib.rcParams["xtick.labelsize"]
    scale = matplotlib.rcParams["font.size"] / TEXT
    height, width = 72 * PANEL_HEIGHT * ROW * scale, _panel_width(axes)  # points
    needed = LETTER * size * (max(map(len, ends), default=0) + 1) / width
    if not 1 < len(ends) <= height / size or needed > MOST_FOR_NAMES:
        return
    axes.autoscale_view()
    left, right = axes.get_xlim()
    axes.set_xlim(left, left + (right - left) / (1 - needed))
    to_axes = axes.transData + axes.transAxes.inverted()
    wanted = {model: to_axes.transform(end)[1] * height for model, end in ends.items()}
    for model, place in _spread(wanted, 1.15 * size, height).items():
        axes.annotate(
            model, (right, ends[model][1]), (0, place - wanted[model]), color=palette[model],
            textcoords="offset points", fontsize=size, va="center", annotation_clip=False,
            in_layout=False,
        )  # fmt: skip


def _panel_width(axes: Axes) -> float:
    """About how wide the axes of a panel are, in points."""
    columns = axes.get_subplotspec().get_gridspec().ncols
    return WIDTH * 72 * PANEL / columns


def _spread(wanted: Mapping[str, float], apart: float, height: float) -> dict[str, float]:
    """Places as near to those wanted as can be, so far apart, in order, from 0 to a height.

    >>> _spread({"a": 10.0, "b": 10.0, "c": 100.0}, apart=8.0, height=100.0)
    {'a': 6.0, 'b': 14.0, 'c': 100.0}
    """
    names = sorted(wanted, key=wanted.get)
    steps = apart * np.arange(len(names))
    level = isotonic_regression([min(max(wanted[n], 0), height) for n in names] - steps).x
    places = np.clip(level, 0, height - steps[-1]) + steps
    return dict(zip(names, places.tolist(), strict=True))


def points(axes: Axes, x: object, rows: pd.DataFrame, color: object, **marker: object) -> None:
    """Values at x as markers with their intervals as bars."""
    axes.errorbar(np.asarray(x), rows["value"], yerr=_errors(rows), **_point(color, marker))


def points_across(
    axes: Axes, y: object, rows: pd.DataFrame, color: object, **marker: object
) -> None:
    """Values along x, at y, as markers with their intervals as bars."""
    axes.errorbar(rows["value"], np.asarray(y), xerr=_errors(rows), **_point(color, marker))


def _errors(rows: pd.DataFrame) -> np.ndarray:
    """How far the interval reaches below and above the values: (2, point)."""
    low, value, high = (rows[name].to_numpy() for name in ("low", "value", "high"))
    return np.stack([value - low, np.where(np.isposinf(high), FAR, high) - value]).clip(min=0)


def _point(color: object, marker: Mapping[str, object]) -> dict[str, object]:
    thin = 0.7 * matplotlib.rcParams["lines.linewidth"]
    return {"fmt": "o", "color": color, "elinewidth": thin, **marker}


def zero_line(axes: Axes, value: float = 0.0) -> None:
    """A faint line at a value to compare with, behind the curves."""
    axes.axhline(value, color=FAINT, linewidth=matplotlib.rcParams["axes.linewidth"], zorder=0.5)


def title_model(axes: Axes, model: str, color: object) -> None:
    """The model's name above its panel, in its colour."""
    axes.set_title(model, color=color, fontweight="bold")


def title_right(axes: Axes, text: str) -> None:
    """What is found in a panel, above its right end: over the model's name where both are long."""
    letters = len(axes.get_title("left")) * BOLD + len(text) + 2
    room = _panel_width(axes) / (LETTER * matplotlib.rcParams["axes.titlesize"])
    axes.set_title(text if letters < room else f"{text}\n ", loc="right")


def note(axes: Axes, text: str) -> None:
    """Words in place of a panel that has nothing to show."""
    axes.set_axis_off()
    columns = axes.get_subplotspec().get_gridspec().ncols
    letters = WIDTH * 72 / columns / (LETTER * matplotlib.rcParams["font.size"])
    wrapped = textwrap.fill(text, max(16, int(0.7 * letters)))
    place = {"ha": "center", "va": "center", "transform": axes.transAxes}
    axes.text(0.5, 0.5, wrapped, style="italic", color="0.35", in_layout=False, **place)


def noted(text: str) -> Figure:
    """Words in place of a whole figure."""
    figure = page(ROW)
    note(figure.subplots(), text)
    return figure


def legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """The one legend of a figure, above its panels; none without handles."""
    if not handles:
        return
    letters = np.array([len(handle.get_label()) for handle in handles])
    widths = (LETTER * letters + 5) * matplotlib.rcParams["legend.fontsize"]  # points
    page_width = WIDTH * 72
    one_row = widths.sum() <= page_width
    columns = len(handles) if one_row else max(1, int(page_width / widths.max()))
    figure.legend(handles=handles, loc="outside upper left", ncols=columns)


def model_handles(palette: Mapping[str, object]) -> list[Artist]:
    """Legend entries of the models."""
    return [Line2D([], [], color=c, marker="o", label=model) for model, c in palette.items()]


def feature_handles(table: pd.DataFrame) -> list[Artist]:
    """Legend entries of the features that a table holds."""
    there = set(table["feature"])
    return [line_handle(name, **line) for name, line in FEATURES.items() if name in there]


def line_handle(label: str, **line: object) -> Artist:
    """A legend entry of a kind of line, in no model's colour."""
    return Line2D([], [], **{"color": INK, **line}, label=label)


def patch_handle(label: str, color: str) -> Artist:
    """A legend entry of a shaded stretch."""
    return Patch(facecolor=color, edgecolor=FAINT, label=label)


def caption(figure: Figure, *sentences: str) -> None:
    """Small print below the panels: how many images, what is marked how, what is absent."""
    text = " ".join(sentence for sentence in sentences if sentence)
    size = matplotlib.rcParams["xtick.labelsize"]
    wrapped = textwrap.fill(text, int(WIDTH * 72 / (LETTER * size)))
    figure.supxlabel(wrapped, x=0.01, ha="left", fontsize=size, color="0.35")


def images(results: Mapping[str, Mapping[str, xr.Dataset]], metric: str, kind: str = "") -> str:
    """How many images the results of a metric are over."""
    name = f"{kind} images".strip()
    return by_model(
        {
            model: f"n = {metrics[metric].sizes['image']:,} {name}"
            for model, metrics in results.items()
            if metric in metrics and "image" in metrics[metric].sizes
        },
        results,
    )


def by_model(said: Mapping[str, str], models: Iterable[str]) -> str:
    """What is said of models, once where it is the same of all.

    >>> by_model({"s": "n = 9 images", "b": "n = 9 images"}, ["s", "b"])
    'n = 9 images.'
    >>> by_model({"s": "n = 9 images"}, ["s", "b"])
    's: n = 9 images.'
    """
    if len(set(said.values())) == 1 and said.keys() == set(models):
        return f"{next(iter(said.values()))}."
    return " ".join(f"{model}: {words}." for model, words in said.items())
