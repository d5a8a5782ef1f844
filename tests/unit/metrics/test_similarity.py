"""The known answers of token similarity, at float32 and from float16 storage."""

import numpy as np
import pytest
import torch
import xarray as xr

from activation_datasets import ODD_CHUNKS, chunked, computed, every_tap, tokens_dataset
from vitals.errors import VitalsError
from vitals.metrics import similarity, token_batches

N = 196
TOLERANCE = {np.float32: 1e-5, np.float16: 1e-3}
STORAGE = pytest.mark.parametrize("storage", [np.float32, np.float16])


def mean_of(tokens, storage=np.float32, **params):
    dataset = tokens_dataset([np.asarray(tokens, dtype=storage)])
    result = computed(similarity.compute, dataset, bootstrap_samples=20, **params)
    return result.mean("image").isel(layer=0)


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
    assert result["squared_cosine"] == pytest.approx(1 / (N - 1) ** 2, rel=1e-5)


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


def test_the_diagonal_is_never_included():
    """With it, tokens at the floor would have a cosine of 0, and opposite clusters 1/N more."""
    unit = two_clusters(147)[0] / np.sqrt(8)
    careless = (unit @ unit.T).mean()
    assert careless == pytest.approx(0.25) and abs(careless - 0.246154) > 1e-3
    assert mean_of(two_clusters(147))["cosine"] == pytest.approx(0.246154, abs=1e-6)


@STORAGE
def test_squared_cosine_separates_what_the_centred_cosine_cannot(storage):
    balanced = mean_of(two_clusters(98), storage)
    isotropic = mean_of(random_tokens(channels=512), storage)
    assert balanced["centered_cosine"] == pytest.approx(
        float(isotropic["centered_cosine"]), abs=1e-3
    )
    assert balanced["squared_cosine"] == pytest.approx(1, abs=1e-6)
    assert isotropic["squared_cosine"] == pytest.approx(1 / 512, rel=0.1)


@STORAGE
def test_a_vector_of_each_image_of_its_own_leaves_the_centred_curves_unchanged(storage):
    """To centre over all images alike would leave each image its own vector."""
    tokens = random_tokens()
    own = 3 * np.random.default_rng(1).standard_normal((3, 1, 32))
    plain, shifted = mean_of(tokens, storage), mean_of(tokens + own, storage)
    for name in ("centered_cosine", "squared_cosine", "robust_centered_cosine"):
        assert shifted[name] == pytest.approx(float(plain[name]), abs=TOLERANCE[storage])
    careless = mean_of(tokens + own - (tokens + own).mean(axis=(0, 1)), storage)["cosine"]
    assert careless > 0.5


def test_tokens_are_shifted_before_float32_products():
    """Norms of x - m from their expansion cancel where tokens share a large vector."""
    tokens = (random_tokens(images=1, channels=64) + 1000).astype(np.float32)
    exact = mean_of(tokens, np.float64)["centered_cosine"].item()
    assert mean_of(tokens)["centered_cosine"] == pytest.approx(exact, abs=1e-7)
    x, mean = tokens[0], tokens[0].mean(axis=0)
    careless = np.square(x).sum(axis=1) - 2 * x @ mean + np.square(mean).sum()
    truth = np.square(x.astype(float) - x.astype(float).mean(axis=0)).sum(axis=1)
    assert abs(careless / truth - 1).max() > 0.05


@pytest.mark.parametrize("offset", [1.0, 100.0])
def test_one_vector_added_to_every_token_leaves_the_centred_curves_unchanged(offset):
    tokens = random_tokens()
    shift = offset * np.random.default_rng(1).standard_normal(32)
    plain, shifted = mean_of(tokens, np.float64), mean_of(tokens + shift, np.float64)
    for name in ("centered_cosine", "squared_cosine"):
        assert shifted[name] == pytest.approx(float(plain[name]), abs=1e-9)
    assert shifted["cosine"] > plain["cosine"]


