"""A shard that lies elsewhere, made from the same things, is linked if it is whole."""

import errno
import json
import os
import shutil

import numpy as np
import pytest

from vitals.activations import chunks, integrity, linking, store
from vitals.activations.claim import claimed
from vitals.errors import VitalsError

CHUNK = "tokens/tokens/c/1/2/0"
OWN = {"spec": "{}", "fingerprint": "same", "model": "own", "versions": {}, "device": "cuda"}


@pytest.fixture
def studies(tmp_path, monkeypatch):
    """A folder of one study of one model, whose shard has twelve images, four a chunk."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4 * 6 * 4)
    values = np.random.default_rng(0).standard_normal((2, 12, 6)).astype("float32")
    made_from = {**OWN, "model": "vit", "versions": {"torch": "2"}, "device": "cpu"}
    path = tmp_path / "studies" / "one" / "vit" / "activations" / "0.zarr"
    with store.new_shard(path, made_from) as writer:
        writer.declare("tokens/tokens", ("layer", "image", "channel"), values.shape, values.dtype)
        writer.append("tokens/tokens", values)
        writer.note("left_out", ["a"])
    return tmp_path / "studies"


@pytest.fixture
def twin(studies):
    return studies / "one" / "vit" / "activations" / "0.zarr"


@pytest.fixture
def shard(studies):
    return studies / "two" / "own" / "activations" / "0.zarr"


def inodes(shard):
    """The inode of each file but the root, by its path in the shard."""
    files = (file for file in shard.rglob("*") if file.is_file())
    found = {str(file.relative_to(shard)): file.stat().st_ino for file in files}
    found.pop("zarr.json")
    return found


def test_the_twin_is_linked_and_says_so(studies, twin, shard):
    assert linking.link(shard, OWN, studies) == twin
    assert inodes(shard) == inodes(twin)
    assert CHUNK in inodes(shard)
    assert store.torn_arrays(shard) == []
    assert store.provenance(shard) == {
        **OWN,
        **{"versions": {"torch": "2"}, "device": "cpu"},  # of the pass
        "left_out": ["a"],
        "taken_from": str(twin),
    }


def test_the_root_has_a_time_of_its_own_which_the_twins_does_not_follow(studies, twin, shard):
    linking.link(shard, OWN, studies)
    os.utime(twin / "zarr.json", (0, 0))
    os.utime(shard / "zarr.json")
    assert (twin / "zarr.json").stat().st_mtime == 0


def test_removing_either_leaves_the_other_whole(studies, twin, shard):
    linking.link(shard, OWN, studies)
    shutil.rmtree(twin)
    assert store.torn_arrays(shard) == []
    assert linking.link(twin, {**OWN, "model": "vit"}, studies) == shard
    shutil.rmtree(shard)
    assert store.torn_arrays(twin) == []


def test_other_things_are_not_linked(studies, shard):
    assert linking.link(shard, {**OWN, "fingerprint": "other"}, studies) is None
    assert not shard.exists()


def altered(twin, change):
    """Alter a twin in one of the ways that a kill, a full disk or a hand leaves behind."""
    chunk, metadata = twin / CHUNK, twin / "tokens" / "tokens" / "zarr.json"
    match change:
        case "a chunk is missing":
            chunk.unlink()
        case "a chunk is short":
            chunk.write_bytes(chunk.read_bytes()[:-9])
        case "a chunk ends in zeros":
            chunk.write_bytes(chunk.read_bytes()[:-8] + bytes(8))
        case "metadata is torn":
            metadata.write_text(metadata.read_text()[:40])
        case "metadata is none":
            metadata.write_text("{}")
        case "metadata is altered":
            metadata.write_text(metadata.read_text() + "\n")
        case "metadata is missing":
            metadata.unlink()
        case "the root is torn":
            (twin / "zarr.json").write_text((twin / "zarr.json").read_text()[:60])
        case "the root is missing":
            (twin / "zarr.json").unlink()
        case "the attributes are altered":
            root = json.loads((twin / "zarr.json").read_text())
            root["attributes"]["provenance"]["left_out"] = []
            (twin / "zarr.json").write_text(json.dumps(root))


@pytest.mark.parametrize(
    "change",
    ["a chunk is missing", "a chunk is short", "a chunk ends in zeros", "metadata is torn",
     "metadata is none", "metadata is altered", "metadata is missing", "the root is torn",
     "the root is missing", "the attributes are altered"],
)  # fmt: skip
def test_a_twin_that_is_not_whole_is_never_taken(studies, twin, shard, change):
    altered(twin, change)
    assert linking.link(shard, OWN, studies) is None
    assert list(shard.parent.iterdir()) == []


def test_a_whole_twin_is_taken_where_another_is_torn(studies, twin, shard):
    copy = studies / "three" / "vit" / "activations" / "0.zarr"
    shutil.copytree(twin, copy)
    altered(twin, "a chunk is missing")
    assert linking.link(shard, OWN, studies) == copy


def test_a_stale_shard_is_replaced_and_a_leftover_is_no_obstacle(studies, twin, shard):
    for leftover in (shard, shard.with_name(".0.zarr.partial")):
        (leftover / "old").mkdir(parents=True)
        (leftover / "zarr.json").write_text("{}")
    assert linking.link(shard, OWN, studies) == twin
    assert store.torn_arrays(shard) == []
    assert [file.name for file in shard.parent.iterdir()] == ["0.zarr"]


def test_what_another_run_is_writing_is_refused(studies, shard):
    shard.parent.mkdir(parents=True)
    with claimed(shard), pytest.raises(VitalsError, match="is being written by another run"):
        linking.link(shard, OWN, studies)


def test_where_a_disk_cannot_link_the_files_are_copied(studies, twin, shard, monkeypatch):
    def across(source, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", across)
    assert linking.link(shard, OWN, studies) == twin
    assert not set(inodes(shard).values()) & set(inodes(twin).values())
    assert store.torn_arrays(shard) == []


def test_a_twin_that_goes_while_it_is_linked_is_given_up(studies, twin, shard, monkeypatch):
    link = os.link

    def gone(source, target):
        link(source, target)
        (twin / CHUNK).unlink(missing_ok=True)

    monkeypatch.setattr(os, "link", gone)
    assert linking.link(shard, OWN, studies) is None
    assert list(shard.parent.iterdir()) == []
    assert integrity.root_attributes(twin)
