"""Files written past the page cache hold what was written, or are not there."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from vitals.activations.direct import AT_ONCE, BLOCK, LEAST, DirectWriter

SIZES = [LEAST, LEAST + 1, AT_ONCE, AT_ONCE + BLOCK, 2 * AT_ONCE + BLOCK - 1]


def content(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def refusing(monkeypatch: pytest.MonkeyPatch, function: str, number: int) -> None:
    """From now on a function of `os` fails with this error."""

    def refused(*arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, function, refused)


def test_a_file_holds_what_was_written_whatever_its_length(tmp_path: Path) -> None:
    writer = DirectWriter()
    for size in SIZES:
        path = tmp_path / "folder" / str(size)
        if writer.write(path, content(size)):
            assert path.read_bytes() == content(size)


def test_a_file_system_that_can_is_asked(tmp_path: Path) -> None:
    try:
        os.close(os.open(tmp_path / "probe", os.O_CREAT | os.O_WRONLY | os.O_DIRECT))
    except (AttributeError, OSError):
        pytest.skip("this file system has no direct writes")
    assert DirectWriter().write(tmp_path / "file", content(LEAST))


def test_a_shorter_file_takes_the_place_of_a_longer_one(tmp_path: Path) -> None:
    writer = DirectWriter()
    if writer.write(tmp_path / "file", content(AT_ONCE)):
        writer.write(tmp_path / "file", content(LEAST, seed=1))
        assert (tmp_path / "file").read_bytes() == content(LEAST, seed=1)


def test_a_small_file_is_left_to_others(tmp_path: Path) -> None:
    assert not DirectWriter().write(tmp_path / "file", content(LEAST - 1))
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("function", ["open", "write"])
def test_a_file_system_that_cannot_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    writer = DirectWriter()
    with monkeypatch.context() as patched:
        refusing(patched, function, errno.EINVAL)
        assert not writer.write(tmp_path / "file", content(LEAST))
    assert not (tmp_path / "file").exists()
    assert not writer.write(tmp_path / "file", content(LEAST))


def test_a_full_disk_is_an_error_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched, pytest.raises(OSError, match="space"):
        refusing(patched, "write", errno.ENOSPC)
        DirectWriter().write(tmp_path / "file", content(LEAST))
    assert not (tmp_path / "file").exists()
