"""The differences between models, at equal depth and at equal relative depth."""

import numpy as np
import pytest
import xarray as xr

from activation_datasets import every_tap, layer_names
from vitals.errors import VitalsError
from vitals.metrics import comparison
from vitals.metrics.results import absences, describe, mark_absent

IMAGES = 30


def per_image(curve, effect=None, names=None, ids=None, variable="cosine", dim="layer"):
    """A result with a curve plus an effect of each image: (layer, image)."""
    effect = np.zeros(IMAGES) if effect is None else effect
    values = np.asarray(curve)[:, None] + effect
    array = describe(xr.DataArray(values, dims=(dim, "image")), "a curve", "1", "published", "x")
    ids = range(len(effect)) if ids is None else ids
    coords = {"image_id": ("image", [f"image-{i}" for i in ids])}
    if dim == "layer":
        coords["layer"] = names or layer_names(len(values))
        coords["depth"] = ("layer", np.arange(len(values)))
    return xr.Dataset({variable: array}, coords=coords)


def with_draws(variable, value, draws):
    """A result without images, whose draws are given."""
    dims = ("feature",)[: np.ndim(value)]
    array = describe(xr.DataArray(value, dims=dims), "a number", "layers", "published", "x")
    return xr.Dataset({variable: array, f"{variable}_draws": ((*dims, "draw"), draws)})


def effects(seed=0):
    return np.random.default_rng(seed).standard_normal(IMAGES)


def test_equal_depth_compares_tap_with_tap():
    models = {"a": per_image([0, 1, 2, 3]), "b": per_image([1, 1, 1, 1, 1, 1])}
    result = comparison.compute(models, metric="similarity")["cosine_difference"]
    assert result["depth"].values.tolist() == [0, 1, 2, 3]  # no more than both have
    assert result.sel(pair="a - b").values.tolist() == [-1, 0, 1, 2]


def test_models_alike_in_relative_depth_differ_only_at_equal_depth():
    models = {"a": per_image(np.linspace(0, 1, 13)), "b": per_image(np.linspace(0, 1, 25))}
    result = comparison.compute(models, metric="similarity")
    assert result["cosine_difference"].sel(depth=12) == pytest.approx(0.5)
    assert abs(result["cosine_difference_relative"]).max() < 1e-12
    assert result.sizes["relative_depth"] == 21


def test_the_final_norm_is_never_beside_a_block():
    names = [*layer_names(4), "norm"]
    models = {"a": per_image([0, 0, 0, 0, 9], names=names), "b": per_image([0] * 6)}
    result = comparison.compute(models, metric="similarity")
    assert result["depth"].max() == 3
    assert (result["cosine_difference_relative"] == 0).all()


def test_taps_stand_beside_those_of_their_own_depth():
    """A model with a norm after positions, and taps within blocks, beside a plain one."""
    names, depth = every_tap(4)
    clip = per_image(depth**2, names=names).assign_coords(depth=("layer", depth))
    models = {"clip": clip, "plain": per_image(np.arange(8) ** 2 - 1.0)}
    result = comparison.compute(models, metric="similarity")
    assert result["depth"].values.tolist() == [0, 1, 2, 3, 4, 5]
    assert (result["cosine_difference"] == 1).all()


def test_taps_that_all_models_have_are_compared():
    names, depth = every_tap(2)
    of = {
        model: per_image(depth + shift, names=names).assign_coords(depth=("layer", depth))
        for model, shift in (("a", 2), ("b", 0))
    }
    result = comparison.compute(of, metric="similarity")
    assert result["depth"].values.tolist() == depth[:-1].tolist()
    assert (result["cosine_difference"] == 2).all()


def test_further_taps_on_a_line_change_no_difference_at_equal_relative_depth():
    names, depth = every_tap(4)
    clip = per_image(depth, names=names).assign_coords(depth=("layer", depth))
    result = comparison.compute({"a": clip, "b": per_image(np.arange(6))}, metric="similarity")
    assert abs(result["cosine_difference_relative"]).max() < 1e-12


def test_draws_of_other_numbers_of_images_are_refused():
    models = {name: with_draws("isi", 1.0, np.ones(5)) for name in "ab"}
    for count, found in zip((40, 50), models.values(), strict=True):
        found["isi"].attrs["images"] = count
    with pytest.raises(VitalsError, match=r"different numbers of images: \{'a': 40, 'b': 50\}"):
        comparison.compute(models, metric="scrambling")


