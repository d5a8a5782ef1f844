"""A shard is whole or not there, says what it was made from, and is not altered unseen."""

import json

import numpy as np
import pytest
import xarray as xr
import zarr

from vitals.activations import store
from vitals.errors import VitalsError

DIMS = ("layer", "image", "token", "channel")
PROVENANCE = {"spec": "{}", "code": "abc", "weights_digest": "w", "images_digest": "i"}


def values_of(images=11, dtype="float32"):
    shape = (3, images, 4, 5)
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def write(path, values, blocks=(2, 0, 5, 3, 1)):
    with store.new_shard(path, PROVENANCE) as writer:
        writer.declare("tokens/tokens", DIMS, values.shape, values.dtype)
        for part in np.split(values, np.cumsum(blocks)[:-1], axis=1):
            writer.append("tokens/tokens", part)
        writer.put_coordinate("tokens/layer", ("layer",), np.array(["embed", "position", "norm"]))
        writer.put_coordinate("tokens/label", ("image",), np.arange(values.shape[1]))
        writer.put("model/norm_scale", ("channel",), np.ones(5, "float32"))
    return path


@pytest.fixture
def small_chunks(monkeypatch):
    """Four images a chunk, so that three chunks hold eleven."""
    monkeypatch.setattr(store, "CHUNK_BYTES", 4 * 4 * 5 * 4)


@pytest.fixture
def shard(tmp_path, small_chunks):
    """A whole shard of eleven images."""
    return write(tmp_path / "0.zarr", values_of())


@pytest.mark.parametrize("blocks", [(11,), (1,) * 11, (2, 0, 5, 3, 1), (4, 4, 3), (9, 2)])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_blocks_of_any_size_give_the_exact_content(tmp_path, small_chunks, blocks, dtype):
    values = values_of(dtype=dtype)
    found = store.open_group(write(tmp_path / "0.zarr", values, blocks), "tokens")
    assert found["tokens"].dtype == dtype
    assert found["tokens"].dims == DIMS
    assert np.array_equal(found["tokens"].values, values)
    assert found["layer"].values.tolist() == ["embed", "position", "norm"]
    assert found["layer"].dtype.kind == "U"


def test_a_chunk_is_one_layer_by_some_images_with_all_tokens_and_channels(shard):
    array = zarr.open_group(shard, mode="r")["tokens/tokens"]
    assert array.chunks == (1, 4, 4, 5)
    assert array.nchunks_initialized == 3 * 3
    assert np.isnan(array.fill_value)


def test_no_chunk_is_written_twice(tmp_path, small_chunks, monkeypatch):
    regions = []

    def record(appender, count, write=store._Appender._write):
        regions.append((appender.written, count))
        write(appender, count)

    monkeypatch.setattr(store._Appender, "_write", record)
    write(tmp_path / "0.zarr", values_of())
    assert regions == [(0, 4), (4, 4), (8, 3)]


def test_chunks_are_about_sixteen_mebibytes():
    for shape in [(14, 5000, 197, 384), (26, 50000, 197, 1024), (12, 3, 197, 197)]:
        layers, images, tokens, channels = store.chunk_shape(DIMS, shape, 2)
        assert (layers, tokens, channels) == (1, *shape[2:])
        size = images * tokens * channels * 2
        assert images == shape[1] or 2**23 < size <= 2**24
    assert store.chunk_shape(("image", "class"), (100, 10), 4) == (100, 10)
    assert store.chunk_shape(DIMS, (1, 10, 4096, 4096), 4) == (1, 1, 4096, 4096)


def test_the_store_opens_with_xarray_alone(shard):
    found = xr.open_zarr(shard, group="tokens", consolidated=False)
    assert np.array_equal(found["tokens"].values, values_of())
    assert found["tokens"].data.chunks[:2] == ((1, 1, 1), (4, 4, 3))
    assert {"layer", "label"} <= set(found.coords)
    assert set(found.data_vars) == {"tokens"}


def test_the_root_says_what_the_shard_was_made_from(shard):
    attributes = json.loads((shard / "zarr.json").read_text())["attributes"]
    assert attributes["provenance"] == PROVENANCE == store.provenance(shard)
    assert set(attributes["digests"]) == {
        "model",
        "model/norm_scale",
        "tokens",
        "tokens/label",
        "tokens/layer",
        "tokens/tokens",
    }


def test_a_shard_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    synced = []

    def sync(partial, path=tmp_path / "0.zarr"):
        synced.append((path.exists(), (partial / "zarr.json").is_file(), partial.parent))

    monkeypatch.setattr(store, "_sync", sync)
    write(tmp_path / "0.zarr", values_of())
    assert synced == [(False, True, tmp_path)]


class KilledError(Exception):
    """What ends a job in the middle."""


def test_the_shard_appears_when_it_is_whole_and_not_before(tmp_path):
    path = tmp_path / "activations" / "0.zarr"
    with store.new_shard(path, PROVENANCE) as writer:
        writer.put("model/norm_scale", ("channel",), np.ones(5, "float32"))
        assert not path.exists()
    assert (path / "zarr.json").is_file()
    assert list(path.parent.iterdir()) == [path]


