"""Prepared images are kept once, and come back as they were."""

import fcntl

import numpy as np
import pytest

from vitals.data import decoded, images, pixels
from vitals.errors import VitalsError


def prepare(picture):
    return np.asarray(picture)[:2, :3].transpose(2, 0, 1)


@pytest.fixture
def listed(settings, frozen, class_folder):
    """The list of a folder in which two images cannot be read, one of them the first."""
    (class_folder / "ant" / "0.jpg").write_bytes(b"no picture")
    (class_folder / "cat" / "4.jpg").write_bytes(b"")
    return images.read(frozen(settings), str(class_folder))


@pytest.fixture
def stream(listed):
    return lambda skip=True: pixels.prepared(listed, prepare, 2, skip)


def never():
    raise AssertionError("prepared again")
    yield


def files(folder):
    return sorted(folder.glob("*.npy"))


def same(found, expected):
    return len(found) == len(expected) and all(
        a is b is None or np.array_equal(a, b) for a, b in zip(found, expected, strict=True)
    )


def test_images_are_prepared_once_for_a_key(tmp_path, listed, stream):
    expected = list(stream())
    assert [place for place, array in enumerate(expected) if array is None] == [0, 11]
    first = list(decoded.kept(tmp_path / "kept", "key", listed, stream(), True))
    again = list(decoded.kept(tmp_path / "kept", "key", listed, never(), True))
    assert same(first, expected)
    assert same(again, expected)
    assert all(array is None or array.dtype == np.uint8 for array in again)
    assert len(files(tmp_path / "kept")) == 1


@pytest.mark.parametrize("count", [1, 2])
def test_a_list_of_unreadable_images_is_kept_too(tmp_path, listed, count):
    for stream in (iter([None] * count), never()):
        found = decoded.kept(tmp_path, "key", listed.rows(0, count), stream, True)
        assert list(found) == [None] * count


def test_another_key_or_other_images_are_kept_apart(tmp_path, listed, stream):
    list(decoded.kept(tmp_path, "key", listed, stream(), True))
    list(decoded.kept(tmp_path, "other", listed, stream(), True))
    part = listed.rows(1, 9)
    list(decoded.kept(tmp_path, "key", part, pixels.prepared(part, prepare, 2), True))
    assert len(files(tmp_path)) == 3


def test_images_that_were_left_out_are_an_error_again_where_they_are_to_be(
    tmp_path, listed, stream
):
    list(decoded.kept(tmp_path, "key", listed, stream(), True))
    with pytest.raises(VitalsError, match=r"image ant/0.jpg cannot be read"):
        list(decoded.kept(tmp_path, "key", listed, stream(False)))


def test_a_pass_that_stops_half_way_leaves_no_file(tmp_path, listed, stream):
    half = decoded.kept(tmp_path, "key", listed, stream(), True)
    for _ in range(5):
        next(half)
    half.close()
    assert files(tmp_path) == []
    assert not list(tmp_path.glob(".*partial"))


def test_an_image_that_fails_leaves_no_file(tmp_path, listed, stream):
    with pytest.raises(VitalsError, match=r"image ant/0.jpg cannot be read"):
        list(decoded.kept(tmp_path, "key", listed, stream(False)))
    assert files(tmp_path) == []


def test_of_two_at_once_one_keeps_and_both_give_the_images(tmp_path, listed, stream):
    expected = list(stream())
    first = decoded.kept(tmp_path, "key", listed, stream(), True)
    found = [next(first)]
    assert same(list(decoded.kept(tmp_path, "key", listed, stream(), True)), expected)
    assert files(tmp_path) == []
    assert same(found + list(first), expected)
    assert len(files(tmp_path)) == 1


def test_a_disk_without_locks_keeps_nothing(tmp_path, listed, stream, monkeypatch):
    def refuse(file, operation):
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert same(list(decoded.kept(tmp_path, "key", listed, stream(), True)), list(stream()))
    assert files(tmp_path) == []


@pytest.mark.parametrize("kind", ["cut", "empty", "text"])
def test_a_file_that_is_not_what_was_kept_is_named(tmp_path, listed, stream, kind):
    list(decoded.kept(tmp_path, "key", listed, stream(), True))
    (path,) = files(tmp_path)
    content = {"cut": path.read_bytes()[:-1], "empty": b"", "text": b"no array" * 9}[kind]
    path.write_bytes(content)
    with pytest.raises(VitalsError, match=f"{path.name} is not what was kept .*remove it"):
        list(decoded.kept(tmp_path, "key", listed, never(), True))


def test_arrays_keep_their_type(tmp_path, digit_list):
    expected = digit_list.pixels()
    stream = pixels.prepared(digit_list, lambda array: array, 2)
    list(decoded.kept(tmp_path, "key", digit_list, stream))
    found = np.stack(list(decoded.kept(tmp_path, "key", digit_list, never())))
    assert found.dtype == np.float32
    assert np.array_equal(found, expected)
