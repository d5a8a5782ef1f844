"""The taps over depth, in blocks, and what a dataset says of itself."""

import numpy as np
import pytest
import xarray as xr

from activation_datasets import every_tap
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
