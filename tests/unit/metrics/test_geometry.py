"""Geometry as one result: outliers and where they are, absences, chunks, families of models."""

import json

import numpy as np
import pytest
import xarray as xr

from activation_datasets import every_tap, pooled_dataset, tokens_dataset
from vitals.errors import VitalsError
from vitals.metrics import comparison, geometry, pooled_geometry, summary
from vitals.metrics.results import absences

IMAGES, PATCHES, CHANNELS = 24, 16, 8
STORAGE = pytest.mark.parametrize("storage", [np.float32, np.float16])
QUICK = {"bootstrap_samples": 20}


def random_tokens(seed=0, images=IMAGES, tokens=PATCHES):
    return np.random.default_rng(seed).standard_normal((images, tokens, CHANNELS))


def tiers(taps=3, names=None, depth=None, prefix=("cls",)):
    """Both tiers of random tokens; [CLS] is the same for every image at the first tap."""
    size = len(prefix) + PATCHES
    layers = [random_tokens(seed, tokens=size) for seed in range(taps)]
    layers[0][:, : len(prefix)] = 1.0
    tokens = tokens_dataset(layers, prefix=prefix, names=names, depth=depth)
    features = [{"patch_mean": x[:, len(prefix) :].mean(axis=1)} for x in layers]
    if prefix:
        features = [{"cls": x[:, 0], **f} for x, f in zip(layers, features, strict=True)]
    pooled = pooled_dataset(features, tokens["label"].values, names=names)
    return tokens, pooled.assign_coords(depth=tokens["depth"])


@STORAGE
def test_a_massive_channel_is_named_with_its_size_and_share(storage):
    tokens = np.ones((IMAGES, PATCHES, CHANNELS)) * np.where(np.arange(CHANNELS) % 2, 1, -1)
    tokens[:, 3, 5] = -400
    tokens[:12, 7, 2] = 200
    result = geometry.compute(tokens_dataset([tokens.astype(storage)]), **QUICK).isel(layer=0)
    assert result["massive_channel"].values[:2].tolist() == [5, 2]
    assert result["massive_channel_ratio"].values.tolist() == [400, 100.5, 1, 1, 1]
    assert (result["massive_ratio"] == 400).all()
    expected = np.where(np.arange(IMAGES) < 12, 2, 1) / (PATCHES * CHANNELS)
    np.testing.assert_allclose(result["massive_share"], expected)
    assert (
        1 < result["massive_channel_ratio_low"][1] < 100.5 < result["massive_channel_ratio_high"][1]
    )


def test_activations_beyond_a_higher_multiple_are_fewer():
    tokens = np.ones((IMAGES, PATCHES, CHANNELS))
    tokens[:, 0, 0] = 150
    dataset = tokens_dataset([tokens])
    assert (geometry.compute(dataset, **QUICK)["massive_share"] > 0).all()
    higher = geometry.compute(dataset, massive_multiple=150, massive_channels=2, **QUICK)
    assert (higher["massive_share"] == 0).all() and higher.sizes["order"] == 2


def test_massive_activations_of_any_token_count_and_norms_of_patches_alone():
    tokens = random_tokens(tokens=PATCHES + 2)
    tokens[:, 1] = 1e4  # a register
    result = geometry.compute(tokens_dataset([tokens], prefix=("cls", "register")), **QUICK)
    without = geometry.compute(tokens_dataset([tokens[:, 2:]]), **QUICK)
    assert (result["massive_share"] >= 1 / (PATCHES + 2)).all()
    for name in ("high_norm_share", "high_norm_map", "effective_rank", "image_effective_rank"):
        np.testing.assert_array_equal(result[name], without[name])


@STORAGE
def test_high_norm_tokens_are_counted_and_placed(storage):
    tokens = random_tokens()
    tokens /= np.linalg.norm(tokens, axis=-1, keepdims=True)
    tokens[:, 6] *= 20
    tokens[::2, 9] *= 10
    result = geometry.compute(tokens_dataset([tokens.astype(storage)]), **QUICK).isel(layer=0)
    of_place = result["high_norm_map"].set_index(patch=["row", "column"])
    assert of_place.sel(row=1, column=2) == 1
    assert of_place.sel(row=2, column=1) == 0.5
    if storage == np.float32:
        assert of_place.sum() == 1.5 and result["high_norm_share"].mean() == 1.5 / PATCHES
    np.testing.assert_allclose(result["high_norm_ratio"], 20, rtol=2e-3)
    low, high = (result[f"high_norm_map_{end}"][9] for end in ("low", "high"))
    assert 0.2 < low < 0.5 < high < 0.8


def test_equal_norms_have_no_outlier():
    tokens = np.broadcast_to(np.eye(PATCHES, CHANNELS) + np.eye(PATCHES, CHANNELS, -8), (3, 16, 8))
    assert (geometry.compute(tokens_dataset([tokens]), **QUICK)["high_norm_share"] == 0).all()


