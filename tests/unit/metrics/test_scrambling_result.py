"""What the result of scrambling holds, and that it depends on the images and nothing else."""

import numpy as np
import pytest
import xarray as xr

from activation_datasets import every_tap, tokens_dataset
from scrambled import autoregressive, dataset_of, gaussian, mixed, orthogonal, partly_averaged
from vitals.errors import VitalsError
from vitals.metrics import scrambling


@pytest.fixture(scope="module")
def dataset():
    tokens = autoregressive(150, tokens=9, channels=4)
    other = mixed(partly_averaged(0.4, 9), tokens, orthogonal(4))
    return dataset_of(tokens, other + 0.3 * gaussian(150, 1, 9, 4))


@pytest.fixture(scope="module")
def result(dataset):
    return scrambling.compute(dataset, bootstrap_samples=200)


def test_chunks_and_laziness_change_nothing(dataset, result):
    lazy = dataset.chunk({"image": 40, "layer": 1, "token": 4})
    xr.testing.assert_identical(scrambling.compute(lazy, bootstrap_samples=200), result)


def test_passes_over_the_images_give_what_moments_in_memory_give(dataset, result, monkeypatch):
    monkeypatch.setattr(scrambling, "MOMENT_BYTES", 0)
    streamed = scrambling.compute(dataset, bootstrap_samples=200)
    xr.testing.assert_allclose(streamed, result, rtol=1e-6, atol=1e-7)


def test_the_scale_of_a_layer_changes_nothing(dataset, result):
    scale = xr.DataArray([1.0, 1e4], dims="layer")
    scaled = dataset.assign(tokens=(dataset["tokens"] * scale).transpose(*dataset["tokens"].dims))
    again = scrambling.compute(scaled, bootstrap_samples=200)
    for name in ("r2_self", "r2_all", "isi", "isi_excess"):
        assert again[name].values == pytest.approx(result[name].values, abs=1e-7)


def test_shares_are_ratios_of_the_sums_kept_for_each_test_image(dataset, result):
    test = dataset["image_id"].values[dataset["split"].values == "test"]
    assert result["image_id"].values.tolist() == test.tolist()
    sums = {n: result[n].sum("image") for n in ("error_self", "error_all", "total")}
    for arm in ("self", "all"):
        expected = 1 - sums[f"error_{arm}"] / sums["total"]
        xr.testing.assert_allclose(result[f"r2_{arm}"], expected)
    xr.testing.assert_allclose(result["isi"], result["r2_all"] - result["r2_self"])
    mixed_layer = result.isel(layer=1)
    xr.testing.assert_allclose(
        mixed_layer["recovered"], mixed_layer["isi"] / (1 - mixed_layer["r2_self"])
    )


def test_nothing_is_left_to_recover_where_a_token_recovers_itself(result):
    assert np.isnan(result["recovered"].isel(layer=0)).all()


def test_test_images_take_no_part_in_the_fit(dataset, result):
    last = dataset["tokens"].copy(deep=True)
    last[1, -1] *= 5
    again = scrambling.compute(dataset.assign(tokens=last), nulls=("none",), bootstrap_samples=5)
    xr.testing.assert_identical(
        again["error_all"].isel(image=slice(-1)).variable,
        result["error_all"].sel(null=["none"]).isel(image=slice(-1)).variable,
    )


def test_the_penalty_of_the_context_is_not_shared_with_the_same_token(dataset, result):
    heavy = scrambling.compute(dataset, nulls=("none",), penalties=(10.0,), bootstrap_samples=5)
    assert heavy["r2_self"].values == pytest.approx(result["r2_self"].values[:1], abs=1e-12)
    assert (heavy["r2_all"] < result["r2_all"].sel(null="none")).isel(layer=1).all()


def test_folds_split_the_fit_images_and_no_image():
    images = np.arange(5, 42)
    folds = scrambling._folds(images, 5, seed=0)
    assert sorted(np.concatenate(folds)) == images.tolist()
    assert max(map(len, folds)) - min(map(len, folds)) <= 1


