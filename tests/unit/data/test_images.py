"""The frozen image list: its order, split and digests, and what a change of the images does."""

import json
import os
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from vitals.data import images
from vitals.data.digits import Digits
from vitals.errors import VitalsError

LABELS = Digits().listing()["label"].to_numpy()
SHARES = [0.1, 0.25, 0.3, 0.5, 0.7, 0.9]
DIGITS = {"dataset": "digits", "test_share": 0.3, "seed": 0, "limit": 60}


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


def test_a_class_without_an_image_in_a_split_is_said_by_its_name(settings, class_folder):
    (class_folder / "dog").mkdir()
    shutil.copy(class_folder / "ant" / "0.jpg", class_folder / "dog")
    with pytest.raises(VitalsError, match=r"leaves class dog \(1 images\) without an image in"):
        images.listed(settings)


def test_digits_are_listed_in_their_own_order():
    table = images.build(DIGITS)
    assert list(table) == list(images.COLUMNS)
    assert table["index"].tolist() == list(range(60))
    assert table["image_id"].iloc[7] == "digits-0007"
    assert np.array_equal(table["label"], LABELS[:60])
    assert table["class_name"].tolist() == [str(label) for label in LABELS[:60]]
    assert table.attrs == {"classes": tuple("0123456789"), "shape": (1, 8, 8)}


def test_a_longer_list_begins_with_the_shorter_one():
    longer = images.build({**DIGITS, "limit": None})
    pd.testing.assert_frame_equal(longer.iloc[:60], images.build(DIGITS))


def test_the_list_is_known_before_any_image_is_read(settings, class_folder):
    before = images.build(settings)
    for path in class_folder.glob("*/*.jpg"):
        stat = path.stat()
        path.write_bytes(b" " * stat.st_size)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert images.listed(settings).equals(before.drop(columns="digest"))


def test_a_limit_takes_classes_in_turn(settings):
    found = images.listed({**settings, "limit": 9})
    assert found["class_name"].value_counts().to_dict() == {"ant": 3, "bee": 3, "cat": 3}
    assert found.equals(images.listed(settings)[:9])


@pytest.mark.parametrize("limits", [(9, None), (9, 12), (None, 9), (12, 9, None)])
def test_another_limit_moves_no_image(settings, frozen, limits):
    for limit in limits:
        path = frozen({**settings, "limit": limit})
    assert images.read(path).table.equals(images.build({**settings, "limit": limits[-1]}))


def grow(class_folder, encoded):
    """Adds an image to each class, before and between those that are there, and a class."""
    for number, name in enumerate(
        ("ant/00.jpg", "bee/1.jpg", "cat/a/a.jpg", "bat/0.jpg", "bat/1.jpg")
    ):
        path = class_folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(100 + number))


def test_new_images_come_last_and_change_nothing_of_the_others(
    settings, frozen, class_folder, encoded
):
    before = images.read(frozen(settings))
    grow(class_folder, encoded)
    after = images.read(frozen(settings))
    assert after.table[:15].equals(before.table)
    assert after.table["image_id"].tolist()[15:] == [
        "bat/0.jpg", "ant/00.jpg", "bat/1.jpg", "bee/1.jpg", "cat/a/a.jpg",
    ]  # fmt: skip
    assert after.classes == ("ant", "bee", "cat", "bat")
    for row in after.table.itertuples():
        assert after.classes[row.label] == row.class_name == row.image_id.split("/")[0]
    assert images.fingerprint(after.rows(0, 15).table) == images.fingerprint(before.table)


def test_a_limit_holds_new_images_off(settings, frozen, class_folder, encoded):
    limited = {**settings, "limit": 12}
    before = images.read(frozen(limited)).table
    grow(class_folder, encoded)
    assert images.read(frozen(limited)).table.equals(before)


def test_growth_in_steps_lists_as_the_steps_came(settings, frozen, class_folder, encoded):
    for number in range(3):
        frozen(settings)
        (class_folder / "ant" / f"-{number}.jpg").write_bytes(encoded(number))
    found = images.read(frozen(settings)).table["image_id"].tolist()
    assert found[15:] == ["ant/-0.jpg", "ant/-1.jpg", "ant/-2.jpg"]


def test_an_image_that_is_gone_leaves_the_others_in_their_order(settings, frozen, class_folder):
    before = images.read(frozen(settings)).table["image_id"].tolist()
    (class_folder / "bee" / "2.jpg").unlink()
    after = images.read(frozen(settings)).table["image_id"].tolist()
    assert after == [name for name in before if name != "bee/2.jpg"]


