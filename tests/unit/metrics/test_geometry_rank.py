"""The known answers of effective rank and participation ratio, of all patches and of an image's."""

import numpy as np
import pytest
import torch

from activation_datasets import tokens_dataset
from vitals.metrics import axes, geometry
from vitals.metrics import effective_rank as rank

STORAGE = pytest.mark.parametrize("storage", [np.float32, np.float16])
CPU = torch.device("cpu")


def isotropic(dimensions, channels=32, images=60, tokens=49, seed=0):
    """Tokens (image, token, channel) in a random subspace, of equal variance in it."""
    generator = np.random.default_rng(seed)
    basis = np.linalg.qr(generator.standard_normal((channels, channels)))[0][:dimensions]
    return generator.standard_normal((images, tokens, dimensions)) @ basis


def measured(tokens, **params):
    dataset = tokens_dataset([tokens])
    return geometry.compute(dataset, bootstrap_samples=200, **params).isel(layer=0)


@pytest.mark.parametrize("dimensions", [1, 4, 17])
@STORAGE
def test_an_isotropic_subspace_has_its_dimension_as_effective_rank(dimensions, storage):
    result = measured(isotropic(dimensions).astype(storage))
    # half precision leaves 1e-4 of the largest singular value in each of the empty directions
    tolerance = 0.01 if storage == np.float32 else 0.03
    for name in ("effective_rank", "participation_ratio"):
        assert float(result[name]) == pytest.approx(dimensions, rel=tolerance)


def test_the_shares_are_of_singular_values_in_one_and_of_their_squares_in_the_other():
    variances = np.array([9.0, 1.0])  # singular values 3 and 1
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert rank.effective_rank(variances) == pytest.approx(np.exp(entropy))
    assert rank.participation_ratio(variances) == pytest.approx(100 / 82)


def test_an_image_has_a_rank_of_its_own():
    tokens = np.concatenate([isotropic(3, images=1), isotropic(9, images=1, seed=1)])
    result = measured(np.repeat(tokens, 20, axis=0))
    few, many = result["image_effective_rank"][0], result["image_effective_rank"][-1]
    assert 2.8 < few < 3 and 8 < many < 9  # 49 tokens of an isotropic cloud are not quite even
    assert float(result["effective_rank"]) > 9


@pytest.mark.parametrize("shape", [(4, 6, 20), (4, 20, 6)])
def test_the_smaller_gram_matrix_gives_the_singular_values_of_the_tokens(shape):
    x = np.random.default_rng(0).standard_normal(shape)
    centered = x - x.mean(axis=1, keepdims=True)
    singular = np.linalg.svd(centered, compute_uv=False)[:, ::-1]
    found = rank.image_variances(torch.from_numpy(x))
    np.testing.assert_allclose(found, np.square(singular) / shape[1], atol=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_the_spectrum_is_that_of_all_tokens_about_their_mean(offset):
    tokens = isotropic(32) * np.linspace(1, 3, 32) + offset
    found = rank.spectrum(tokens_dataset([tokens])["tokens"][0], np.arange(49), CPU)
    expected = np.linalg.eigvalsh(np.cov(tokens.reshape(-1, 32).T, bias=True))
    np.testing.assert_allclose(found.variances, expected, rtol=1e-9)


def test_blocks_of_images_change_nothing(monkeypatch):
    tokens = tokens_dataset([isotropic(32) + 100])["tokens"][0]
    whole = rank.spectrum(tokens, np.arange(49), CPU)
    monkeypatch.setattr(axes, "NUMBERS_PER_BLOCK", 7 * 49 * 32)
    parts = rank.spectrum(tokens, np.arange(49), CPU)
    np.testing.assert_allclose(parts.variances, whole.variances, rtol=1e-9)


def test_the_resampled_spectrum_is_that_of_the_resample_to_first_order():
    tokens = isotropic(8, channels=8, images=400) * np.linspace(1, 3, 8)
    found = rank.spectrum(tokens_dataset([tokens])["tokens"][0], np.arange(49), CPU)
    counts = np.random.default_rng(1).multinomial(400, np.full(400, 1 / 400), size=50)
    again = [
        np.linalg.eigvalsh(np.cov(np.repeat(tokens, count, axis=0).reshape(-1, 8).T, bias=True))
        for count in counts
    ]
    moved = rank.effective_rank(found.resampled(counts)) - rank.effective_rank(found.variances)
    expected = rank.effective_rank(np.array(again)) - rank.effective_rank(found.variances)
    assert np.abs(moved - expected).max() < 0.2 * expected.std()


def test_patches_that_are_all_alike_have_no_rank():
    tokens = np.broadcast_to(np.linspace(0.1, 1, 7), (3, 5, 7))
    result = measured(tokens)
    assert np.isnan(result["image_effective_rank"]).all()
    assert np.isnan(result["image_participation_ratio"]).all()
