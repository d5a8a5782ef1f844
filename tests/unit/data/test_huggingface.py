"""A Hugging Face dataset gives its rows as they are encoded, with the names of its labels."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from vitals.data import datasets as kinds
from vitals.data import images
from vitals.errors import VitalsError

LABELS = [2, 0, 0, 2, 0, 2, 0]


@pytest.fixture(scope="module")
def package():
    pytest.importorskip("datasets.arrow_dataset")
    return sys.modules["datasets"]


@pytest.fixture(scope="module")
def rows(package, encoded):
    """Seven rows of classes a and c, of which class b has none."""

    def make(count=7):
        values = {
            "picture": [{"bytes": encoded(row, "PNG"), "path": None} for row in range(count)],
            "kind": LABELS[:count],
        }
        features = package.Features(
            picture=package.Image(),
            kind=package.ClassLabel(names=["a", "b", "c"]),
        )
        return package.Dataset.from_dict(values, features)

    return make


@pytest.fixture
def settings(rows, tmp_path):
    rows().save_to_disk(tmp_path / "rows")
    return {
        "dataset": "huggingface",
        "path": str(tmp_path / "rows"),
        "image_column": "picture",
        "label_column": "kind",
        "test_share": 0.3,
        "seed": 0,
        "limit": None,
    }


def test_rows_take_turns_by_class_and_keep_their_place(settings):
    source = kinds.source(settings)
    table = source.listing()
    assert source.classes == ("a", "b", "c")
    assert table["index"].tolist() == [1, 0, 2, 3, 4, 5, 6]
    assert table["label"].tolist() == [0, 2, 0, 2, 0, 2, 0]
    assert table["image_id"].tolist()[:2] == ["row-00000001", "row-00000000"]


def test_a_row_is_read_as_it_was_encoded(settings, encoded):
    source = kinds.source(settings)
    for row in range(7):
        assert source.read("", row) == encoded(row, "PNG")
    assert source.decode(source.read("", 3)).size == (12, 8)


def test_threads_read_the_same(settings, frozen):
    listed = images.read(frozen(settings), settings["path"])
    expected = [np.asarray(listed.picture(place)) for place in range(7)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda place: np.asarray(listed.picture(place % 7)), range(350)))
    assert all(np.array_equal(found[place], expected[place % 7]) for place in range(350))


def test_an_image_in_a_file_of_its_own_is_read_there(package, settings, tmp_path, encoded):
    path = tmp_path / "apart.jpg"
    path.write_bytes(encoded(5))
    features = package.Features(picture=package.Image(), kind=package.ClassLabel(names=["a"]))
    values = {"picture": [{"path": str(path), "bytes": None}, None], "kind": [0, 0]}
    package.Dataset.from_dict(values, features).save_to_disk(tmp_path / "apart")
    source = kinds.source({**settings, "path": str(tmp_path / "apart")})
    assert source.read("", 0) == encoded(5)
    with pytest.raises(OSError, match="the row has no image"):
        source.read("", 1)


def test_the_list_does_not_know_where_the_dataset_lies(settings, tmp_path):
    before = images.build(settings)
    moved = (tmp_path / "rows").rename(tmp_path / "moved")
    assert images.build({**settings, "path": str(moved)}).equals(before)


def test_rows_that_are_appended_come_last_and_the_others_keep_their_stamps(
    settings, frozen, rows, package, tmp_path
):
    path = frozen(settings)
    before = images.read(path).table
    longer = package.concatenate_datasets([rows(), rows(2)])
    longer.save_to_disk(tmp_path / "longer")
    after = images.build({**settings, "path": str(tmp_path / "longer")}, path)
    assert after[:7].equals(before)
    assert after["index"].tolist()[7:] == [7, 8]


def test_a_part_is_chosen_by_name(package, settings, rows, tmp_path):
    parts = package.DatasetDict(train=rows(), validation=rows(2))
    parts.save_to_disk(tmp_path / "parts")
    here = {**settings, "path": str(tmp_path / "parts")}
    assert len(kinds.source({**here, "part": "validation"}).listing()) == 2
    with pytest.raises(VitalsError, match=r"images.part: 'validatio': did you mean 'validation'"):
        kinds.source({**here, "part": "validatio"}).listing()
    with pytest.raises(VitalsError, match=r"images.part: 'None'.*known: train, validation"):
        kinds.source(here).listing()
    with pytest.raises(VitalsError, match=r"images.part = 'train': expected null, .*not in parts"):
        kinds.source({**settings, "part": "train"}).listing()


@pytest.mark.parametrize(
    ("key", "column", "message"),
    [
        ("image_column", "image", "expected a column of type Image of .*; those of it: picture"),
        ("label_column", "picture", "expected a column of type ClassLabel of .*: kind"),
    ],
)
def test_a_column_of_another_type_is_named_with_those_that_fit(settings, key, column, message):
    with pytest.raises(VitalsError, match=f"images.{key} = '{column}': {message}"):
        kinds.source({**settings, key: column}).listing()


@pytest.mark.parametrize("missing", [None, -1])
def test_a_row_without_a_class_is_named(package, settings, tmp_path, missing, encoded):
    features = package.Features(picture=package.Image(), kind=package.ClassLabel(names=["a"]))
    values = {"picture": [{"bytes": encoded(), "path": None}] * 3, "kind": [0, missing, missing]}
    package.Dataset.from_dict(values, features).save_to_disk(tmp_path / "unlabelled")
    source = kinds.source({**settings, "path": str(tmp_path / "unlabelled")})
    with pytest.raises(VitalsError, match=r"row 1 has no class in column 'kind' \(2 such rows\)"):
        source.listing()


def test_a_name_is_asked_for_at_its_revision(package, settings, rows, monkeypatch):
    asked = {}

    def load(path, subset, **more):
        asked.update(path=path, subset=subset, **more)
        return rows()

    monkeypatch.setattr(package, "load_dataset", load)
    named = {"path": "org/name", "revision": "abc", "part": "validation", "subset": "small"}
    assert len(kinds.source({**settings, **named}).listing()) == 7
    assert asked == {
        "path": "org/name",
        "subset": "small",
        "revision": "abc",
        "split": "validation",
    }


def test_what_cannot_be_opened_is_named_in_one_line(package, settings, tmp_path):
    (tmp_path / "empty").mkdir()
    source = kinds.source({**settings, "path": str(tmp_path / "empty")})
    with pytest.raises(VitalsError, match=r"empty' cannot be opened: [^\n]+$"):
        source.listing()


def test_a_list_is_read_without_the_package(settings, frozen, monkeypatch):
    path = frozen(settings)
    monkeypatch.setitem(sys.modules, "datasets", None)
    listed = images.read(path)
    assert listed.classes == ("a", "b", "c")
    assert np.array_equal(np.unique(listed.labels()), [0, 2])


def test_the_lack_of_the_package_is_one_error_that_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    source = kinds.source({"dataset": "huggingface", "path": str(tmp_path)})
    with pytest.raises(VitalsError, match=r"needs the package 'datasets'.*pip install [^\n]*$"):
        source.listing()
