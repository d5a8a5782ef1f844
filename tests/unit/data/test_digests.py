"""Contents are digested once for each stamp."""

import hashlib
import json
import os

import pandas as pd
import pytest

from vitals.data import digests
from vitals.provenance import digest_of


class Counted:
    """A source of images whose content is their path; those that begin with "-" cannot be read."""

    def __init__(self):
        self.read_paths = []

    def read(self, path, index):
        self.read_paths.append(path)
        if path.startswith("-"):
            raise OSError(path)
        return path.encode()


def rows(*paths, stamp="1"):
    return pd.DataFrame({"image_id": paths, "path": paths, "index": 0, "stamp": stamp})


@pytest.fixture
def record(tmp_path):
    return tmp_path / ".images.stamps"


def test_digests_are_those_of_the_contents_in_order():
    paths = [str(number) for number in range(50)]
    found = digests.of_contents(Counted(), rows(*paths))
    assert found == [digest_of(path.encode()) for path in paths]


def test_what_cannot_be_read_has_no_digest():
    found = digests.of_contents(Counted(), rows("a", "-b"))
    assert found == [digest_of(b"a"), digests.UNREADABLE]


def test_a_stamp_that_was_met_is_not_read_again(record):
    source = Counted()
    first = digests.remembered(source, rows("a", "b"), record)
    assert digests.remembered(source, rows("b", "a", "c"), record) == [
        first[1],
        first[0],
        digest_of(b"c"),
    ]
    assert sorted(source.read_paths) == ["a", "b", "c"]
    digests.remembered(source, rows("a", stamp="2"), record)
    assert sorted(source.read_paths) == ["a", "a", "b", "c"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff"])
def test_a_torn_record_is_made_anew(record, content):
    record.write_bytes(content)
    assert digests.remembered(Counted(), rows("a"), record) == [digest_of(b"a")]
    assert list(json.loads(record.read_text()).values()) == [digest_of(b"a")]


def test_a_record_that_cannot_be_written_is_done_without(tmp_path):
    record = tmp_path / "nowhere" / ".images.stamps"
    assert digests.remembered(Counted(), rows("a"), record) == [digest_of(b"a")]


def test_a_file_is_read_once_for_each_time_but_not_while_it_may_be_written(record, tmp_path):
    file = tmp_path / "last.pth"
    now = tmp_path.stat().st_mtime + 3600  # of a moment that is not over while this runs
    past = now - 86400

    def digest(content, time):
        file.write_bytes(content)
        os.utime(file, (time, time))
        return digests.of_file(file, record)

    assert digest(b"before", now) == hashlib.sha256(b"before").hexdigest()
    assert digest(b"after!", now) == hashlib.sha256(b"after!").hexdigest()
    assert not record.exists()
    known = digest(b"known!", past)
    assert list(json.loads(record.read_text()).values()) == [known]
    assert digest(b"unread", past) == known
