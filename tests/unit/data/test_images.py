"""The frozen image list: its split, its digests, and that it comes back as it was written."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from vitals.data import images
from vitals.errors import VitalsError

LABELS = images.chosen("digits", None)
SHARES = [0.1, 0.25, 0.3, 0.5, 0.7, 0.9]


def build(**changes):
    return images.build(
        **{"dataset": "digits", "test_share": 0.3, "seed": 0, "limit": 60, **changes}
    )


@pytest.mark.parametrize("share", SHARES)
def test_every_class_gives_its_share_to_the_test_split(share):
    for seed in range(5):
        split = images.stratified_split(LABELS, share, seed)
        for label in range(10):
            members = split[label == LABELS]
            assert (members == images.TEST).sum() == pytest.approx(share * members.size, abs=1)


@pytest.mark.parametrize("share", SHARES)
def test_the_share_is_not_missed_on_one_side(share):
    labels = np.zeros(101, int)
    tested = [(images.stratified_split(labels, share, s) == images.TEST).sum() for s in range(200)]
    assert np.mean(tested) == pytest.approx(share * 101, abs=0.5)


@pytest.mark.parametrize("share", SHARES)
def test_every_image_can_be_drawn_for_either_split(share):
    labels = np.zeros(24, int)
    splits = np.stack([images.stratified_split(labels, share, s) for s in range(300)])
    tested = (splits == images.TEST).mean(axis=0)
    assert tested.min() > 0
    assert tested.max() < 1


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("count", [500, 1000, 1796])
def test_more_images_move_none_to_the_other_split(share, count):
    whole = images.stratified_split(LABELS, share, 0)
    assert np.array_equal(images.stratified_split(LABELS[:count], share, 0), whole[:count])


def test_the_split_follows_the_seed_alone():
    first, again, other = (images.stratified_split(LABELS, 0.3, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("seed", range(3))
def test_a_class_without_an_image_in_a_split_is_named(share, seed):
    labels = np.array([0] * 50 + [7])
    message = f"images.test_share = {share} leaves class 7 .1 images. without an image in the split"
    with pytest.raises(VitalsError, match=message):
        images.stratified_split(labels, share, seed)


def test_the_list_has_a_row_an_image_in_the_datasets_order():
    table = build()
    assert list(table) == ["image_id", "index", "label", "class_name", "split", "digest"]
    assert table["index"].tolist() == list(range(60))
    assert table["image_id"].iloc[7] == "digits-0007"
    assert np.array_equal(table["label"], LABELS[:60])
    assert table["class_name"].tolist() == [str(label) for label in LABELS[:60]]
    assert table["digest"].is_unique


def test_a_longer_list_begins_with_the_shorter_one():
    pd.testing.assert_frame_equal(build(limit=None).iloc[:60], build())


def test_an_unknown_dataset_is_answered_with_the_nearest():
    with pytest.raises(VitalsError, match="unknown dataset 'digit': did you mean 'digits'"):
        build(dataset="digit")


def test_a_list_comes_back_as_it_was_written(tmp_path):
    path, table = tmp_path / "images.parquet", build()
    images.write(table, path, "digits", '{"seed":0}', "code digest")
    found = images.read(path)
    assert found.table.to_dict("list") == table.to_dict("list")
    assert found.classes == 10
    assert np.array_equal(found.labels(), LABELS[:60])
    about = json.loads(pq.read_schema(path).metadata[b"vitals"])
    assert about == {"dataset": "digits", "spec": '{"seed":0}', "code": "code digest"}


def test_slices_and_splits_keep_the_digest_of_the_whole(digit_list):
    part = digit_list.rows(50, 70).of_split(images.TEST)
    assert part.digest == digit_list.digest
    assert set(part.table["split"]) == {"test"}
    assert part.table["index"].between(50, 59).all()
    assert np.array_equal(part.pixels(), digit_list.source.pixels(part.table["index"].to_numpy()))


def written_digest(table, path):
    images.write(table, path, "digits", "{}", "")
    return images.read(path).digest


@pytest.mark.parametrize("column", ["image_id", "label", "split", "digest"])
def test_the_digest_of_a_list_changes_with_what_a_stage_reads_of_it(tmp_path, column):
    table, path = build(), tmp_path / "images.parquet"
    before = written_digest(table, path)
    assert written_digest(table, path) == before
    table.loc[3, column] = table.loc[4, column] if column != "split" else "other"
    assert written_digest(table, path) != before


def test_a_pixel_that_changed_is_an_error_that_names_the_image(digit_list):
    def changed(indices, pixels=digit_list.source.pixels):
        values = pixels(indices)
        values[np.asarray(indices) == 41, 0, 7, 7] += 1 / 16
        return values

    source = dataclasses.replace(digit_list.source, pixels=changed)
    tampered = dataclasses.replace(digit_list, source=source)
    with pytest.raises(VitalsError, match="image digits-0041 is not the one that was listed"):
        tampered.pixels()
    assert len(tampered.rows(0, 41).pixels()) == 41


def test_a_list_that_could_not_be_written_leaves_nothing(tmp_path, monkeypatch):
    def torn(table, path):
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(pq, "write_table", torn)
    with pytest.raises(OSError, match="no space"):
        images.write(build(), tmp_path / "images.parquet", "digits", "{}", "")
    assert list(tmp_path.iterdir()) == []
