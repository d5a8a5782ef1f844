"""The known answers of token similarity, at float32 and from float16 storage."""

import numpy as np
import pytest
import xarray as xr

from activation_datasets import every_tap, tokens_dataset
from vitals.errors import VitalsError
from vitals.metrics import similarity

N = 196
TOLERANCE = {np.float32: 1e-5, np.float16: 1e-3}
STORAGE = pytest.mark.parametrize("storage", [np.float32, np.float16])


def mean_of(tokens, storage=np.float32, **params):
    dataset = tokens_dataset([np.asarray(tokens, dtype=storage)])
    return similarity.compute(dataset, bootstrap_samples=20, **params).mean("image").isel(layer=0)


def random_tokens(seed=0, images=3, tokens=N, channels=32):
    return np.random.default_rng(seed).standard_normal((images, tokens, channels))


def two_clusters(first):
    sign = np.where(np.arange(N) < first, 1.0, -1.0)
    return np.broadcast_to(sign[:, None] * np.ones(8), (2, N, 8))


@STORAGE
def test_identical_tokens_have_cosine_one(storage):
    token = random_tokens(tokens=1)
    assert mean_of(np.repeat(token, N, axis=1), storage)["cosine"] == pytest.approx(
        1, abs=TOLERANCE[storage]
    )


@STORAGE
def test_orthonormal_tokens_have_cosine_zero_and_the_floor_when_centred(storage):
    result = mean_of(np.broadcast_to(np.eye(N), (2, N, N)), storage)
    assert result["cosine"] == pytest.approx(0, abs=1e-12)
    assert result["centered_cosine"] == pytest.approx(-1 / (N - 1), abs=TOLERANCE[storage])


def test_the_floor_is_an_attribute():
    result = similarity.compute(tokens_dataset([random_tokens()]), bootstrap_samples=5)
    assert result.attrs["floor"] == -1 / (N - 1)
    assert result["centered_cosine"].attrs["floor"] == -1 / (N - 1)


@pytest.mark.parametrize(("first", "expected"), [(147, 0.246154), (176, 0.631606), (98, -1 / 195)])
@STORAGE
def test_two_opposite_clusters(first, expected, storage):
    result = mean_of(two_clusters(first), storage)
    assert expected == pytest.approx(((2 * first / N - 1) ** 2 * N - 1) / (N - 1), abs=1e-6)
    for name in ("cosine", "centered_cosine"):  # centring keeps the two directions opposite
        assert result[name] == pytest.approx(expected, abs=1e-5)


def test_squared_cosine_separates_what_the_centred_cosine_cannot():
    balanced = mean_of(two_clusters(98))
    isotropic = mean_of(random_tokens(channels=512))
    assert balanced["centered_cosine"] == pytest.approx(
        float(isotropic["centered_cosine"]), abs=1e-3
    )
    assert balanced["squared_cosine"] == pytest.approx(1, abs=1e-6)
    assert isotropic["squared_cosine"] == pytest.approx(1 / 512, rel=0.1)


@pytest.mark.parametrize("offset", [1.0, 100.0])
def test_one_vector_added_to_every_token_leaves_the_centred_curves_unchanged(offset):
    tokens = random_tokens()
    shift = offset * np.random.default_rng(1).standard_normal(32)
    plain, shifted = mean_of(tokens, np.float64), mean_of(tokens + shift, np.float64)
    for name in ("centered_cosine", "squared_cosine"):
        assert shifted[name] == pytest.approx(float(plain[name]), abs=1e-9)
    assert shifted["cosine"] > plain["cosine"]


def test_six_tokens_at_thirty_times_the_norm_move_only_the_plain_curve():
    tokens = random_tokens(images=20, channels=384)
    tokens[:, :6] = 30 * np.ones(384)
    result = mean_of(tokens)
    clean = mean_of(tokens[:, 6:])
    assert result["centered_cosine"] == pytest.approx(0.39, abs=0.01)
    assert result["outlier_share"] == pytest.approx(6 / N, abs=1e-3)  # and a Gaussian's tail
    assert result["robust_centered_cosine"] == pytest.approx(
        float(clean["centered_cosine"]), abs=1e-4
    )


def test_common_share_is_the_energy_of_the_mean():
    tokens = random_tokens()
    centred = tokens - tokens.mean(axis=1, keepdims=True)
    assert mean_of(centred)["common_share"] == pytest.approx(0, abs=1e-6)
    assert mean_of(np.ones((2, N, 4)))["common_share"] == pytest.approx(1)


def test_tokens_of_zero_norm_are_left_out_and_counted():
    tokens = random_tokens()
    tokens[:, :4] = 0
    result, without = mean_of(tokens), mean_of(tokens[:, 4:])
    assert result["zero_tokens"] == 4
    assert result["cosine"] == pytest.approx(float(without["cosine"]), abs=1e-6)
    assert np.isfinite(result.to_array()).all()


def test_the_closed_form_is_the_mean_over_pairs():
    tokens = random_tokens(tokens=7)
    unit = tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)
    cosines = np.einsum("bic,bjc->bij", unit, unit)
    pairs = cosines[:, ~np.eye(7, dtype=bool)]
    assert mean_of(tokens, np.float64)["cosine"] == pytest.approx(pairs.mean(), abs=1e-12)


@pytest.mark.parametrize("kinds", [("cls", "distillation"), ("cls", *["register"] * 4)])
def test_prefix_tokens_take_no_part(kinds):
    tokens = random_tokens()
    prefix = 50 * np.ones((3, len(kinds), 32))
    with_prefix = similarity.compute(
        tokens_dataset([np.concatenate([prefix, tokens], axis=1)], prefix=kinds),
        bootstrap_samples=5,
    )
    without = similarity.compute(tokens_dataset([tokens]), bootstrap_samples=5)
    xr.testing.assert_allclose(with_prefix, without)


def test_every_tap_keeps_its_own_depth():
    names, depth = every_tap(2)
    taps = [random_tokens(tokens=9, seed=seed) for seed in range(len(names))]
    result = similarity.compute(tokens_dataset(taps, names=names, depth=depth), bootstrap_samples=5)
    assert result["depth"].values.tolist() == depth.tolist()
    alone = similarity.compute(tokens_dataset([taps[1]]), bootstrap_samples=5)
    at_norm_pre = result["centered_cosine"].sel(layer="norm_pre")
    np.testing.assert_array_equal(at_norm_pre, alone["centered_cosine"][0])


def test_chunks_and_laziness_change_nothing():
    dataset = tokens_dataset([random_tokens(seed) for seed in range(3)])
    lazy = dataset.chunk({"image": 2, "layer": 1})
    xr.testing.assert_identical(
        similarity.compute(dataset, bootstrap_samples=5),
        similarity.compute(lazy, bootstrap_samples=5),
    )


def test_the_interval_holds_the_mean_and_narrows_with_more_images():
    few = similarity.compute(tokens_dataset([random_tokens(images=10, tokens=16)]))
    many = similarity.compute(tokens_dataset([random_tokens(images=160, tokens=16)]))
    for result in (few, many):
        mean = result["cosine"].mean("image")
        assert (result["cosine_low"] < mean).all() and (mean < result["cosine_high"]).all()
    width = [float((r["cosine_high"] - r["cosine_low"]).item()) for r in (few, many)]
    assert width[1] == pytest.approx(width[0] / 4, rel=0.5)


def test_a_single_patch_is_refused():
    with pytest.raises(VitalsError, match="at least 2 patch tokens, found 1"):
        similarity.compute(tokens_dataset([random_tokens(tokens=1)]))
