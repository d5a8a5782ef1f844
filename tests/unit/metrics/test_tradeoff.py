"""The known answers of the trade-off between information and task."""

import numpy as np
import pytest
import xarray as xr

from activation_datasets import ODD_CHUNKS, chunked, computed, every_tap, layer_names
from vitals.errors import VitalsError
from vitals.metrics import tradeoff
from vitals.metrics.results import absences, mark_absent


def curves(information, task, **more):
    """The merged results of scrambling and probes, each curve over (layer)."""
    data = {"r2_all": ("layer", np.asarray(information)), "accuracy": ("layer", np.asarray(task))}
    return xr.Dataset({**data, **more})


def straight(layers):
    task = np.arange(layers + 1) / layers
    return curves(1 - task, task)


def with_draws(dataset, noise=0.02, draws=200, seed=0):
    generator = np.random.default_rng(seed)
    for name in list(dataset.data_vars):
        array = dataset[name]
        jitter = noise * generator.standard_normal((*array.shape, draws))
        dataset[f"{name}_draws"] = (*array.dims, "draw"), array.values[..., None] + jitter
    return dataset


def value(result, name):
    return result[name].sel(information="r2_all").item()


@pytest.mark.parametrize(
    ("storage", "tolerance"), [(np.float64, 1e-9), (np.float32, 1e-5), (np.float16, 0.02)]
)
@pytest.mark.parametrize("layers", [12, 13, 25])
def test_straight_curves_cross_in_the_middle(layers, storage, tolerance):
    result = computed(tradeoff.compute, straight(layers).astype(storage))
    assert value(result, "crossing") == pytest.approx(layers / 2, abs=tolerance)
    assert value(result, "crossing_relative") == pytest.approx(0.5, abs=tolerance)
    assert value(result, "onset") == 1
    assert value(result, "onset_relative") == pytest.approx(1 / layers)


def test_a_gap_in_layers_can_vanish_in_relative_depth():
    def bent(start, layers):  # both curves turn at `start` of `layers`
        task = np.maximum(np.arange(layers + 1) - start, 0) / (layers - start)
        return tradeoff.compute(curves(1 - task, task))

    small, large = bent(4, 12), bent(8, 24)
    assert value(large, "crossing") - value(small, "crossing") == pytest.approx(8)
    assert value(large, "crossing_relative") == pytest.approx(value(small, "crossing_relative"))
    assert value(small, "crossing_relative") == pytest.approx(8 / 12)


@pytest.mark.parametrize(("layers", "at", "relative"), [(12, 8, 0.67), (24, 18, 0.75)])
def test_a_crossing_is_given_in_layers_and_relative_to_depth(layers, at, relative):
    """A gap of 10 layers between two models is one of .08 of their depths."""
    task = np.interp(np.arange(layers + 1), [0, at, layers], [0, 0.5, 1])
    result = tradeoff.compute(curves(1 - task, task))
    assert value(result, "crossing") == pytest.approx(at)
    assert value(result, "crossing_relative") == pytest.approx(relative, abs=0.005)


def test_the_curves_are_scaled_before_they_cross():
    plain = straight(10)
    moved = curves(0.3 * plain["r2_all"] + 0.6, 0.05 * plain["accuracy"] + 0.01)
    assert value(tradeoff.compute(moved), "crossing") == pytest.approx(5)


def test_the_first_crossing_counts_and_lies_between_taps():
    result = tradeoff.compute(curves([1, 0.8, 0.2, 1, 0], [0, 0.2, 0.4, 0.2, 1]))
    assert value(result, "crossing") == pytest.approx(1.75)  # gaps −.6, +.2


def test_onset_needs_two_successive_steps():
    result = tradeoff.compute(
        curves([1, 0.9, 0.9, 0.8, 0.7, 0.6], [0, 0.1, 0.2, 0.3, 0.4, 0.5])
    )  # a lone step at 1, then at 3, 4 and 5
    assert value(result, "onset") == 3