def test_the_bootstrap_is_paired_over_images():
    effect = 5 * effects()
    noise = 0.01 * effects(1)
    models = {"a": per_image([1, 2, 3], effect + noise), "b": per_image([0, 1, 2], effect)}
    result = comparison.compute(models, metric="similarity")
    width = result["cosine_difference_high"] - result["cosine_difference_low"]
    assert (width < 0.02).all()  # the spread over images, 5, is common to both
    assert result["cosine_difference_excludes_zero"].all()
    assert result["cosine_difference_relative_excludes_zero"].all()


def test_the_same_images_in_another_order_are_matched_by_name():
    effect, order = effects(), np.random.default_rng(1).permutation(IMAGES)
    models = {"a": per_image([1, 2], effect), "b": per_image([0, 1], effect[order], ids=order)}
    result = comparison.compute(models, metric="similarity")
    assert (result["cosine_difference_high"] - result["cosine_difference_low"]).max() < 1e-12


def test_other_images_are_refused():
    models = {"a": per_image([1, 2]), "b": per_image([0, 1], ids=range(1, IMAGES + 1))}
    with pytest.raises(VitalsError, match="cosine of 'b' is over other images than that of 'a'"):
        comparison.compute(models, metric="similarity")


def test_a_difference_within_its_noise_does_not_exclude_zero():
    models = {"a": per_image([0, 0], effects(1)), "b": per_image([0, 0], effects(2))}
    result = comparison.compute(models, metric="similarity")
    assert not result["cosine_difference_excludes_zero"].any()


def test_every_pair_is_named_in_the_order_of_the_models():
    models = {name: per_image([value] * 3) for name, value in [("s", 1), ("b", 2), ("l", 4)]}
    result = comparison.compute(models, metric="similarity")
    assert result["pair"].values.tolist() == ["s - b", "s - l", "b - l"]
    assert result["first"].values.tolist() == ["s", "s", "b"]
    assert result["second"].values.tolist() == ["b", "l", "l"]
    assert result["cosine_difference"].isel(depth=0).values.tolist() == [-1, -3, -2]


def test_block_curves_stand_at_the_depth_that_the_block_writes():
    models = {
        "a": per_image([0, 1, 2], variable="consensus", dim="block"),
        "b": per_image([0, 1, 2, 3, 4], variable="consensus", dim="block"),
    }
    result = comparison.compute(models, metric="attention")
    assert result["depth"].values.tolist() == [2, 3, 4]
    relative = result["consensus_difference_relative"].isel(pair=0)
    np.testing.assert_allclose(relative, -2 * relative["relative_depth"])


def test_scalars_are_compared_by_their_draws():
    draws = np.random.default_rng(0).standard_normal(200)
    models = {
        "a": with_draws("cliff_end", 2.0, 2 + draws + 0.01 * effects().repeat(7)[:200]),
        "b": with_draws("cliff_end", 1.0, 1 + draws),
    }
    result = comparison.compute(models, metric="phases")
    assert result["cliff_end_difference"].sel(pair="a - b") == 1
    assert result["cliff_end_difference_excludes_zero"].all()
    assert result["cliff_end_difference"].attrs["units"] == "layers"
    assert "cliff_end_difference_relative" not in result


def test_only_common_features_are_compared():
    one = with_draws("crossing", [1.0, 2.0], np.ones((2, 5))).assign_coords(feature=["cls", "both"])
    two = with_draws("crossing", [3.0], np.ones((1, 5))).assign_coords(feature=["both"])
    result = comparison.compute({"a": one, "b": two}, metric="tradeoff")["crossing_difference"]
    assert result["feature"].values.tolist() == ["both"]
    assert result.item() == -1