def test_an_exception_leaves_nothing(tmp_path):
    with pytest.raises(KilledError), store.new_shard(tmp_path / "0.zarr", PROVENANCE) as writer:
        writer.put("model/norm_scale", ("channel",), np.ones(5, "float32"))
        raise KilledError
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_the_shard_that_was_there(shard):
    with pytest.raises(KilledError), store.new_shard(shard, PROVENANCE):
        raise KilledError
    assert store.torn_arrays(shard) == []


def test_what_a_killed_run_left_is_removed(tmp_path):
    def killed():
        with store.new_shard(tmp_path / "0.zarr", PROVENANCE) as writer:
            writer.put("model/norm_scale", ("channel",), np.ones(5, "float32"))
            yield next(tmp_path.iterdir())

    running = killed()
    left = next(running)
    content = {file.relative_to(left): file.read_bytes() for file in left.rglob("*.json")}
    running.close()
    for name, value in content.items():  # as SIGKILL leaves it, for a later process
        (left / name).parent.mkdir(parents=True, exist_ok=True)
        (left / name).write_bytes(value)
    write(tmp_path / "0.zarr", values_of())
    assert list(tmp_path.iterdir()) == [tmp_path / "0.zarr"]
    assert store.torn_arrays(tmp_path / "0.zarr") == []


def test_a_new_shard_takes_the_place_of_a_stale_one_wholly(shard):
    (shard / "tokens" / "old").mkdir()
    (shard / "zarr.json").unlink()  # as the workflow does before the job
    write(shard, values_of(images=6), blocks=(6,))
    assert store.open_group(shard, "tokens").sizes["image"] == 6
    assert not (shard / "tokens" / "old").exists()


def test_a_stale_shard_is_never_whole_while_it_is_removed(shard, monkeypatch):
    def killed(path, **_):
        if path == shard:
            assert not (shard / "zarr.json").exists()
            raise KilledError

    monkeypatch.setattr(store.shutil, "rmtree", killed)
    with pytest.raises(KilledError):
        write(shard, values_of())


def test_too_few_images_are_an_error(tmp_path):
    with (
        pytest.raises(VitalsError, match="tokens/tokens: 3 images written, expected 4"),
        store.new_shard(tmp_path / "0.zarr", PROVENANCE) as writer,
    ):
        writer.declare("tokens/tokens", DIMS, (3, 4, 4, 5), "float32")
        writer.append("tokens/tokens", values_of(images=3))
    assert list(tmp_path.iterdir()) == []


def chunk_of(shard):
    return shard / "tokens" / "tokens" / "c" / "1" / "2" / "0" / "0"


def test_a_flipped_bit_is_an_error_on_reading_and_found_by_its_digest(shard):
    assert store.torn_arrays(shard) == []
    content = bytearray(chunk_of(shard).read_bytes())
    content[17] ^= 1
    chunk_of(shard).write_bytes(content)
    found = store.open_group(shard, "tokens")["tokens"]
    assert np.array_equal(found[0].values, values_of()[0])  # other chunks are what they were
    with pytest.raises(ValueError, match="checksum"):
        found[1].load()
    assert store.torn_arrays(shard) == ["tokens/tokens"]


def test_a_chunk_that_is_missing_is_an_error_on_opening(shard):
    chunk_of(shard).unlink()
    with pytest.raises(VitalsError, match=r"0.zarr: tokens/tokens has 8 of 9 chunks"):
        store.open_group(shard, "tokens")
    assert store.torn_arrays(shard) == ["tokens/tokens"]


@pytest.mark.parametrize("name", ["tokens", "tokens/tokens", "tokens/label"])
def test_an_array_or_a_tier_that_is_missing_is_an_error_on_opening(shard, name):
    (shard / name / "zarr.json").unlink()
    with pytest.raises(VitalsError, match=f"0.zarr lacks {name}$"):
        store.open_group(shard, "tokens")
    assert store.torn_arrays(shard) == [name]


def test_a_group_whose_attributes_were_altered_is_found(shard):
    file = shard / "tokens" / "zarr.json"
    file.write_text(file.read_text().replace("label", "lavel"))
    assert store.torn_arrays(shard) == ["tokens"]


def test_a_tier_that_was_not_written_is_none(shard):
    assert store.open_group(shard, "gallery") is None


def test_a_shard_without_its_root_is_not_whole(shard):
    (shard / "zarr.json").unlink()
    for read in (store.provenance, store.torn_arrays, lambda s: store.open_group(s, "tokens")):
        with pytest.raises(VitalsError, match=r"not a whole shard: it has no zarr.json"):
            read(shard)


def test_another_zarr_store_is_no_shard(tmp_path):
    zarr.create_group(tmp_path / "0.zarr")
    with pytest.raises(VitalsError, match="not a shard of ViTals: its root has no digests"):
        store.torn_arrays(tmp_path / "0.zarr")


def test_shards_are_found_in_order_from_any_of_their_folders(tmp_path):
    folder = tmp_path / "model" / "activations"
    expected = [folder / f"{number}.zarr" for number in range(12)]
    for shard in expected:
        shard.mkdir(parents=True)
    (folder / ".12.zarr.partial").mkdir()
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