def test_a_class_that_is_gone_is_no_class(settings, frozen, class_folder):
    frozen(settings)
    shutil.rmtree(class_folder / "bee")
    listed = images.read(frozen(settings))
    assert listed.classes == ("ant", "cat")
    assert [listed.classes[label] for label in listed.labels()] == (
        listed.table["class_name"].tolist()
    )


@pytest.mark.parametrize("way", ["touched", "copied", "in a tar"])
def test_other_times_of_the_same_content_change_nothing(
    settings, frozen, class_folder, tmp_path, tar_of, way, capfd
):
    path = frozen(settings)
    before = images.read(path).table
    if way == "touched":
        (class_folder / "ant" / "0.jpg").touch()
    elif way == "copied":
        shutil.copytree(class_folder, tmp_path / "copy", copy_function=shutil.copyfile)
        settings = {**settings, "path": str(tmp_path / "copy")}
    else:
        settings = {**settings, "dataset": "tar", "path": str(tar_of(class_folder))}
    capfd.readouterr()
    assert images.listed(settings, path).equals(before.drop(columns="digest"))
    assert f"images: reading {1 if way == 'touched' else 15} " in capfd.readouterr().err
    assert images.build(settings, path).equals(before)
    assert images.listed(settings, path).equals(before.drop(columns="digest"))
    assert capfd.readouterr().err == ""


def test_another_content_is_another_image_of_the_same_place(
    settings, frozen, class_folder, encoded
):
    path = frozen(settings)
    before = images.read(path).table
    (class_folder / "bee" / "2.jpg").write_bytes(encoded(77))
    listed = images.listed(settings, path)
    assert images.fingerprint(listed) != images.fingerprint(before)
    after = images.read(frozen(settings)).table
    assert after.drop(columns="digest").equals(listed)
    for column in images.COLUMNS:
        changed = before["image_id"][before[column] != after[column]].tolist()
        assert changed == (["bee/2.jpg"] if column in ("stamp", "digest") else [])


def test_an_image_put_back_is_the_one_that_was_listed(settings, frozen, class_folder, encoded):
    path = frozen(settings)
    before = images.read(path).table
    content = (class_folder / "bee" / "2.jpg").read_bytes()
    (class_folder / "bee" / "2.jpg").write_bytes(encoded(77))
    assert not images.listed(settings, path).equals(before.drop(columns="digest"))
    (class_folder / "bee" / "2.jpg").write_bytes(content)
    assert images.listed(settings, path).equals(before.drop(columns="digest"))


def test_a_tar_is_listed_as_its_folder(settings, class_folder, tar_of):
    folder = images.build(settings)
    tar = images.build({**settings, "dataset": "tar", "path": str(tar_of(class_folder))})
    assert tar.drop(columns="stamp").equals(folder.drop(columns="stamp"))


def test_an_image_that_cannot_be_read_is_listed_and_said(
    settings, frozen, class_folder, encoded, capfd
):
    lost = class_folder / "bee" / "lost.jpg"
    lost.symlink_to("nowhere.jpg")
    path = frozen(settings)
    assert "images: 1 cannot be read, the first is bee/lost.jpg" in capfd.readouterr().err
    listed = images.read(path, settings["path"])
    place = listed.table["image_id"].tolist().index("bee/lost.jpg")
    with pytest.raises(VitalsError, match=r"bee/lost\.jpg could not be read when it was listed"):
        listed.picture(place)
    assert images.listed(settings, path).equals(listed.table.drop(columns="digest"))

    (class_folder / "bee" / "nowhere.jpg").write_bytes(encoded(5))
    listed = images.read(frozen(settings), settings["path"])
    assert listed.picture(place).size == (12, 8)


def test_a_list_comes_back_as_it_was_written(settings, tmp_path):
    path, table = tmp_path / "images.parquet", images.build(settings)
    images.write(table, path, {**settings, "part": None}, '{"seed":0}', "code digest")
    found = images.read(path)
    assert found.table.equals(table)
    assert found.classes == ("ant", "bee", "cat")
    assert found.shape is None
    assert np.array_equal(found.labels(), table["label"])
    about = json.loads(pq.read_schema(path).metadata[b"vitals"])
    assert about == {
        "dataset": "folder",
        "classes": ["ant", "bee", "cat"],
        "shape": None,
        "spec": '{"seed":0}',
        "code": "code digest",
    }


