"""docs/store.md, implemented from what it says and without Zarr, reads the same values."""

import hashlib
import json
import math
import struct
from itertools import product

import numpy as np
import pytest
from numcodecs import Blosc

from vitals.activations import chunks, store

DIMS = ("layer", "image", "token", "channel")
LAYERS = ["embed", "position", "norm"]
NAMES = ["ein Bild", "картина", "", "絵"] + [f"image-{i}" for i in range(7)]
TYPES = {"float16": "<f2", "float32": "<f4", "float64": "<f8", "int64": "<i8", "bool": "?"}


def crc32c(data):
    """Castagnoli's polynomial 0x1EDC6F41, reflected, begun and ended with all ones."""
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = (remainder >> 1) ^ (0x82F63B78 if remainder & 1 else 0)
    return remainder ^ 0xFFFFFFFF


def read_chunk(file, codecs):
    """The bytes of a chunk before its codecs, undone from the last to the first."""
    content = file.read_bytes()
    for codec in reversed(codecs):
        match codec["name"]:
            case "crc32c":
                content, checksum = content[:-4], struct.unpack("<I", content[-4:])[0]
                assert crc32c(content) == checksum
            case "blosc":
                content = Blosc().decode(content)
            case "bytes" | "vlen-utf8":
                break
    return content


def read_text(content):
    """Strings: their number, then the length and the UTF-8 bytes of each."""
    (count,), place, found = struct.unpack_from("<I", content), 4, []
    for _ in range(count):
        (length,) = struct.unpack_from("<I", content, place)
        found.append(content[place + 4 : place + 4 + length].decode())
        place += 4 + length
    return found


def read_array(folder):
    """The dims and the values of an array."""
    metadata = json.loads((folder / "zarr.json").read_bytes())
    assert metadata["node_type"] == "array"
    assert metadata["chunk_key_encoding"] == {
        "name": "default",
        "configuration": {"separator": "/"},
    }
    shape = metadata["shape"]
    chunk = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    text = metadata["data_type"] == "string"
    values = np.empty(shape, object if text else TYPES[metadata["data_type"]])
    counts = [math.ceil(size / step) for size, step in zip(shape, chunk, strict=True)]
    for place in product(*map(range, counts)):
        content = read_chunk(folder.joinpath("c", *map(str, place)), metadata["codecs"])
        decoded = read_text(content) if text else np.frombuffer(content, values.dtype)
        whole = np.asarray(decoded, values.dtype).reshape(chunk)
        starts = [at * step for at, step in zip(place, chunk, strict=True)]
        ends = [min(a + s, n) for a, s, n in zip(starts, chunk, shape, strict=True)]
        kept = tuple(slice(0, end - at) for at, end in zip(starts, ends, strict=True))
        values[tuple(map(slice, starts, ends))] = whole[kept]
    return metadata["dimension_names"], values


def digests(shard):
    """What the root must record of the other files."""
    root = json.loads((shard / "zarr.json").read_bytes())["attributes"]
    others = {name: value for name, value in root.items() if name != "digests"}
    text = json.dumps(others, sort_keys=True, separators=(",", ":"))
    found = {"attributes": hashlib.sha256(text.encode()).hexdigest()}
    for file in shard.glob("*/**/zarr.json"):
        name = str(file.relative_to(shard))
        found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
        if json.loads(file.read_bytes())["node_type"] == "array":
            lines = []
            for chunk in (file.parent / "c").rglob("*"):
                if chunk.is_file():
                    content = chunk.read_bytes()
                    key = str(chunk.relative_to(file.parent))
                    lines.append(f"{key} {len(content)} {content[-4:].hex()}\n")
            listed = "".join(sorted(lines, key=lambda line: line.split()[0]))
            found[name.replace("zarr.json", "c")] = hashlib.sha256(listed.encode()).hexdigest()
    return root["digests"], found


def values_of(dtype="float16"):
    return np.random.default_rng(0).standard_normal((3, 11, 4, 5)).astype(dtype)


@pytest.fixture(params=["none", "lz4", "zstd"])
def shard(tmp_path, monkeypatch, request):
    """Eleven images of three layers, four a chunk, with text, numbers and reasons."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4 * 4 * 5 * 2)
    with store.new_shard(tmp_path / "0.zarr", {"code": "c"}, store.Encoding(request.param)) as w:
        w.declare("tokens/tokens", DIMS, (3, 20, 4, 5), "float16", at_most=True, lossy=True)
        w.append("tokens/tokens", values_of())
        w.put_coordinate("tokens/layer", ("layer",), np.array(LAYERS))
        w.put_coordinate("tokens/depth", ("layer",), np.array([0, 1, 2]))
        w.put_coordinate("tokens/image_id", ("image",), np.array(NAMES))
        w.put("model/norm_scale", ("channel",), np.arange(5, dtype="float32"))
        w.absent("tokens", "attention", "there is none")
    return tmp_path / "0.zarr"


def test_a_checksum_is_the_published_one():
    assert crc32c(b"123456789") == 0xE3069283


def test_arrays_read_from_the_page_are_those_that_were_written(shard):
    dims, values = read_array(shard / "tokens" / "tokens")
    assert dims == list(DIMS)
    assert np.array_equal(values, values_of())
    assert read_array(shard / "tokens" / "layer")[1].tolist() == LAYERS
    assert read_array(shard / "tokens" / "image_id")[1].tolist() == NAMES
    assert read_array(shard / "tokens" / "depth")[1].tolist() == [0, 1, 2]
    assert read_array(shard / "model" / "norm_scale")[1].tolist() == [0, 1, 2, 3, 4]


def test_groups_say_what_the_page_says(shard):
    group = json.loads((shard / "tokens" / "zarr.json").read_bytes())
    assert group["node_type"] == "group"
    assert set(group["attributes"]["coordinates"].split()) == {"layer", "depth", "image_id"}
    assert group["attributes"]["absent"] == {"attention": "there is none"}
    root = json.loads((shard / "zarr.json").read_bytes())
    assert set(root["attributes"]) == {"provenance", "encoding", "digests"}


def test_digests_recomputed_from_the_page_are_those_of_the_root(shard):
    recorded, found = digests(shard)
    assert found == recorded