def test_onset_needs_a_loss_larger_than_the_margin():
    dataset = curves([1, 0.99, 0.98, 0.88, 0.78, 0.68], [0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert value(tradeoff.compute(dataset), "onset") == 1
    assert value(tradeoff.compute(dataset, margin=0.05), "onset") == 3


def test_the_knee_is_farthest_from_the_chord():
    task = [0, 0, 0, 0, 0, 0, 0.25, 0.5, 0.75, 1]
    information = [1, 0.8, 0.6, 0.4, 0.2, 0, 0, 0, 0, 0]  # first all is lost, then all is learnt
    result = tradeoff.compute(curves(information, task))
    assert value(result, "knee") == 5
    assert value(result, "knee_relative") == pytest.approx(5 / 9)


def test_a_straight_trajectory_has_no_knee_and_says_so():
    result = tradeoff.compute(straight(12))
    assert "knee" not in result and "knee_relative" not in result
    assert "no bend" in absences(result)["knee"]


def test_curves_that_never_cross_are_absent_with_a_reason():
    result = tradeoff.compute(curves([0.5, 0.4, 0.3, 0.2], [0.1] * 4))
    assert "do not cross" in absences(result)["crossing"]
    assert "onset" in absences(result)


def test_every_feature_and_information_has_its_own_answer():
    dataset = straight(12)
    late = np.clip(np.arange(13) / 3 - 3, 0, 1)
    dataset["accuracy"] = ("feature", "layer"), np.stack([dataset["accuracy"], late])
    dataset = dataset.assign_coords(feature=["cls+patch_mean", "cls"])
    dataset["r2_self"] = "layer", dataset["r2_all"].values ** 3
    result = tradeoff.compute(dataset)
    assert result["crossing"].dims == ("information", "feature")
    assert result["crossing"].sel(information="r2_all", feature="cls+patch_mean") == 6
    assert (result["crossing"].sel(feature="cls") > result["crossing"].isel(feature=0)).all()
    by_information = result["crossing"].sel(feature="cls+patch_mean")
    assert by_information.sel(information="r2_self") < by_information.sel(information="r2_all")


def test_a_feature_without_a_crossing_is_explained_beside_one_that_has_it():
    dataset = straight(12)
    dataset["accuracy"] = ("feature", "layer"), np.stack([dataset["accuracy"], np.full(13, 0.1)])
    result = tradeoff.compute(dataset)["crossing"].sel(information="r2_all")
    assert np.isnan(result[1]) and result[0] == 6
    assert "do not cross" in result.attrs["undefined"]


def test_only_the_measurement_is_taken_of_the_nulls():
    dataset = straight(12)
    nulls = np.stack([np.ones(13), dataset["r2_all"]])
    dataset["r2_all"] = ("null", "layer"), nulls
    dataset = dataset.assign_coords(null=["noise_matched", "none"])
    assert value(tradeoff.compute(dataset), "crossing") == 6
    with pytest.raises(VitalsError, match="needs the null 'none', found"):
        tradeoff.compute(dataset.isel(null=[0]))


def test_the_final_norm_is_a_tap_like_any_other():
    names = [*layer_names(12), "norm"]
    dataset = straight(12).assign_coords(layer=names, depth=("layer", np.arange(13)))
    result = tradeoff.compute(dataset)
    assert value(result, "crossing") == pytest.approx(6)
    assert value(result, "crossing_relative") == pytest.approx(0.5)


def with_every_tap(blocks, information, task):
    """Curves of depth at all taps of a model, "norm" left out."""
    names, depth = every_tap(blocks, final_norm=False)
    dataset = curves(information(depth), task(depth))
    return dataset.assign_coords(layer=names, depth=("layer", depth))


def test_taps_within_blocks_move_no_answer():
    blocks = 11  # depth 0 to 12
    result = tradeoff.compute(with_every_tap(blocks, lambda t: 1 - t / 12, lambda t: t / 12))
    assert value(result, "crossing") == pytest.approx(6)
    assert value(result, "crossing_relative") == pytest.approx(0.5)
    assert value(result, "onset") == 1
    assert "no bend" in absences(result)["knee"]


def test_a_crossing_between_taps_within_a_block_is_linear_in_depth():
    dataset = curves([1, 0.8, 0.2, 0], [0, 0.2, 0.4, 1])  # gaps −1, −.6, +.2, +1
    dataset = dataset.assign_coords(depth=("layer", [0, 0.5, 1, 2]))
    assert value(tradeoff.compute(dataset), "crossing") == pytest.approx(0.875)


def test_an_onset_counts_steps_of_whole_layers():
    """Attention takes what the MLP gives back: half steps fall and rise, whole layers trade."""

    def half(depth):
        return 0.05 * (depth % 1 > 0)

    result = tradeoff.compute(
        with_every_tap(6, lambda t: 1 - t / 9 - half(t), lambda t: t / 9 - half(t))
    )
    assert value(result, "onset") == 1
    lone = with_every_tap(3, lambda t: 1 - t / 9 * (t % 1 > 0), lambda t: t / 9)
    assert "onset" in absences(tradeoff.compute(lone))  # only half steps lose information


def test_too_few_whole_layers_have_no_onset():
    dataset = curves([1, 0.5, 0], [0, 0.5, 1]).assign_coords(depth=("layer", [0, 0.5, 1]))
    result = tradeoff.compute(dataset)
    assert "no two successive steps" in absences(result)["onset"]
    assert value(result, "crossing") == 0.5


def test_curves_over_other_images_have_draws_that_are_not_paired_and_say_so():
    dataset = with_draws(straight(12))
    for images, said in (((40, 40), None), ((40, 400), "r2_all over 40, accuracy over 400")):
        for name, count in zip(("r2_all", "accuracy"), images, strict=True):
            dataset[name].attrs["images"] = count
        note = tradeoff.compute(dataset)["crossing"].attrs.get("note")
        assert (note is None) == (said is None)
        assert said is None or said in note


def test_layers_that_a_merge_sorted_by_name_are_read_in_order_of_depth():
    dataset = straight(13).assign_coords(layer=layer_names(14), depth=("layer", np.arange(14)))
    assert value(tradeoff.compute(dataset.sortby("layer")), "crossing") == pytest.approx(6.5)


def test_a_tap_that_one_curve_lacks_is_left_out():
    dataset = straight(12)
    dataset["r2_all"][3] = np.nan
    assert value(tradeoff.compute(dataset), "crossing") == pytest.approx(6)


@pytest.mark.parametrize("chunks", ODD_CHUNKS)
def test_chunks_and_laziness_change_nothing(chunks):
    dataset = with_draws(straight(12), draws=20)
    xr.testing.assert_identical(
        tradeoff.compute(dataset), tradeoff.compute(chunked(dataset, chunks))
    )


def test_the_interval_holds_the_crossing_and_draws_are_kept():
    result = tradeoff.compute(with_draws(straight(12)))
    assert value(result, "crossing_low") < 6 < value(result, "crossing_high")
    assert result["crossing_draws"].dims == ("information", "draw")
    assert result["crossing_draws"].sizes["draw"] == 200
    assert value(result, "crossing_defined_share") == 1
    relative = result["crossing_draws"] / 12
    xr.testing.assert_allclose(result["crossing_relative_draws"], relative.astype(np.float32))


def test_the_draws_of_both_curves_go_together():
    dataset = with_draws(straight(12), noise=0.0, draws=2)
    dataset["accuracy_draws"][:, 1] = np.clip(np.arange(13) / 4 - 2, 0, 1)  # turns late
    dataset["r2_all_draws"][:, 1] = 1 - dataset["accuracy_draws"][:, 1]
    np.testing.assert_allclose(tradeoff.compute(dataset)["crossing_draws"][0], [6, 10])


def test_the_share_of_draws_that_have_an_onset_is_told():
    dataset = with_draws(straight(12), noise=0.0, draws=4)
    dataset["accuracy_draws"][:, 0] = 0.5
    result = tradeoff.compute(dataset)
    assert value(result, "onset_defined_share") == 0.75
    assert value(result, "onset_low") == 1


def test_without_draws_there_is_no_interval_and_the_result_says_so():
    result = tradeoff.compute(straight(12))
    assert "no draws" in absences(result)["interval"]
    assert not [name for name in result if name.endswith(("_low", "_high", "_draws", "_share"))]


def test_what_the_probes_say_is_absent_makes_the_trade_off_absent():
    dataset = straight(12).drop_vars("accuracy")
    with pytest.raises(VitalsError, match="lacks accuracy"):
        tradeoff.compute(dataset)
    mark_absent(dataset, "probes", "one class only")
    assert absences(tradeoff.compute(dataset))["tradeoff"] == "no accuracy: one class only"