def test_where_no_context_helps_both_arms_are_the_same_fit():
    tokens = gaussian(40)
    noisy = tokens + gaussian(40, seed=1)
    one = scrambling.compute(dataset_of(tokens, noisy), nulls=("none",), bootstrap_samples=5)
    assert one["penalty"].isel(layer=1) == np.inf
    assert (one["isi"] == 0).all()


def test_intervals_hold_the_shares_and_draws_are_kept_last(result):
    for name in ("r2_self", "r2_all", "isi", "isi_excess"):
        layer = result.isel(layer=1)
        assert (layer[f"{name}_low"] < layer[name]).all()
        assert (layer[name] < layer[f"{name}_high"]).all()
        assert result[f"{name}_draws"].dims == (*result[name].dims, "draw")


def test_the_two_arms_are_resampled_together(result):
    draws = result["r2_all_draws"] - result["r2_self_draws"]
    xr.testing.assert_allclose(result["isi_draws"].variable, draws.variable, atol=1e-6)


def test_the_standard_error_is_that_of_the_bootstrap(dataset):
    many = scrambling.compute(dataset, nulls=("none",), bootstrap_samples=4000).isel(layer=1)
    spread = many["isi_draws"].astype(float).std("draw")
    assert many["isi_standard_error"].item() == pytest.approx(spread.item(), rel=0.05)


def test_it_says_how_many_test_images_the_standard_error_asks_for(dataset, result):
    layer = result.isel(layer=1, null=0)
    error, images = layer["isi_standard_error"].item(), result.sizes["image"]
    assert layer["test_images_needed"] == np.ceil(images * (error / 0.0005) ** 2)
    looser = scrambling.compute(
        dataset, nulls=("none",), target_standard_error=0.005, bootstrap_samples=5
    )
    needed = looser["test_images_needed"].isel(layer=1).item()
    assert needed == pytest.approx(layer["test_images_needed"].item() / 100, abs=1)


@pytest.mark.parametrize("kinds", [("cls", "distillation"), ("register",)])
def test_prefix_tokens_take_no_part(dataset, result, kinds):
    prefix = np.random.default_rng(7).standard_normal((2, 150, len(kinds), 4))
    layers = np.concatenate([prefix, dataset["tokens"].values], axis=2)
    again = scrambling.compute(dataset_of(*layers, prefix=kinds), bootstrap_samples=200)
    xr.testing.assert_identical(again, result)


def test_every_tap_keeps_its_own_depth_and_the_shares_say_over_how_many_images():
    names, depth = every_tap(1)
    taps = [gaussian(60, seed, 4, 2) for seed in range(len(names))]
    split = np.where(np.arange(60) < 40, "fit", "test")
    dataset = tokens_dataset(taps, names=names, depth=depth, split=split)
    found = scrambling.compute(dataset, nulls=("none",), bootstrap_samples=5)
    assert found["depth"].values.tolist() == depth.tolist()
    assert found["layer"].values.tolist() == names
    assert found["r2_all"].attrs["images"] == 20 == found.sizes["image"]


def test_every_variable_says_what_it_is(result):
    for variable in result.data_vars.values():
        assert {"long_name", "units", "status", "source"} <= set(variable.attrs)
        assert variable.attrs["status"] == "reconstructed"


def test_wrong_inputs_are_refused(dataset):
    def refused(match, data=dataset, **params):
        with pytest.raises(VitalsError, match=match):
            scrambling.compute(data, **params)

    refused("layer 'embed', found position", dataset.assign_coords(layer=["position", "block.0"]))
    refused("at least 2 patch tokens, found 1", dataset.isel(token=[0]))
    refused("no image is in the split 'test'", dataset.isel(image=slice(60)))
    refused("5 folds need at least 10 fit images, found 6", dataset.isel(image=slice(84, None)))
    refused("penalties must be positive", penalties=(0.0, 1.0))
    refused("folds 2, found 1 and 1", folds=1)
    refused("differ between test images", dataset.assign(tokens=dataset["tokens"] * 0))
    refused("NaN or infinity", dataset.assign(tokens=dataset["tokens"] * np.nan))
