"""What the result of scrambling holds, and that it depends on the images and nothing else."""

import numpy as np
import pytest
import xarray as xr

from activation_datasets import every_tap, tokens_dataset
from scrambled import autoregressive, dataset_of, gaussian, mixed, orthogonal, partly_averaged
from vitals.errors import VitalsError
from vitals.metrics import scrambling, tap_recovery, token_pairs
from vitals.metrics.results import absences


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


STREAMED = 1e-5  # float32 products, and fits that stop a sweep apart


@pytest.mark.parametrize("scratch", [False, True])
def test_passes_over_the_images_give_what_moments_in_memory_give(
    dataset, result, monkeypatch, scratch
):
    monkeypatch.setattr(tap_recovery, "MOMENT_BYTES", 0)
    if scratch:
        monkeypatch.setattr(token_pairs, "MEMORY_BYTES", 0)
        monkeypatch.setattr(token_pairs, "BLOCK_NUMBERS", 9 * 4 * 7)  # blocks of seven images
    streamed = scrambling.compute(dataset, bootstrap_samples=200)
    for name in ("r2_self", "r2_all", "isi", "isi_low", "isi_excess", "r2_all_whitened"):
        np.testing.assert_allclose(streamed[name], result[name], atol=STREAMED)
    np.testing.assert_array_equal(streamed["penalty"], result["penalty"])


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_an_offset_common_to_all_tokens_costs_no_digits_in_passes(monkeypatch, offset):
    monkeypatch.setattr(tap_recovery, "MOMENT_BYTES", 0)
    tokens = gaussian(200, channels=4)
    stored = dataset_of(tokens + offset, tokens + offset, storage=np.float32)
    moved = scrambling.compute(stored, nulls=("none",), bootstrap_samples=5)
    assert moved["r2_self"].values == pytest.approx(1, abs=1e-9)
    assert moved["r2_all"].values == pytest.approx(1, abs=1e-9)


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
    folds = tap_recovery.folds_of(images, 5, seed=0)
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


def test_whitened_shares_weigh_every_principal_channel_alike():
    """One of three channels is lost, that with nearly all the variance."""
    scale = np.array([10.0, 1.0, 1.0])
    tokens = gaussian(400, channels=3) * scale
    layer = tokens * (0.0, 1.0, 1.0)
    found = scrambling.compute(dataset_of(tokens, layer), nulls=("none",), bootstrap_samples=50)
    lost = found.isel(layer=1, null=0)
    assert lost["r2_self"] == pytest.approx(2 / 102, abs=0.01)
    assert lost["r2_self_whitened"] == pytest.approx(2 / 3, abs=0.04)
    assert lost["r2_self_whitened_low"] < lost["r2_self_whitened"] < lost["r2_self_whitened_high"]
    assert lost["isi_whitened"] == pytest.approx(0, abs=0.01)


def test_what_only_cls_knows_is_recovered_where_cls_is_context():
    tokens = gaussian(600, tokens=9, channels=4)
    common = gaussian(600, 1, 1, 4)
    taps = [np.concatenate([0 * common, tokens], 1), np.concatenate([common, tokens + common], 1)]
    stored = dataset_of(*taps, prefix=("cls",))
    patches, both = (
        scrambling.compute(stored, nulls=("none",), cls_context=cls, bootstrap_samples=5)
        for cls in (False, True)
    )
    assert patches["r2_all"].isel(layer=1).item() == pytest.approx(0.9, abs=0.02)
    assert both["r2_all"].isel(layer=1).item() == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(both["r2_self"], patches["r2_self"], atol=1e-6)


def test_context_reaches_what_moved_one_patch_only_from_one_patch_on():
    tokens = gaussian(800)  # 4 × 4 patches
    grid = tokens.reshape(800, 4, 4, -1)
    swapped = grid[:, :, [1, 0, 3, 2]].reshape(tokens.shape)  # with the neighbour in the row
    found = scrambling.compute(
        dataset_of(tokens, swapped), nulls=("none",), distances=(0.5, 1, 2), bootstrap_samples=50
    ).isel(layer=1, null=0)
    assert found["isi_by_distance"].dims == ("distance",)
    assert found["isi_by_distance"].values == pytest.approx([0, 1, 1], abs=0.02)
    assert found["isi_by_distance_low"].dims == ("distance",)
    assert found["distance"].attrs["units"] == "patches"


def test_without_a_grid_nothing_is_near_and_that_is_said(dataset):
    flat = dataset.drop_vars("row")
    found = scrambling.compute(flat, nulls=("none",), distances=(1,), bootstrap_samples=5)
    assert absences(found)["isi_by_distance"] == "patches have no row"
    found = scrambling.compute(flat, nulls=("none",), bootstrap_samples=5)
    assert "no distance" in absences(found)["isi_by_distance"]


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
    refused("distances must be positive", distances=(0.0,))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_tokens_that_are_not_finite_are_refused_by_layer_and_image(dataset, value):
    torn = dataset["tokens"].copy(deep=True)
    torn[1, 7, 2, 3] = value
    with pytest.raises(VitalsError, match=r"layer 'block\.0', image image-7: the tokens hold NaN"):
        scrambling.compute(dataset.assign(tokens=torn), bootstrap_samples=5)
