"""Figures on disk: the same bytes for the same figure, with their origin and no date."""

import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from vitals.figures import files
from vitals.provenance import canonical

KINDS = ("csv", "pdf", "png", "svg")
SPEC = canonical({"palette": "colorblind", "scale": 1.0})


def drawn():
    figure = Figure(figsize=(2, 1), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1, 2], [0.1, 0.3, 0.2])
    axes.fill_between([0, 1, 2], [0, 0, 0], [1, 2, 3], clip_on=True)
    axes.set_title("a curve")
    return figure, pd.DataFrame({"model": ["vit"] * 3, "value": [0.1, 0.3, 0.2]})


def written(folder, name="figure"):
    folder.mkdir(exist_ok=True)
    files.write(*drawn(), folder / f"{name}.svg", SPEC, "abc")
    return {path.suffix[1:]: path for path in sorted(folder.iterdir())}


def test_a_figure_is_four_files_of_one_stem(tmp_path):
    paths = written(tmp_path, "similarity")
    assert tuple(paths) == KINDS
    assert {path.stem for path in paths.values()} == {"similarity"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_figure_is_the_same_bytes(tmp_path, kind):
    first, second = (written(tmp_path / name)[kind].read_bytes() for name in ("a", "b"))
    assert first == second


def test_nothing_is_dated(tmp_path):
    paths = written(tmp_path)
    assert b"CreationDate" not in paths["pdf"].read_bytes()
    assert "dc:date" not in paths["svg"].read_text()


def test_the_files_know_the_settings_and_the_code_behind_them(tmp_path):
    paths = written(tmp_path)
    said = Image.open(paths["png"]).text
    assert (said["spec"], said["code"]) == (SPEC, "abc")
    assert "&quot;code&quot;:&quot;abc&quot;" in paths["svg"].read_text() or (
        '"code":"abc"' in paths["svg"].read_text()
    )
    assert b'"code":"abc"' in paths["pdf"].read_bytes()


def test_the_bitmap_has_200_dots_an_inch(tmp_path):
    assert Image.open(written(tmp_path)["png"]).size == (400, 200)


def test_the_table_is_read_back_as_it_was(tmp_path):
    pd.testing.assert_frame_equal(pd.read_csv(written(tmp_path)["csv"]), drawn()[1])


def test_a_failed_write_leaves_nothing_and_keeps_what_was_there(tmp_path):
    before = written(tmp_path)["csv"].read_bytes()
    figure, table = drawn()
    table.to_csv = None  # fails after the figures
    with pytest.raises(TypeError):
        files.write(figure, table, tmp_path / "figure.svg", SPEC, "abc")
    assert sorted(path.suffix[1:] for path in tmp_path.iterdir()) == list(KINDS)
    assert (tmp_path / "figure.csv").read_bytes() == before
