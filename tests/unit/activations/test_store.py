"""A shard is whole or not there, durable, and says what it was made from."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest

from vitals.activations import chunks, claim, store
from vitals.errors import VitalsError

DIMS = ("layer", "image", "token", "channel")
SYNC = store._sync  # the tests of this folder do without, but for the one that is of it
PROVENANCE = {"spec": "{}", "code": "abc", "weights_digest": "w"}


def values_of(images=11):
    return np.random.default_rng(0).standard_normal((3, images, 4, 5)).astype("float32")


def write(path, images=11, **how):
    with store.new_shard(path, PROVENANCE, **how) as writer:
        writer.declare("tokens/tokens", DIMS, (3, images, 4, 5), "float32")
        writer.append("tokens/tokens", values_of(images))
        writer.put_coordinate("tokens/layer", ("layer",), np.array(["embed", "position", "norm"]))
        writer.put_coordinate("tokens/label", ("image",), np.arange(images))
        writer.put("model/norm_scale", ("channel",), np.ones(5, "float32"))
    return path


def put(writer):
    writer.put("model/norm_scale", ("channel",), np.ones(5, "float32"))


@pytest.fixture
def shard(tmp_path, monkeypatch):
    """A whole shard of eleven images, four a chunk."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4 * 4 * 5 * 4)
    return write(tmp_path / "0.zarr")


def test_the_root_says_what_the_shard_was_made_from(shard):
    attributes = json.loads((shard / "zarr.json").read_text())["attributes"]
    assert attributes["provenance"] == PROVENANCE == store.provenance(shard)
    assert attributes["encoding"] == {"codec": "none", "keep_bits": None}
    assert set(attributes["digests"]) == {
        "attributes",
        "model/zarr.json",
        "model/norm_scale/zarr.json",
        "model/norm_scale/c",
        "tokens/zarr.json",
        "tokens/label/zarr.json",
        "tokens/label/c",
        "tokens/layer/zarr.json",
        "tokens/layer/c",
        "tokens/tokens/zarr.json",
        "tokens/tokens/c",
    }


def test_what_is_known_at_the_end_joins_the_provenance(tmp_path):
    with store.new_shard(tmp_path / "0.zarr", PROVENANCE) as writer:
        put(writer)
        writer.note("left_out", ["a.jpg"])
    assert store.provenance(tmp_path / "0.zarr") == {**PROVENANCE, "left_out": ["a.jpg"]}
    assert store.torn_arrays(tmp_path / "0.zarr") == []


def test_the_same_content_has_the_same_digests(tmp_path):
    def digests(path):
        return json.loads((path / "zarr.json").read_text())["attributes"]["digests"]

    assert digests(write(tmp_path / "0.zarr")) == digests(write(tmp_path / "1.zarr"))


def test_the_shard_appears_when_it_is_whole_and_not_before(tmp_path):
    path = tmp_path / "activations" / "0.zarr"
    with store.new_shard(path, PROVENANCE) as writer:
        put(writer)
        assert not path.exists()
    assert (path / "zarr.json").is_file()
    assert list(path.parent.iterdir()) == [path]


def test_every_file_is_on_the_disk_before_the_shard_takes_its_place(tmp_path, monkeypatch):
    synced, path = [], tmp_path / "0.zarr"

    def fsync(descriptor):
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), path.exists()))

    monkeypatch.setattr(store, "_sync", SYNC)
    monkeypatch.setattr(store, "os", SimpleNamespace(**{**vars(os), "fsync": fsync}))
    write(path)
    before = {name for name, in_place in synced if not in_place}
    after = [name for name, in_place in synced if in_place]
    partial = tmp_path / ".0.zarr.partial"
    assert before == {str(partial), *(str(partial / f.relative_to(path)) for f in path.rglob("*"))}
    assert after == [str(tmp_path)]  # the new name itself


class KilledError(Exception):
    """What ends a job in the middle."""


def test_an_exception_leaves_nothing(tmp_path):
    with pytest.raises(KilledError), store.new_shard(tmp_path / "0.zarr", PROVENANCE) as writer:
        put(writer)
        raise KilledError
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_the_shard_that_was_there(shard):
    with pytest.raises(KilledError), store.new_shard(shard, PROVENANCE):
        raise KilledError
    assert store.torn_arrays(shard) == []


def test_a_new_shard_takes_the_place_of_a_stale_one_wholly(shard):
    (shard / "tokens" / "old").mkdir()
    (shard / "zarr.json").unlink()  # as the workflow does before the job
    write(shard, images=6)
    assert store.open_group(shard, "tokens").sizes["image"] == 6
    assert not (shard / "tokens" / "old").exists()


def test_a_stale_shard_is_never_whole_while_it_is_removed(shard, monkeypatch):
    def killed(path, **_):
        if path == shard:
            assert not (shard / "zarr.json").exists()
            raise KilledError

    monkeypatch.setattr(store.shutil, "rmtree", killed)
    with pytest.raises(KilledError):
        write(shard)


def test_arrays_of_a_tier_that_differ_in_their_images_are_an_error(tmp_path):
    with (
        pytest.raises(VitalsError, match="tokens: 9 along image in tokens, and 11 in label"),
        store.new_shard(tmp_path / "0.zarr", PROVENANCE) as writer,
    ):
        writer.declare("tokens/tokens", DIMS, (3, 11, 4, 5), "float32", at_most=True)
        writer.append("tokens/tokens", values_of(9))
        writer.put_coordinate("tokens/label", ("image",), np.arange(11))


def test_too_little_room_is_an_error_before_anything_is_written(tmp_path, monkeypatch):
    free = SimpleNamespace(free=3_000_000_000)
    monkeypatch.setattr(claim.shutil, "disk_usage", lambda path: free)
    with pytest.raises(VitalsError, match=r"model: 26 GB are needed and 3 GB are free"):
        write(tmp_path / "model" / "0.zarr", expects_bytes=26_000_000_000)
    assert list((tmp_path / "model").iterdir()) == []
    write(tmp_path / "model" / "0.zarr", expects_bytes=3_000_000_000)


def test_large_chunks_that_go_straight_to_the_disk_are_the_same_files(tmp_path, monkeypatch):
    values = np.random.default_rng(0).standard_normal((2, 5, 300, 400)).astype("float32")

    def files(name):
        with store.new_shard(tmp_path / name, PROVENANCE) as writer:
            writer.declare("tokens/tokens", DIMS, values.shape, "float32")
            writer.append("tokens/tokens", values)
        chunks_of = (tmp_path / name / "tokens" / "tokens" / "c").rglob("*")
        return [path.read_bytes() for path in sorted(chunks_of) if path.is_file()]

    direct = files("direct.zarr")
    monkeypatch.setattr(store.DirectWriter, "write", lambda *arguments: False)
    assert min(map(len, direct)) > 2**20
    assert files("plain.zarr") == direct
