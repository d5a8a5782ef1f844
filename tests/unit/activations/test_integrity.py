"""Whatever happens to a file of a shard is found and named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from vitals.activations import chunks, integrity, store
from vitals.errors import VitalsError

DIMS = ("layer", "image", "channel")
CHUNK = "tokens/tokens/c/1/2/0"
TEXT = "tokens/image_id/c/0"


def write(path, seed=0, codec="none"):
    """Eleven images of two layers, four a chunk, with labels and a parameter."""
    values = np.random.default_rng(seed).standard_normal((2, 11, 6)).astype("float32")
    with store.new_shard(path, {"spec": "{}"}, store.Encoding(codec)) as writer:
        writer.declare("tokens/tokens", DIMS, values.shape, values.dtype)
        writer.append("tokens/tokens", values)
        names = np.array([f"image {number}" for number in range(11)])
        writer.put_coordinate("tokens/image_id", ("image",), names)
        writer.put("model/norm_scale", ("channel",), np.ones(6, "float32"))
        writer.absent("tokens", "attention", "there is none")
    return path


@pytest.fixture(params=["none", "zstd"])
def shard(tmp_path, monkeypatch, request):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4 * 6 * 4)
    return write(tmp_path / "0.zarr", codec=request.param)


def test_each_file_is_read_once(shard, monkeypatch):
    read, read_bytes = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or read_bytes(path))
    integrity.torn_arrays(shard)
    assert sorted(read) == sorted(path for path in shard.rglob("*") if path.is_file())


def test_a_shard_that_was_left_alone_has_nothing_torn(shard):
    assert store.torn_arrays(shard) == []


@pytest.mark.parametrize("name", [CHUNK, TEXT, "model/norm_scale/c/0"])
@pytest.mark.parametrize("place", [0, 17, -1], ids=["first", "inner", "checksum"])
def test_a_flipped_bit_is_named(shard, name, place):
    content = bytearray((shard / name).read_bytes())
    content[place] ^= 1
    (shard / name).write_bytes(content)
    assert store.torn_arrays(shard) == [f"{name}: its bytes do not give its checksum"]


@pytest.mark.parametrize("length", [0, 3, 4, 50])
def test_a_truncated_chunk_is_named(shard, length):
    content = (shard / CHUNK).read_bytes()
    (shard / CHUNK).write_bytes(content[:length])
    assert store.torn_arrays(shard) == [f"{CHUNK}: its bytes do not give its checksum"]


def test_a_missing_chunk_is_named(shard):
    (shard / CHUNK).unlink()
    assert store.torn_arrays(shard) == [f"{CHUNK}: missing"]


def test_all_chunks_of_an_array_missing_are_named(shard):
    shutil.rmtree(shard / "tokens" / "tokens" / "c")
    assert len(store.torn_arrays(shard)) == 6


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("tokens/tokens/c/1/3/0", "not a chunk of this array"),
        ("tokens/tokens/c/1/2/0.1a2b.partial", "not a chunk of this array"),
        ("tokens/tokens/left", "not a file of the shard"),
        ("model/old/zarr.json", "not a file of the shard"),
        ("notes.txt", "not a file of the shard"),
    ],
)
def test_an_extra_file_is_named(shard, name, what):
    (shard / name).parent.mkdir(exist_ok=True)
    (shard / name).write_bytes((shard / CHUNK).read_bytes())
    assert store.torn_arrays(shard) == [f"{name}: {what}"]


@pytest.mark.parametrize("name", ["tokens/zarr.json", "tokens/tokens/zarr.json"])
def test_altered_metadata_is_named(shard, name):
    content = (shard / name).read_text()
    (shard / name).write_text(content.replace("attributes", "attribute", 1))
    assert store.torn_arrays(shard) == [f"{name}: altered"]


def test_metadata_that_is_no_json_is_named(shard):
    (shard / "tokens" / "tokens" / "zarr.json").write_bytes(b"{")
    assert store.torn_arrays(shard) == ["tokens/tokens/zarr.json: altered"]


def test_missing_metadata_is_named(shard):
    (shard / "tokens" / "zarr.json").unlink()
    assert store.torn_arrays(shard) == ["tokens/zarr.json: missing"]


def test_an_altered_provenance_is_named(shard):
    root = json.loads((shard / "zarr.json").read_text())
    root["attributes"]["provenance"]["spec"] = "other"
    (shard / "zarr.json").write_text(json.dumps(root))
    assert store.torn_arrays(shard) == ["zarr.json: the attributes were altered"]


def test_a_whole_chunk_of_another_writing_is_found(shard, tmp_path):
    codec = integrity.recorded(shard, "encoding")["codec"]
    other = write(tmp_path / "1.zarr", seed=1, codec=codec)
    shutil.copy(other / CHUNK, shard / CHUNK)
    assert store.torn_arrays(shard) == [
        "tokens/tokens/c: a chunk is whole, and not the one that was written"
    ]


def test_chunks_that_changed_places_are_found(shard):
    chunk, other = shard / CHUNK, shard / "tokens/tokens/c/0/2/0"
    contents = chunk.read_bytes(), other.read_bytes()
    chunk.write_bytes(contents[1])
    other.write_bytes(contents[0])
    assert store.torn_arrays(shard) == [
        "tokens/tokens/c: a chunk is whole, and not the one that was written"
    ]


def test_several_wrongs_are_all_named(shard):
    (shard / CHUNK).unlink()
    (shard / TEXT).write_bytes(b"")
    assert [line.split(":")[0] for line in store.torn_arrays(shard)] == [TEXT, CHUNK]


def test_a_shard_without_its_root_is_not_whole(shard):
    (shard / "zarr.json").unlink()
    for read in (store.provenance, store.torn_arrays, lambda s: store.open_group(s, "tokens")):
        with pytest.raises(VitalsError, match=r"not a whole shard: it has no zarr.json"):
            read(shard)


def test_a_root_that_is_no_json_is_named(shard):
    (shard / "zarr.json").write_bytes(b"{")
    with pytest.raises(VitalsError, match=r"0.zarr.zarr.json is not JSON"):
        store.torn_arrays(shard)


def test_another_zarr_store_is_no_shard(tmp_path):
    (tmp_path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    with pytest.raises(VitalsError, match="not a shard of ViTals: its root has no digests"):
        store.torn_arrays(tmp_path)
