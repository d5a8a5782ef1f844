"""Figures on disk: vector, bitmap and table of one stem, the same bytes for the same figure."""

from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from vitals.provenance import canonical
from vitals.whole import whole_file

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
        with matplotlib.rc_context(SETTINGS), whole_file(path.with_suffix(f".{kind}")) as partial:
            figure.savefig(partial, format=kind, metadata=said, dpi=RESOLUTION)
    with whole_file(path.with_suffix(".csv")) as partial:
        table.to_csv(partial, index=False, lineterminator="\n")
