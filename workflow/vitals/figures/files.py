"""Figures on disk: vector, bitmap and table of one stem, the same bytes for the same figure."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from vitals.provenance import canonical

RESOLUTION = 200  # dots per inch of the bitmap
# Names inside an SVG by this salt, and not at random; letters of a PDF that an editor can change.
SETTINGS = {"svg.hashsalt": "vitals", "pdf.fonttype": 42}


def write(figure: Figure, table: pd.DataFrame, path: Path, spec: str, code: str) -> None:
    """Write {stem}.svg, .png, .pdf and .csv beside `path`, each whole or not at all.

    The figures carry the settings and the code behind them in their metadata, and no date.
    """
    figure.set_dpi(RESOLUTION)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # as laid out once, so that all formats are one picture
    origin = canonical({"spec": spec, "code": code})
    metadata = {
        "svg": {"Description": origin, "Date": None},
        "png": {"spec": spec, "code": code},
        "pdf": {"Subject": origin, "CreationDate": None},
    }
    for kind, said in metadata.items():
        save = partial(figure.savefig, format=kind, metadata=said, dpi=RESOLUTION)
        with matplotlib.rc_context(SETTINGS):
            _whole(path.with_suffix(f".{kind}"), save)
    _whole(path.with_suffix(".csv"), partial(table.to_csv, index=False, lineterminator="\n"))


def _whole(path: Path, save: Callable[[Path], object]) -> None:
    """Save beside the place, then rename."""
    unfinished = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        save(unfinished)
        unfinished.rename(path)
    finally:
        unfinished.unlink(missing_ok=True)
