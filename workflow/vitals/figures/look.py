"""matplotlib's settings while a figure is drawn: those of a style file, ours or a study's own.

>>> settings(["font.size: 9", "lines.linewidth: 2"], scale=2.0)["font.size"]
18.0
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import matplotlib
from matplotlib.font_manager import font_scalings

from vitals.figures.style_file import HOUSE, NOT_OF_A_STYLE, lines, setting

# What `scale` multiplies.
SIZES = (
    *("font.size", "axes.labelsize", "axes.titlesize", "xtick.labelsize", "ytick.labelsize"),
    *("legend.fontsize", "lines.linewidth", "lines.markersize", "axes.linewidth"),
    *("xtick.major.width", "ytick.major.width", "xtick.major.size", "ytick.major.size"),
    "patch.linewidth",
)
# What a study says of its style, beside what a figure is told.
STYLE = ("style", "house_style")
_chosen: ContextVar[tuple[str, ...] | None] = ContextVar("style", default=None)


@contextmanager
def chosen(style: Sequence[str] | None) -> Iterator[None]:
    """Figures that are drawn inside have this style: the lines of its file; None: ours."""
    token = _chosen.set(None if style is None else tuple(style))
    try:
        yield
    finally:
        _chosen.reset(token)


def settings(style: Sequence[str] | None = None, scale: float = 1.0) -> dict[str, Any]:
    """The settings of a style, of the chosen one without, its sizes times `scale`.

    What a style does not set is as matplotlib ships it, whatever this machine's own settings are.
    """
    look = {
        key: value
        for key, value in matplotlib.rcParamsDefault.items()
        if not key.startswith(NOT_OF_A_STYLE)
    }
    for line in style or _chosen.get() or lines(HOUSE):
        look |= setting(line)
    return look | {key: scale * _size(look, key) for key in SIZES}


def _size(look: dict[str, Any], key: str) -> float:
    """A size as a number: those of text may be words, relative to the font's."""
    size = look[key]
    return font_scalings[size] * look["font.size"] if isinstance(size, str) else size
