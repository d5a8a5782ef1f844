"""Long arrays reach the disk in whole chunks, each once, whatever the blocks they come in."""

import numpy as np
import pytest
import zarr

from vitals.activations import chunks, store
from vitals.errors import VitalsError

DIMS = ("layer", "image", "token", "channel")


def values_of(images=11, dtype="float32"):
    shape = (3, images, 4, 5)
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Four images a chunk at float32, so that three chunks hold eleven."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4 * 4 * 5 * 4)


def write(path, values, blocks, expected=None, **how):
    """A shard of one array that comes in blocks of images."""
    shape = list(values.shape)
    shape[1] = expected or shape[1]
    with store.new_shard(path, {}) as writer:
        writer.declare("tokens/tokens", DIMS, shape, values.dtype, **how)
        for part in np.split(values, np.cumsum(blocks)[:-1], axis=1):
            writer.append("tokens/tokens", part)
    return path


@pytest.mark.parametrize("blocks", [(11,), (1,) * 11, (2, 0, 5, 3, 1), (4, 4, 3), (9, 2), (3, 8)])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_blocks_of_any_size_give_the_exact_content(tmp_path, blocks, dtype):
    values = values_of(dtype=dtype)
    found = store.open_group(write(tmp_path / "0.zarr", values, blocks), "tokens")["tokens"]
    assert found.dtype == dtype
    assert found.dims == DIMS
    assert np.array_equal(found.values, values)


@pytest.mark.parametrize("blocks", [(11,), (1,) * 11, (2, 0, 5, 3, 1), (9, 2)])
def test_no_chunk_is_written_twice(tmp_path, monkeypatch, blocks):
    runs = []

    def record(array, axis, start, values, write=chunks.write_images):
        runs.append((start, start + values.shape[axis]))
        write(array, axis, start, values)

    monkeypatch.setattr(chunks, "write_images", record)
    write(tmp_path / "0.zarr", values_of(), blocks)
    assert runs == [(0, 4), (4, 8), (8, 11)]


def test_what_was_appended_may_be_overwritten_at_once(tmp_path):
    values = values_of()
    with store.new_shard(tmp_path / "0.zarr", {}) as writer:
        writer.declare("tokens/tokens", DIMS, values.shape, values.dtype)
        reused = np.empty_like(values[:, :1])
        for image in range(11):
            reused[...] = values[:, image : image + 1]
            writer.append("tokens/tokens", reused)
    assert np.array_equal(store.open_group(tmp_path / "0.zarr", "tokens")["tokens"], values)


def test_images_may_be_any_of_the_dims(tmp_path):
    values = np.arange(33.0).reshape(3, 11)
    with store.new_shard(tmp_path / "0.zarr", {}) as writer:
        for name, dims in (("a", ("image", "class")), ("b", ("class", "image"))):
            array = values.T if name == "a" else values
            writer.declare(f"pooled/{name}", dims, array.shape, array.dtype)
            for start in range(0, 11, 3):
                rows = slice(start, start + 3)
                writer.append(f"pooled/{name}", array[rows] if name == "a" else array[:, rows])
    found = store.open_group(tmp_path / "0.zarr", "pooled")
    assert np.array_equal(found["a"].values, values.T)
    assert np.array_equal(found["b"].values, values)


def test_a_chunk_is_one_layer_by_some_images_with_all_tokens_and_channels(tmp_path):
    write(tmp_path / "0.zarr", values_of(), (11,))
    array = zarr.open_group(tmp_path / "0.zarr", mode="r")["tokens/tokens"]
    assert array.chunks == (1, 4, 4, 5)
    assert array.nchunks_initialized == 3 * 3
    assert np.isnan(array.fill_value)


@pytest.mark.parametrize(
    "shape", [(14, 5000, 197, 384), (26, 50000, 197, 1024), (12, 3, 197, 197), (14, 1000, 197, 384)]
)
def test_chunks_are_at_most_sixteen_mebibytes_and_alike(monkeypatch, shape):
    monkeypatch.undo()
    layers, images, tokens, channels = chunks.chunk_shape(DIMS, shape, 2)
    assert (layers, tokens, channels) == (1, *shape[2:])
    size = images * tokens * channels * 2
    assert images == shape[1] or 2**23 < size <= 2**24
    count = -(-shape[1] // images)
    assert images * count - shape[1] < count  # fewer images of padding than chunks


def test_an_image_larger_than_a_chunk_is_a_chunk(monkeypatch):
    monkeypatch.undo()
    assert chunks.chunk_shape(("image", "class"), (100, 10), 4) == (100, 10)
    assert chunks.chunk_shape(DIMS, (1, 10, 4096, 4096), 4) == (1, 1, 4096, 4096)


@pytest.mark.parametrize(("start", "count"), [(1, 4), (0, 3), (4, 5), (8, 2), (2, 9), (8, 4)])
def test_a_run_that_cuts_a_chunk_is_refused_and_changes_nothing(tmp_path, start, count):
    array = zarr.create_array(tmp_path / "a", shape=(3, 11), chunks=(1, 4), dtype="float32")
    array[...] = 7
    with pytest.raises(VitalsError, match=rf"images {start} to {start + count} of 11 are no whole"):
        chunks.write_images(array, 1, start, np.zeros((3, count), "float32"))
    assert (array[...] == 7).all()


@pytest.mark.parametrize(("start", "count"), [(0, 4), (4, 4), (0, 8), (8, 3), (4, 7), (0, 11)])
def test_a_run_of_whole_chunks_is_written(tmp_path, start, count):
    array = zarr.create_array(tmp_path / "a", shape=(3, 11), chunks=(1, 4), dtype="float32")
    chunks.write_images(array, 1, start, np.ones((3, count), "float32"))
    expected = np.zeros((3, 11))
    expected[:, start : start + count] = 1
    assert np.array_equal(array[...], expected)


def test_too_few_images_are_an_error(tmp_path):
    with pytest.raises(VitalsError, match="tokens/tokens: 3 images written, expected 4"):
        write(tmp_path / "0.zarr", values_of(images=3), (3,), expected=4)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("images", [11, 8, 7, 4, 1, 0])
def test_an_array_of_at_most_so_many_images_is_shortened_to_those_that_came(tmp_path, images):
    values = values_of(images=images)
    write(tmp_path / "0.zarr", values, (images,), expected=11, at_most=True)
    assert store.torn_arrays(tmp_path / "0.zarr") == []
    found = store.open_group(tmp_path / "0.zarr", "tokens")["tokens"]
    assert found.shape == values.shape
    assert np.array_equal(found.values, values)


def test_more_images_than_declared_are_an_error(tmp_path):
    for at_most in (False, True):
        with pytest.raises(VitalsError, match="tokens/tokens: 11 images, expected 9"):
            write(tmp_path / "0.zarr", values_of(), (4, 7), expected=9, at_most=at_most)


@pytest.mark.parametrize(
    "wrong",
    [values_of(dtype="float64"), values_of()[:1], values_of()[..., :1], values_of()[0]],
    ids=["type", "layers", "channels", "dims"],
)
def test_values_of_another_type_or_shape_are_never_cast_or_repeated(tmp_path, wrong):
    with (
        pytest.raises(VitalsError, match=r"tokens/tokens: got float.* expected float32 \(3, "),
        store.new_shard(tmp_path / "0.zarr", {}) as writer,
    ):
        writer.declare("tokens/tokens", DIMS, (3, 11, 4, 5), "float32")
        writer.append("tokens/tokens", wrong)
