"""Of single patches: closed forms, and agreement with the scrambling index's own arm."""

import numpy as np
import pytest

from activation_datasets import tokens_dataset
from vitals.metrics import gallery, patch_quantities, scrambling

IMAGES, PATCHES, CHANNELS = 400, 6, 4
TEST = np.arange(300, IMAGES)


def dataset(*taps, prefix=()):
    split = np.where(np.arange(IMAGES) < 300, "fit", "test")
    names = ["embed", "position", "block.0", "block.1"][: len(taps)]
    return tokens_dataset(np.stack(taps), prefix=prefix, names=names, split=split)


@pytest.fixture(scope="module")
def z():
    return np.random.default_rng(0).standard_normal((IMAGES, PATCHES, CHANNELS))


def test_norm_and_similarity_are_those_of_each_patch(z):
    found = patch_quantities.compute(dataset(z), TEST[:3])
    x = z[TEST[:3]]
    np.testing.assert_allclose(found["norm"][0], np.linalg.norm(x, axis=-1))
    mean = x.mean(axis=1, keepdims=True)
    cosine = (x * mean).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(mean, axis=-1)
    np.testing.assert_allclose(found["similarity_to_mean"][0], cosine)
    assert found["norm"].dims == ("layer", "image", "patch")


def test_what_a_linear_map_gives_back_is_all_and_another_images_patches_are_nothing(z):
    mapped = 3 * z @ np.random.default_rng(1).standard_normal((CHANNELS, CHANNELS)) + 7
    others = np.roll(z, 1, axis=0)
    found = patch_quantities.compute(dataset(z, mapped, others), TEST)["recoverability"]
    np.testing.assert_allclose(found[:2], 1)
    # independent of the embedding: nothing, but for what the fit takes for signal
    assert found[2].mean().item() == pytest.approx(0, abs=0.05)


def test_noise_leaves_one_over_one_plus_its_variance(z):
    noisy = z + 0.5 * np.random.default_rng(2).standard_normal(z.shape)
    found = patch_quantities.compute(dataset(z, noisy), TEST)["recoverability"][1]
    assert found.mean().item() == pytest.approx(1 / 1.25, abs=0.02)


def test_its_mean_over_test_patches_is_the_same_token_arm_of_scrambling(z):
    noisy = z + 0.5 * np.random.default_rng(2).standard_normal(z.shape)
    tiers = dataset(z, noisy)
    measured = scrambling.compute(
        tiers, nulls=("none",), penalties=(0.1,), folds=2, bootstrap_samples=10
    ).sel(null="none")
    found = patch_quantities.compute(tiers, TEST)["recoverability"].mean(("image", "patch"))
    assert not measured["scaled"].values.any()  # one map for all positions
    np.testing.assert_allclose(found, measured["r2_self"], atol=1e-6)


def test_a_zero_token_is_like_no_mean(z):
    x = z.copy()
    x[TEST[0], 0] = 0
    found = patch_quantities.compute(dataset(z, x), TEST[:1])["similarity_to_mean"][1, 0]
    assert np.isnan(found[0]) and np.isfinite(found[1:]).all()


def heads(images, blocks=2, count=3, tokens=5):
    weights = np.random.default_rng(3).uniform(size=(blocks, images, count, tokens, tokens))
    from xarray import DataArray

    dims = ("block", "image", "head", "query", "key")
    return DataArray(weights / weights.sum(axis=-1, keepdims=True), dims=dims)


def test_attention_is_kept_to_a_byte_of_its_square_root():
    maps = heads(2)
    found = gallery.attention_maps(maps, np.array(["cls"] + ["patch"] * 4))
    assert found["query"].values.tolist() == ["cls", *(f"patch {i}" for i in range(4))]
    back = found.astype(float) ** 2 * found.attrs["scale"]
    assert abs(back - maps).max() < maps.max() / 255


def test_attention_too_large_for_a_page_is_that_of_prefix_and_mean_patch(monkeypatch):
    maps, kinds = heads(4), np.array(["cls"] + ["patch"] * 4)
    monkeypatch.setattr(gallery, "MOST_MAP_BYTES", 2 * 3 * 2 * 5 * 2)  # two images
    found = gallery.attention_maps(maps, kinds)
    assert found["query"].values.tolist() == ["cls", "patches"]
    assert found.sizes["image"] == 2
    back = found.astype(float) ** 2 * found.attrs["scale"]
    np.testing.assert_allclose(back[:, :, :, 1], maps[:, :2, :, 1:].mean("query"), atol=0.01)


def test_a_model_without_a_gallery_shows_test_images_and_says_why(z):
    tiers = dataset(z).assign_attrs(absent={"attention": "its heads talk to each other"})
    found = gallery.compute(tiers, None)
    assert found.sizes["image"] == gallery.WITHOUT_GALLERY
    assert "its heads talk to each other" in found.attrs["absent"]
    assert "images" not in found