def test_the_file_does_not_say_where_the_images_lie(settings, frozen, tmp_path):
    content = frozen(settings).read_bytes()
    assert str(tmp_path).encode() not in content


def test_a_list_of_digits_knows_their_shape(digit_list):
    assert digit_list.shape == (1, 8, 8)
    assert digit_list.classes == tuple("0123456789")


def test_images_are_read_where_they_lie_today(settings, frozen, class_folder, tmp_path):
    path = frozen(settings)
    moved = class_folder.rename(tmp_path / "moved")
    listed = images.read(path, str(moved))
    picture = listed.picture(3)
    assert picture.mode == "RGB"
    with pytest.raises(VitalsError, match=r"where the images lie today \(--data\), found nothing"):
        images.read(path).picture(3)


def test_slices_and_splits_are_lists(digit_list):
    part = digit_list.rows(50, 70).of_split(images.TEST)
    assert set(part.table["split"]) == {"test"}
    assert part.table["index"].between(50, 59).all()
    assert np.array_equal(part.pixels(), digit_list.pixels()[part.table["index"]])


@pytest.mark.parametrize("column", ["image_id", "label", "class_name", "split"])
@pytest.mark.parametrize("digest", ["digest", "fingerprint"])
def test_the_digests_of_a_list_change_with_what_a_stage_reads_of_it(digit_list, column, digest):
    def of(table):
        changed = images.ImageList(table, digit_list.classes, digit_list.shape, None)
        return changed.digest if digest == "digest" else images.fingerprint(table)

    before = of(digit_list.table)
    assert of(digit_list.table.copy()) == before
    table = digit_list.table.copy()
    table.loc[3, column] = table.loc[4, column] if column != "split" else "other"
    assert of(table) != before
    assert of(digit_list.table[:-1]) != before


def test_the_digest_is_of_contents_and_the_fingerprint_of_stamps(digit_list):
    table = digit_list.table.copy()
    table.loc[3, "stamp"] = "other"
    changed = images.ImageList(table, digit_list.classes, digit_list.shape, None)
    assert changed.digest == digit_list.digest
    assert images.fingerprint(table) != images.fingerprint(digit_list.table)


def test_the_place_of_a_dataset_is_not_in_its_fingerprint(settings, class_folder, tmp_path):
    before = images.fingerprint(images.listed(settings))
    moved = class_folder.rename(tmp_path / "moved")
    assert images.fingerprint(images.listed({**settings, "path": str(moved)})) == before


def test_a_pixel_that_changed_is_an_error_that_names_the_image(digit_list, monkeypatch):
    read = Digits.read

    def changed(self, path, index):
        content = bytearray(read(self, path, index))
        content[-1] ^= index == 41
        return bytes(content)

    monkeypatch.setattr(Digits, "read", changed)
    with pytest.raises(
        VitalsError, match=r"image digits-0041 \(.*\) is not the one that was listed"
    ):
        digit_list.pixels()
    assert len(digit_list.rows(0, 41).pixels()) == 41


def test_pictures_have_no_pixels_of_one_shape(settings, frozen):
    listed = images.read(frozen(settings), settings["path"])
    with pytest.raises(VitalsError, match="expected a dataset of arrays of one shape, such as dig"):
        listed.pixels()


@pytest.mark.parametrize("kind", ["text", "cut", "empty", "other table", "without a column"])
def test_a_damaged_list_is_named_with_what_to_do(settings, frozen, kind):
    path = frozen(settings)
    if kind == "other table":
        pd.DataFrame({"image_id": ["a"]}).to_parquet(path)
    elif kind == "without a column":
        arrow = pq.read_table(path)
        pq.write_table(arrow.drop_columns(["stamp"]), path)
    else:
        content = {"text": b"no list", "cut": path.read_bytes()[:-200], "empty": b""}[kind]
        path.write_bytes(content)
    message = r"images.parquet is no image list .* \(.+\): remove it, and the study lists"
    with pytest.raises(VitalsError, match=message):
        images.read(path)
    with pytest.raises(VitalsError, match=message):
        images.listed(settings, path)


def test_a_list_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"images\.parquet"):
        images.read(tmp_path / "images.parquet")


def test_a_list_that_could_not_be_written_leaves_nothing(tmp_path, monkeypatch):
    def torn(table, path):
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(pq, "write_table", torn)
    with pytest.raises(OSError, match="no space"):
        images.write(images.build(DIGITS), tmp_path / "images.parquet", DIGITS, "{}", "")
    assert list(tmp_path.iterdir()) == []
