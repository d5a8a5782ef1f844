"""Images come prepared, in order, a few ahead, and each error at its own image."""

import threading
import time

import numpy as np
import pytest

from vitals.data import images, pixels
from vitals.errors import VitalsError


def prepare(picture):
    return np.asarray(picture)[:2, :3].transpose(2, 0, 1)


@pytest.fixture
def read(settings, frozen, class_folder):
    """Freezes the list of the folder as it is, and reads it back."""
    return lambda: images.read(frozen(settings), str(class_folder))


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_images_come_in_the_order_of_the_list_whichever_is_ready_first(read, workers):
    listed = read()
    expected = [prepare(listed.picture(place)) for place in range(15)]

    def slowly(picture):
        time.sleep(0.002 * (np.asarray(picture)[0, 0, 0] % 4))
        return prepare(picture)

    found = list(pixels.prepared(listed, slowly, workers))
    assert len(found) == 15
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_is_prepared_than_a_few_images_a_worker(read, workers):
    begun = []
    stream = pixels.prepared(read(), lambda picture: begun.append(1) or prepare(picture), workers)
    for taken in range(1, 16):
        next(stream)
        time.sleep(0.01)
        assert len(begun) <= taken - 1 + pixels.AHEAD * workers
    assert len(begun) == 15


def test_nothing_more_is_begun_after_the_stream_is_closed(read):
    begun = []
    stream = pixels.prepared(read(), lambda picture: begun.append(1) or prepare(picture), 2)
    next(stream)
    stream.close()
    count = len(begun)
    time.sleep(0.05)
    assert len(begun) == count <= 2 * pixels.AHEAD
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("images")]


def damage(path, kind, encoded):
    content = {
        "cut": encoded(1, size=(64, 64))[:900],
        "empty": b"",
        "text": b"no picture",
    }
    path.write_bytes(content[kind])


@pytest.mark.parametrize("kind", ["cut", "empty", "text"])
def test_an_unreadable_image_is_named_where_it_would_come(read, class_folder, encoded, kind):
    damage(class_folder / "bee" / "2.jpg", kind, encoded)
    stream = pixels.prepared(read(), prepare, 4)
    for _ in range(4):
        next(stream)
    with pytest.raises(
        VitalsError,
        match=r"image bee/2.jpg cannot be read: .*Mend it.*images.skip_unreadable: true$",
    ):
        next(stream)


def test_unreadable_images_are_left_out_and_never_replaced(read, class_folder, encoded, capfd):
    damage(class_folder / "bee" / "2.jpg", "cut", encoded)
    damage(class_folder / "ant" / "0.jpg", "text", encoded)
    (class_folder / "cat" / "3.jpg").unlink()
    (class_folder / "cat" / "3.jpg").symlink_to("nowhere")
    listed = read()
    found = list(pixels.prepared(listed, prepare, 2, skip_unreadable=True))
    missing = [listed.table["image_id"][place] for place in range(15) if found[place] is None]
    assert missing == ["ant/0.jpg", "bee/2.jpg", "cat/3.jpg"]
    for place in set(range(15)) - {0, 4, 8}:
        assert np.array_equal(found[place], prepare(listed.picture(place)))
    said = capfd.readouterr().err
    assert [name for name in missing if f"left out: image {name} c" in said] == missing


@pytest.mark.parametrize("skip", [False, True])
def test_an_image_that_is_not_what_was_listed_is_an_error_even_where_some_are_left_out(
    read, class_folder, encoded, skip
):
    listed = read()
    (class_folder / "bee" / "2.jpg").write_bytes(encoded(99))
    with pytest.raises(VitalsError, match=r"image bee/2.jpg is not the one that was listed"):
        list(pixels.prepared(listed, prepare, 2, skip_unreadable=skip))


def test_an_image_that_is_gone_is_unreadable(read, class_folder):
    listed = read()
    (class_folder / "bee" / "2.jpg").unlink()
    found = list(pixels.prepared(listed, prepare, 2, skip_unreadable=True))
    assert [place for place, array in enumerate(found) if array is None] == [4]


def test_a_dataset_that_is_gone_is_an_error_and_not_all_images_unreadable(
    read, class_folder, tmp_path
):
    listed = read()
    class_folder.rename(tmp_path / "moved")
    with pytest.raises(VitalsError, match="expected a folder of class folders, found nothing"):
        list(pixels.prepared(listed, prepare, 2, skip_unreadable=True))


def test_an_error_of_the_preparation_is_raised_as_it_is(read):
    def refuse(picture):
        raise VitalsError("of another size")

    with pytest.raises(VitalsError, match="of another size"):
        list(pixels.prepared(read(), refuse, 2, skip_unreadable=True))


def test_arrays_are_prepared_as_they_are(digit_list):
    found = np.stack(list(pixels.prepared(digit_list, lambda array: array, 2)))
    assert np.array_equal(found, digit_list.pixels())


def test_a_list_without_images_gives_none(digit_list):
    assert list(pixels.prepared(digit_list.rows(0, 0), prepare, 2)) == []
