"""A shard opens lazily, and what is torn in it is an error that names it, never a number."""

import pickle
import subprocess
import sys

import dask
import numpy as np
import pytest
import xarray as xr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

from vitals.activations import chunks, shards, store
from vitals.errors import VitalsError

DIMS = ("layer", "image", "channel")
CHUNK = "tokens/tokens/c/1/2/0"
VALUES = np.random.default_rng(0).standard_normal((3, 11, 5)).astype("float32")


@pytest.fixture(params=["none", "lz4"])
def shard(tmp_path, monkeypatch, request):
    """Three layers of eleven images, four a chunk."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4 * 5 * 4)
    with store.new_shard(tmp_path / "0.zarr", {}, store.Encoding(request.param)) as writer:
        writer.declare("tokens/tokens", DIMS, VALUES.shape, VALUES.dtype)
        writer.append("tokens/tokens", VALUES)
        writer.put_coordinate("tokens/layer", ("layer",), np.array(["embed", "position", "norm"]))
        writer.put_coordinate("tokens/label", ("image",), np.arange(11))
        writer.absent("tokens", "attention", "talking heads")
        writer.absent("tokens", "other", "no reason")
        writer.absent("pooled", "logits", "no classifier")
    return tmp_path / "0.zarr"


def flip(file):
    content = bytearray(file.read_bytes())
    content[17] ^= 1
    file.write_bytes(content)


def test_a_tier_opens_with_its_labels(shard):
    found = store.open_group(shard, "tokens")
    assert np.array_equal(found["tokens"].values, VALUES)
    assert found["tokens"].dims == DIMS
    assert found["layer"].values.tolist() == ["embed", "position", "norm"]
    assert found["layer"].dtype.kind == "U"
    assert found["label"].values.tolist() == list(range(11))


def test_values_are_read_when_they_are_asked_for_one_layer_by_some_images_at_a_time(shard):
    found = store.open_group(shard, "tokens")["tokens"]
    assert found.data.chunks == ((1, 1, 1), (4, 4, 3), (5,))


def test_the_reasons_of_absences_come_with_the_tier(shard):
    reasons = {"attention": "talking heads", "other": "no reason"}
    assert store.open_group(shard, "tokens").attrs["absent"] == reasons
    assert store.open_group(shard, "pooled").attrs["absent"] == {"logits": "no classifier"}


def test_xarray_alone_opens_a_shard(shard):
    code = (
        "import sys, xarray\n"
        "found = xarray.open_zarr(sys.argv[1], group='tokens', consolidated=False)\n"
        "assert not any(name.split('.')[0] == 'vitals' for name in sys.modules)\n"
        "print(float(found['tokens'].sel(layer='position').sum('image')[3]), *found.coords)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, shard],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    total, *coordinates = done.stdout.split()
    np.testing.assert_allclose(float(total), VALUES[1, :, 3].sum(), rtol=1e-6)
    assert set(coordinates) == {"layer", "label"}


READS = {
    "values": lambda found: found.values,
    "dask": lambda found: found.mean("image").compute(),
    "one value": lambda found: found[10, 0].values,
    "threads": lambda found: found.mean().compute(scheduler="threads"),
    "processes": lambda found: found.mean().compute(scheduler="processes", num_workers=1),
}


@pytest.mark.parametrize("read", READS)
def test_a_flipped_bit_is_an_error_that_names_the_store_and_the_chunk(shard, read):
    flip(shard / CHUNK)
    found = store.open_group(shard, "tokens")["tokens"]
    assert np.array_equal(found[0].values, VALUES[0])  # other chunks are what they were
    with pytest.raises(VitalsError, match=rf"0.zarr: {CHUNK} is not what was written"):
        READS[read](found[1])


def test_a_truncated_chunk_is_an_error_that_names_it(shard):
    content = (shard / CHUNK).read_bytes()
    for length in (0, 3, 40):
        (shard / CHUNK).write_bytes(content[:length])
        with pytest.raises(VitalsError, match=rf"0.zarr: {CHUNK} is not what was written"):
            store.open_group(shard, "tokens")["tokens"].load()


def test_a_chunk_that_goes_missing_while_it_is_open_is_an_error_and_no_number(shard):
    found = store.open_group(shard, "tokens")["tokens"]
    (shard / CHUNK).unlink()
    with pytest.raises(VitalsError, match=rf"0.zarr lacks {CHUNK}"):
        found.values  # noqa: B018


def test_a_chunk_that_is_missing_is_an_error_on_opening(shard):
    (shard / CHUNK).unlink()
    with pytest.raises(VitalsError, match=rf"0.zarr lacks {CHUNK}, and 0 chunks more of it"):
        store.open_group(shard, "tokens")


@pytest.mark.parametrize("name", ["tokens", "tokens/tokens", "tokens/label"])
def test_an_array_or_a_tier_that_is_missing_is_an_error_on_opening(shard, name):
    (shard / name / "zarr.json").unlink()
    with pytest.raises(VitalsError, match=f"0.zarr lacks {name}$"):
        store.open_group(shard, "tokens")


def test_altered_metadata_is_an_error_on_opening(shard):
    file = shard / "tokens" / "zarr.json"
    file.write_text(file.read_text().replace("label", "lavel"))
    with pytest.raises(VitalsError, match=r"0.zarr: tokens/zarr.json is not what was written"):
        store.open_group(shard, "tokens")


@pytest.mark.parametrize(
    "part", [RangeByteRequest(2, 9), OffsetByteRequest(5), SuffixByteRequest(4)]
)
def test_part_of_a_chunk_is_read_where_the_whole_of_it_is_right(shard, part):
    plain = LocalStore(shard, read_only=True)
    checked, prototype = shards._CheckedStore(plain), default_buffer_prototype()

    def read(one):
        return sync(one.get(CHUNK, prototype, part)).to_bytes()

    assert read(checked) == read(plain)
    flip(shard / CHUNK)
    with pytest.raises(VitalsError, match="not what was written"):
        read(checked)


def test_a_tier_that_was_not_written_is_none(shard):
    assert store.open_group(shard, "gallery") is None


def test_shards_of_the_same_shape_are_not_taken_for_one_another(shard, tmp_path):
    with store.new_shard(tmp_path / "1.zarr", {}) as writer:
        writer.declare("tokens/tokens", DIMS, VALUES.shape, VALUES.dtype)
        writer.append("tokens/tokens", VALUES + 1)
    both = [store.open_group(tmp_path / f"{n}.zarr", "tokens")["tokens"] for n in (0, 1)]
    first, second = dask.compute(*(one.data for one in both))
    assert np.array_equal(first, VALUES)
    assert np.array_equal(second, VALUES + 1)


def test_an_open_shard_can_be_sent_to_another_process(shard):
    found = pickle.loads(pickle.dumps(store.open_group(shard, "tokens")))
    xr.testing.assert_identical(found.load(), store.open_group(shard, "tokens").load())


def test_shards_are_found_in_order_from_any_of_their_folders(tmp_path):
    folder = tmp_path / "model" / "activations"
    expected = [folder / f"{number}.zarr" for number in range(12)]
    for shard in expected:
        shard.mkdir(parents=True)
    (folder / ".12.zarr.partial").mkdir()
    (folder / ".12.zarr.lock").touch()
    assert store.shards(tmp_path / "model") == store.shards(folder) == expected
    assert store.shards(folder / "7.zarr") == store.shards(folder / "7.zarr" / "zarr.json")
    assert store.shards(folder / "7.zarr") == [folder / "7.zarr"]


def test_a_folder_that_lacks_a_shard_is_an_error(tmp_path):
    with pytest.raises(VitalsError, match=r"no shards at .*model.activations: expected"):
        store.shards(tmp_path / "model")
    for number in (0, 1, 3):
        (tmp_path / "model" / "activations" / f"{number}.zarr").mkdir(parents=True)
    with pytest.raises(VitalsError, match=r"lacks 2.zarr"):
        store.shards(tmp_path / "model")