@STORAGE
def test_six_tokens_at_thirty_times_the_norm_move_only_the_plain_curve(storage):
    tokens = random_tokens(images=20, channels=384)
    tokens[:, :6] = 30 * np.ones(384)
    result = mean_of(tokens, storage)
    clean = mean_of(tokens[:, 6:], storage)
    assert result["centered_cosine"] == pytest.approx(0.39, abs=0.01)
    assert result["outlier_share"] == pytest.approx(6 / N, abs=1e-3)  # and a Gaussian's tail
    assert result["robust_centered_cosine"] == pytest.approx(
        float(clean["centered_cosine"]), abs=1e-4
    )


@STORAGE
def test_common_share_is_the_energy_of_the_mean(storage):
    tokens = random_tokens()
    centred = tokens - tokens.mean(axis=1, keepdims=True)
    assert mean_of(centred, storage)["common_share"] == pytest.approx(0, abs=1e-6)
    assert mean_of(np.ones((2, N, 4)), storage)["common_share"] == pytest.approx(1)
    one_hot = mean_of(np.broadcast_to(np.eye(N), (2, N, N)), storage)
    assert one_hot["common_share"] == pytest.approx(1 / N)


@STORAGE
def test_norms_of_an_even_number_of_tokens_have_their_median_in_the_middle(storage):
    lengths = np.array([1.0, 2.0, 4.0, 64.0])
    result = mean_of(np.broadcast_to(np.diag(lengths), (2, 4, 4)), storage)
    assert result["norm_median"] == 3 and result["norm_max"] == 64


@STORAGE
def test_tokens_of_zero_norm_are_left_out_and_counted(storage):
    tokens = random_tokens()
    tokens[:, :4] = 0
    result, without = mean_of(tokens, storage), mean_of(tokens[:, 4:], storage)
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


@pytest.mark.parametrize("chunks", ODD_CHUNKS)
def test_chunks_and_laziness_change_nothing(chunks):
    dataset = tokens_dataset([random_tokens(seed) for seed in range(3)])
    xr.testing.assert_identical(
        similarity.compute(dataset, bootstrap_samples=5),
        similarity.compute(chunked(dataset, chunks), bootstrap_samples=5),
    )


@pytest.mark.parametrize("numbers", [1, 2 * N * 32, 2**26])
def test_how_many_images_are_in_memory_changes_nothing(numbers, monkeypatch):
    dataset = tokens_dataset([random_tokens(images=7)])
    whole = similarity.compute(dataset, bootstrap_samples=5)
    monkeypatch.setattr(token_batches, "NUMBERS_ON_CPU", numbers)
    xr.testing.assert_allclose(whole, similarity.compute(dataset, bootstrap_samples=5), rtol=1e-12)


def test_what_is_cast_at_a_time_is_bounded():
    tokens = tokens_dataset([random_tokens(images=200)])["tokens"].isel(layer=0)
    parts = list(token_batches.batches(tokens, np.arange(1, N)))
    assert sum(len(x) for x in parts) == 200
    assert max(x.numel() for x in parts) <= token_batches.NUMBERS_ON_CPU


def test_products_in_float32_agree_with_float64_to_what_is_stated():
    tokens = (random_tokens(images=5, channels=384) + 2).astype(np.float32)
    single, double = (mean_of(tokens, storage) for storage in (np.float32, np.float64))
    for name in similarity.VARIABLES:
        assert single[name] == pytest.approx(float(double[name]), rel=1e-5, abs=1e-5), name


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="needs an accelerator")
def test_the_accelerator_agrees_with_the_cpu(monkeypatch):
    dataset = tokens_dataset([random_tokens(images=50, channels=384).astype(np.float16)])
    there = similarity.compute(dataset, bootstrap_samples=5)
    monkeypatch.setattr(token_batches, "float64_device", lambda: torch.device("cpu"))
    here = similarity.compute(dataset, bootstrap_samples=5)
    xr.testing.assert_allclose(there, here, rtol=1e-5, atol=1e-5)


def test_a_number_that_is_not_finite_is_refused_with_its_place():
    tokens = random_tokens(images=5)
    tokens[3, 7, 1] = np.nan
    with pytest.raises(VitalsError, match=r"position.*image-3"):
        similarity.compute(tokens_dataset([random_tokens(images=5), tokens]))


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
