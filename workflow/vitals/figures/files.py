"""Figures on disk: vector, bitmap and table of one stem, the same bytes for the same figure."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from vitals.provenance import canonical, short_digest
from vitals.whole import whole_file

RESOLUTION = 200  # dots per inch of the bitmap
# Names inside an SVG by this salt, and not at random; letters of a PDF that an editor can change.
SETTINGS = {"svg.hashsalt": "vitals", "pdf.fonttype": 42}


def write(
    figure: Figure,
    table: pd.DataFrame,
    path: Path,
    spec: str,
    code: str,
    **origin: Mapping[str, str],
) -> None:
    """Write {stem}.svg, .png, .pdf and .csv beside `path`, each whole or not at all.

    The figures carry the settings and the code behind them in their metadata, and no date; the
    .svg, which is written last, also what else they were made from, and digests of the others.
    """
    figure.set_dpi(RESOLUTION)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # as laid out once, so that all formats are one picture
    made = {"spec": spec, "code": code}
    with whole_file(path.with_suffix(".csv")) as partial:
        table.to_csv(partial, index=False, lineterminator="\n")
    _save(figure, path.with_suffix(".png"), made)
    _save(figure, path.with_suffix(".pdf"), {"Subject": canonical(made), "CreationDate": None})
    others = [path.with_suffix(kind) for kind in (".csv", ".png", ".pdf")]
    files = {other.name: short_digest(other.read_bytes()) for other in others}
    said = canonical({**made, **origin, "files": files})
    _save(figure, path.with_suffix(".svg"), {"Description": said, "Date": None})


def _save(figure: Figure, path: Path, said: dict[str, str | None]) -> None:
    with matplotlib.rc_context(SETTINGS), whole_file(path) as partial:
        figure.savefig(partial, format=path.suffix[1:], metadata=said, dpi=RESOLUTION)