def test_every_estimate_has_an_interval_that_holds_it():
    tokens, pooled = tiers()
    result = geometry.compute(tokens, pooled=pooled, bootstrap_samples=200)
    identity = {"massive_channel"}
    ends = ("_low", "_high", "_draws")
    for name in {v for v in result.data_vars if not v.endswith(ends)} - identity:
        value = result[name].mean("image") if "image" in result[name].dims else result[name]
        low, high = result[f"{name}_low"], result[f"{name}_high"]
        there = value.notnull()
        assert (low.notnull() == there).all(), name
        assert (low <= value + 1e-9).where(there, True).all(), name
        if name != "cka":  # the mean of pseudo-values is the estimate less its bias
            assert (high >= value - 1e-9).where(there, True).all(), name
        assert {"long_name", "units", "status", "source"} <= result[name].attrs.keys()


def test_what_is_of_pooled_features_is_what_they_hold():
    tokens, pooled = tiers()
    result = geometry.compute(tokens, pooled=pooled, **QUICK)
    assert result["cka"].dims == ("feature", "layer", "other_layer")
    assert result["other_layer"].values.tolist() == result["layer"].values.tolist()
    np.testing.assert_allclose(result["cka"].sel(feature="patch_mean").values.diagonal(), 1)
    constant = result.sel(feature="cls", layer="embed")
    assert np.isnan(constant["cka"]).all() and np.isnan(constant["intrinsic_dimension"])
    rows = summary.table({("vit", "geometry"): result}, study="s")
    of_cls = rows[(rows["variable"] == "cka") & (rows["feature"] == "cls,embed")]
    assert set(of_cls["note"]) == {"the feature is the same for every image"}


def test_the_intrinsic_dimension_is_of_the_first_images():
    tokens, pooled = tiers()
    few = geometry.compute(tokens, pooled=pooled, neighbour_images=10, **QUICK)
    alone = geometry.compute(tokens, pooled=pooled.isel(image=slice(10)), **QUICK)
    for name in ("intrinsic_dimension", "intrinsic_dimension_draws"):
        np.testing.assert_array_equal(few[name], alone[name])
    assert few["intrinsic_dimension"].attrs["images"] == 10


def test_without_pooled_features_what_is_of_them_is_absent():
    tokens, pooled = tiers()
    reasons = absences(geometry.compute(tokens, **QUICK))
    assert reasons == dict.fromkeys(pooled_geometry.VARIABLES, "the pooled features are not there")
    few = geometry.compute(tokens, pooled=pooled.isel(image=slice(4)), **QUICK)
    assert json.loads(few.attrs["absent"]) == {"cka": "it needs 5 images, found 4"}


@pytest.mark.parametrize("prefix", [(), ("cls", "distillation"), ("cls", *["register"] * 4)])
def test_models_of_every_family_and_taps_at_half_depths(prefix):
    names, depth = every_tap(2)
    tokens, pooled = tiers(len(names), names, depth, prefix)
    result = geometry.compute(tokens, pooled=pooled, **QUICK)
    assert result["depth"].values.tolist() == depth.tolist()
    assert result["feature"].values.tolist() == (["cls"] if prefix else []) + ["patch_mean"]
    assert not summary.table({("vit", "geometry"): result}, study="s").empty


def test_chunks_and_laziness_change_nothing():
    tokens, pooled = tiers()
    lazy = [part.chunk({"image": 5, "layer": 1}) for part in (tokens, pooled)]
    xr.testing.assert_identical(
        geometry.compute(tokens, pooled=pooled, **QUICK),
        geometry.compute(lazy[0], pooled=lazy[1], **QUICK),
    )


def test_only_tokens_are_needed():
    bare = xr.Dataset({"tokens": (("layer", "image", "token", "channel"), random_tokens()[None])})
    with pytest.warns(UserWarning, match="every token is taken as a patch"):
        result = geometry.compute(bare, **QUICK)
    assert np.isfinite(result["effective_rank"]).all() and "row" not in result.coords


def test_models_are_compared_in_what_they_share():
    taps = {"a": 3, "b": 4}
    results = {model: geometry.compute(tiers(taps[model])[0], **QUICK) for model in taps}
    found = comparison.compute(results, metric="geometry", **QUICK)
    same = found["effective_rank_difference"].sel(pair="a - b")
    np.testing.assert_allclose(same, 0, atol=1e-12)
    assert not found["effective_rank_difference_excludes_zero"].any()
    assert "intrinsic_dimension_difference" in absences(found)


def test_a_single_patch_is_refused():
    with pytest.raises(VitalsError, match="at least 2 patch tokens, found 1"):
        geometry.compute(tokens_dataset([random_tokens(tokens=1)]))
