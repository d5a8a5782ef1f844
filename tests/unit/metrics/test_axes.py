"""The taps over depth, in blocks, and what a dataset says of itself."""

import dask
import dask.array
import numpy as np
import pytest
import xarray as xr

from activation_datasets import every_tap, tokens_dataset
from vitals.errors import VitalsError
from vitals.metrics import axes

NAMES, DEPTH = every_tap(3)


def layers(names=NAMES, **coords):
    return xr.Dataset({"x": ("layer", np.zeros(len(names)))}, coords={"layer": names, **coords})


def test_the_depth_that_the_dataset_gives_is_taken():
    given = layers(depth=("layer", DEPTH + 3))
    assert axes.depth(given).values.tolist() == (DEPTH + 3).tolist()


def test_without_it_the_names_of_the_taps_give_their_depth():
    assert axes.depth(layers()).values.tolist() == DEPTH.tolist()
    plain = axes.depth(layers(["embed", "position", "block.0", "norm"]))
    assert plain.values.tolist() == [0, 1, 2, 3] and plain.dtype.kind == "i"
    assert axes.depth(layers(["position", "block.7"])).values.tolist() == [1, 9]


@pytest.mark.parametrize("names", [["stem", "stage.0"], ["embed", "block.0.mlp"], [3, 4]])
def test_taps_with_other_names_are_counted(names):
    dataset = layers(names)
    assert axes.depth(dataset).values.tolist() == [0, 1]
    assert dataset.assign_coords(axes.layer_coordinates(dataset))["layer"].values.tolist() == names


def test_taps_without_names_are_counted():
    assert axes.depth(xr.Dataset({"x": ("layer", np.zeros(3))})).values.tolist() == [0, 1, 2]


def test_the_last_block_is_at_relative_depth_one_whatever_taps_there_are():
    relative = axes.relative_depth(axes.depth(layers()))
    assert relative.sel(layer="block.2") == 1 and relative.sel(layer="embed") == 0
    assert relative.sel(layer="norm_pre") == 0.125
    assert relative.sel(layer="block.2.attention") == 0.875
    assert relative.sel(layer="norm") == 1.25


def test_the_stream_is_every_tap_but_the_one_after_the_final_norm():
    assert axes.stream_taps(layers())["layer"].values.tolist() == NAMES[:-1]


def test_a_block_has_the_depth_of_the_tap_that_it_writes():
    blocks = xr.Dataset({"x": ("block", np.zeros(3))})
    assert axes.block_names(blocks).tolist() == ["block.0", "block.1", "block.2"]
    assert axes.block_depth(blocks).values.tolist() == [2, 3, 4]
    last = blocks.assign_coords(block=np.arange(3)).isel(block=[2])
    assert axes.block_names(last).tolist() == ["block.2"]
    assert axes.block_depth(last).values.tolist() == [4]


def test_what_a_dataset_lacks_is_named_with_the_reason_that_it_gives():
    dataset = layers().assign_attrs(absent={"tokens": "tokens are not kept"})
    with pytest.raises(VitalsError, match=r"lacks tokens \(tokens are not kept\), y; it holds x"):
        axes.require(dataset, "tokens", "x", "y")


def counted(values, chunk):
    """A dask array over images in chunks of `chunk`, and how often each of them was read."""
    reads = []

    def read(start):
        reads.append(start)
        return values[start : start + chunk]

    starts = range(0, len(values), chunk)
    parts = [
        dask.array.from_delayed(dask.delayed(read)(start), part.shape, part.dtype)
        for start in starts
        for part in [values[start : start + chunk]]
    ]
    array = xr.DataArray(dask.array.concatenate(parts), dims=("image", "token", "channel"))
    return array, reads


@pytest.mark.parametrize("chunk", [1, 4, 7, 40, 100])
@pytest.mark.parametrize("size", [1, 5, 8, 40, 64])
def test_each_chunk_is_read_once_and_the_blocks_do_not_depend_on_them(chunk, size):
    values = np.random.default_rng(0).standard_normal((40, 3, 2)).astype(np.float16)
    array, reads = counted(values, chunk)
    blocks = list(axes.image_blocks(array, size))
    assert sorted(reads) == list(range(0, 40, chunk))
    assert [(b.start, b.stop) for b, _ in blocks] == [
        (start, min(start + size, 40)) for start in range(0, 40, size)
    ]
    assert all(np.array_equal(found, values[block]) for block, found in blocks)


def test_one_chunk_is_read_at_a_time_as_blocks_are_asked_for():
    array, reads = counted(np.zeros((40, 3, 2)), 10)
    blocks = axes.image_blocks(array, 5)
    next(blocks), next(blocks)
    assert reads == [0]
    next(blocks)
    assert reads == [0, 10]


def test_a_block_has_as_many_images_as_its_numbers_allow(monkeypatch):
    monkeypatch.setattr(axes, "NUMBERS_PER_BLOCK", 100)
    small = xr.DataArray(np.zeros((40, 3, 2)), dims=("image", "token", "channel"))
    assert [len(found) for _, found in axes.image_blocks(small)] == [16, 16, 8]
    wide = xr.DataArray(np.zeros((2, 200)), dims=("image", "channel"))
    assert [len(found) for _, found in axes.image_blocks(wide)] == [1, 1]


@pytest.mark.parametrize("storage", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("chunks", [None, 4])
def test_a_number_that_is_not_finite_is_named_by_tap_and_image(storage, value, chunks):
    values = np.full((3, 12, 4, 2), np.finfo(storage).max, storage)
    values[0] = np.finfo(storage).min
    dataset = tokens_dataset(values, names=["embed", "position", "block.7"])
    list(axes.image_blocks(dataset["tokens"].isel(layer=0)))
    dataset["tokens"][2, 9, 1, 1] = value
    tokens = dataset["tokens"].chunk(image=chunks) if chunks else dataset["tokens"]
    message = "the tokens of tap block.7 are not all finite: image image-9 holds NaN or infinity"
    with pytest.raises(VitalsError, match=message):
        list(axes.image_blocks(tokens.isel(layer=2)))
    with pytest.raises(VitalsError, match=message):
        list(axes.image_blocks(tokens.transpose("image", ...), 5))
    bare = tokens.drop_vars(tokens.coords)
    with pytest.raises(VitalsError, match="the tokens are not all finite: image number 9"):
        list(axes.image_blocks(bare.isel(layer=2), 20))
