"""A folder's classes are its folders, its images the files below them, in turn."""

import os
import shutil

import pytest

from vitals.data.folder import Folder
from vitals.errors import VitalsError


def ids(root):
    return Folder(str(root)).listing()["image_id"].tolist()


def test_classes_take_turns_and_each_is_in_the_order_of_its_paths(class_folder):
    assert ids(class_folder) == [
        "ant/0.jpg", "bee/0.jpg", "cat/0.jpg",
        "ant/2.jpg", "bee/2.jpg", "cat/2.jpg",
        "ant/3.jpg", "bee/3.jpg", "cat/3.jpg",
        "ant/4.jpg", "bee/deeper/1.jpg", "cat/4.jpg",
        "ant/5.jpg", "cat/deeper/1.jpg",
        "ant/deeper/1.jpg",
    ]  # fmt: skip


def test_a_label_is_the_place_of_the_class_among_the_sorted(class_folder):
    source = Folder(str(class_folder))
    table = source.listing()
    assert source.classes == ("ant", "bee", "cat")
    assert source.shape is None
    for row in table.itertuples():
        assert row.image_id.startswith(source.classes[row.label] + "/")


def test_hidden_and_other_files_are_not_looked_at(class_folder):
    before = ids(class_folder)
    for name in (".hidden.jpg", "ant/.1.jpg", "bee/notes.txt", "README.md", ".git/x.jpg"):
        path = class_folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("no image")
    assert ids(class_folder) == before


@pytest.mark.parametrize("name", ["x.jpg", "x.JPEG", "x.Png", "x.tif", "x.webp", "x.gif"])
def test_an_image_is_known_by_its_extension_in_any_case(class_folder, name):
    (class_folder / "bee" / name).write_bytes(b"")
    assert f"bee/{name}" in ids(class_folder)


def test_links_are_followed(class_folder, tmp_path):
    shutil.move(class_folder / "bee", tmp_path / "elsewhere")
    before = ids(class_folder)
    (class_folder / "bee").symlink_to(tmp_path / "elsewhere")
    assert set(ids(class_folder)) - set(before) == {
        f"bee/{name}" for name in ("0.jpg", "2.jpg", "3.jpg", "deeper/1.jpg")
    }


def test_a_link_to_nothing_is_listed_and_cannot_be_read(class_folder):
    (class_folder / "bee" / "lost.jpg").symlink_to("nowhere.jpg")
    source = Folder(str(class_folder))
    table = source.listing().set_index("image_id")
    assert table.loc["bee/lost.jpg", "stamp"] == "unreadable"
    with pytest.raises(OSError, match=r"lost\.jpg"):
        source.read("bee/lost.jpg", 0)


def test_ids_and_stamps_stay_where_the_folder_moves(class_folder, tmp_path):
    before = Folder(str(class_folder)).listing()
    moved = class_folder.rename(tmp_path / "moved")
    assert Folder(str(moved)).listing().equals(before)


@pytest.mark.parametrize("change", ["size", "time"])
def test_the_stamp_changes_with_the_files_size_and_time(class_folder, change):
    path = class_folder / "ant" / "0.jpg"
    before = Folder(str(class_folder)).listing().set_index("image_id")["stamp"]
    found = path.stat()
    if change == "size":
        path.write_bytes(path.read_bytes() + b"\n")
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    else:
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    after = Folder(str(class_folder)).listing().set_index("image_id")["stamp"]
    assert before.index[before != after].tolist() == ["ant/0.jpg"]


def test_an_image_outside_any_class_is_named(class_folder):
    (class_folder / "stray.jpg").write_bytes(b"")
    with pytest.raises(VitalsError, match=r"images.path = '.*pictures': the image 'stray.jpg' is"):
        ids(class_folder)


def test_a_class_without_an_image_is_named(class_folder):
    (class_folder / "dog" / "deeper").mkdir(parents=True)
    (class_folder / "dog" / "notes.txt").write_text("")
    with pytest.raises(VitalsError, match=r"the class 'dog' has no image \(\.bmp, .*\.webp\)"):
        ids(class_folder)


def test_a_folder_without_classes_is_an_error(tmp_path):
    with pytest.raises(VitalsError, match="expected folders of classes with images, found none"):
        ids(tmp_path)


@pytest.mark.parametrize(("kind", "found"), [("nothing", "nothing"), ("file", "a file")])
def test_a_path_that_is_no_folder_is_named(tmp_path, kind, found):
    path = tmp_path / "there"
    if kind == "file":
        path.write_text("")
    message = f"images.path = '{path}': expected a folder of class folders, found {found}"
    with pytest.raises(VitalsError, match=message):
        ids(path)


def test_a_name_that_is_not_utf8_is_named(class_folder):
    with open(os.fsencode(class_folder / "ant") + b"/\xff.jpg", "wb"):
        pass
    with pytest.raises(VitalsError, match=r"the name 'ant/\\udcff.jpg' is not in UTF-8"):
        ids(class_folder)


def test_a_folder_that_is_gone_is_no_unreadable_image(class_folder, tmp_path):
    source = Folder(str(class_folder))
    class_folder.rename(tmp_path / "moved")
    with pytest.raises(VitalsError, match="expected a folder of class folders, found nothing"):
        source.read("ant/0.jpg", 0)