def test_a_third_model_takes_no_feature_or_depth_from_a_pair_that_has_it():
    def probed(taps, *features):
        values = np.arange(len(features))[:, None] * np.ones(taps)
        array = describe(xr.DataArray(values, dims=("feature", "layer")), "x", "1", "p", "x")
        draws = ("feature", "layer", "draw"), np.repeat(values[..., None], 5, axis=2)
        coords = {"feature": list(features), "layer": layer_names(taps)}
        return xr.Dataset({"accuracy": array, "accuracy_draws": draws}, coords=coords)

    features = ("cls", "patch_mean", "cls+patch_mean")
    models = {"a": probed(6, *features), "b": probed(5, *features), "gap": probed(3, "patch_mean")}
    result = comparison.compute(models, metric="probes")
    assert result["feature"].values.tolist() == list(features)
    assert result["depth"].values.tolist() == [0, 1, 2, 3, 4]
    difference = result["accuracy_difference"]
    assert (difference.sel(pair="a - b") == 0).all()
    with_gap = difference.sel(pair="b - gap")
    assert (with_gap.sel(feature="patch_mean", depth=[0, 1, 2]) == 1).all()
    assert np.isfinite(with_gap).sum() == 3  # and nothing of what only one of the two has
    assert np.isfinite(result["accuracy_difference_low"].sel(pair="b - gap")).sum() == 3
    assert np.isfinite(result["accuracy_difference_relative"].sel(feature="cls")).sum() == 21


@pytest.mark.parametrize("missing", [np.nan, np.inf])
def test_draws_that_are_undefined_too_often_leave_no_interval(missing):
    rarely, often = np.ones((2, 100))
    rarely[:2] = often[:30] = missing
    for draws, has_interval in [(rarely, True), (often, False)]:
        models = {
            "a": with_draws("onset", 1.0, draws),
            "b": with_draws("onset", 0.0, 0 * np.ones(100)),
        }
        result = comparison.compute(models, metric="tradeoff")
        assert result["onset_difference"] == 1
        assert np.isfinite(result["onset_difference_low"]).all() == has_interval
        assert result["onset_difference_excludes_zero"].all() == has_interval


def test_a_tap_that_is_infinite_or_undefined_has_no_difference():
    curve = np.array([np.inf, np.nan, 3.0, 4.0])
    models = {"a": per_image(curve), "b": per_image([np.inf, 1, 1, 1])}
    difference = comparison.compute(models, metric="similarity")["cosine_difference"].isel(pair=0)
    assert np.isnan(difference[:2]).all() and difference[2:].values.tolist() == [2, 3]


def test_numbers_of_draws_that_differ_are_refused():
    models = {"a": with_draws("knee", 1.0, np.ones(5)), "b": with_draws("knee", 1.0, np.ones(6))}
    with pytest.raises(VitalsError, match=r"not paired.*'a': 5, 'b': 6"):
        comparison.compute(models, metric="tradeoff")


def test_a_model_without_the_variable_leaves_the_other_pairs():
    without = xr.Dataset()
    mark_absent(without, "similarity", "no patches")
    models = {"a": per_image([1, 2]), "b": without, "c": per_image([0, 0])}
    result = comparison.compute(models, metric="similarity")
    assert result["cosine_difference"].sel(pair="a - c").values.tolist() == [1, 2]
    assert np.isnan(result["cosine_difference"].sel(pair="a - b")).all()
    assert not result["cosine_difference_excludes_zero"].sel(pair="a - b").any()
    assert absences(result)["cosine_difference, b"] == "no patches"


def test_a_mean_without_images_or_draws_cannot_be_compared():
    models = {name: per_image([1, 2]).mean("image") for name in "ab"}
    result = comparison.compute(models, metric="similarity")
    assert not result.data_vars
    assert "draws" in absences(result)["cosine_difference, a"]
    assert "fewer than two" in absences(result)["cosine_difference"]


def test_one_model_is_absent_with_a_reason():
    result = comparison.compute({"a": per_image([1, 2])}, metric="similarity")
    assert not result.data_vars
    assert absences(result)["comparison"] == "a difference needs two models, found a"


def test_chunks_and_laziness_change_nothing():
    models = {"a": per_image([0, 1, 2], effects()), "b": per_image([1, 1, 1, 1], effects(1))}
    lazy = {name: dataset.chunk({"image": 7}) for name, dataset in models.items()}
    xr.testing.assert_identical(
        comparison.compute(models, metric="similarity"),
        comparison.compute(lazy, metric="similarity"),
    )


def test_an_unknown_metric_is_named_with_its_nearest():
    with pytest.raises(VitalsError, match="did you mean 'similarity'"):
        comparison.compute({}, metric="simlarity")
