"""The known answers of scrambling, at float32 and from float16 storage."""

import numpy as np
import pytest
import torch

from scrambled import (
    CHANNELS,
    TOKENS,
    autoregressive,
    dataset_of,
    gaussian,
    measure,
    mixed,
    orthogonal,
    partly_averaged,
)
from vitals.metrics import scrambling
from vitals.metrics.tap_recovery import rebuilt_from

STORAGE = pytest.mark.parametrize("storage", [np.float32, np.float16])
IMAGES = 1500
SAMPLING = 0.012  # of R² over the 600 test images of 96 numbers each
EXACT = 1e-4  # where nothing is random in the map from Z to X


@STORAGE
def test_tokens_left_as_they_are_are_recovered_from_themselves(storage):
    tokens = gaussian(200)
    assert measure(tokens, tokens, storage=storage) == pytest.approx([1, 1, 0], abs=1e-9)


@STORAGE
def test_permuted_tokens_are_recovered_only_from_all(storage):
    tokens = gaussian(IMAGES)
    permuted = tokens[:, np.roll(np.arange(TOKENS), 5)]
    r2_self, r2_all, isi = measure(tokens, permuted, storage=storage)
    assert r2_self == pytest.approx(0, abs=SAMPLING)
    assert r2_all == pytest.approx(1, abs=EXACT)
    assert isi == pytest.approx(1, abs=SAMPLING)


def test_permuted_tokens_with_turned_channels_are_recovered_too():
    tokens = gaussian(IMAGES)
    moved = mixed(np.roll(np.eye(TOKENS), 3, axis=0), tokens, orthogonal(CHANNELS))
    r2_self, r2_all, _ = measure(tokens, moved)
    assert r2_self == pytest.approx(0, abs=SAMPLING)
    assert r2_all == pytest.approx(1, abs=EXACT)


@STORAGE
def test_total_collapse_leaves_each_arm_one_part_in_n(storage):
    tokens = gaussian(IMAGES)
    collapsed = np.broadcast_to(tokens.mean(axis=1, keepdims=True), tokens.shape)
    r2_self, r2_all, isi = measure(tokens, collapsed, storage=storage)
    assert r2_self == pytest.approx(1 / TOKENS, abs=SAMPLING)
    assert r2_all == pytest.approx(1 / TOKENS, abs=SAMPLING)
    assert isi == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("share", [0.3, 0.7, 0.9])
@STORAGE
def test_partial_collapse_is_undone_from_all_tokens(share, storage):
    tokens, n, a = gaussian(IMAGES), TOKENS, share
    expected = ((1 - a) + a / n) ** 2 / ((1 - a) ** 2 + 2 * a * (1 - a) / n + a**2 / n)
    r2_self, r2_all, _ = measure(tokens, mixed(partly_averaged(a), tokens), storage=storage)
    assert r2_self == pytest.approx(expected, abs=SAMPLING)
    assert r2_all == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0])
@STORAGE
def test_noise_on_independent_tokens_is_no_scrambling(noise, storage):
    tokens = gaussian(IMAGES)
    noisy = tokens + noise * gaussian(IMAGES, seed=1)
    r2_self, r2_all, isi = measure(tokens, noisy, storage=storage)
    assert r2_self == pytest.approx(1 / (1 + noise**2), abs=SAMPLING)
    assert r2_all == pytest.approx(1 / (1 + noise**2), abs=SAMPLING)
    assert isi == pytest.approx(0, abs=5e-4)


@STORAGE
def test_orthogonal_mixing_is_undone_from_all_tokens(storage):
    tokens, mixing = gaussian(IMAGES), orthogonal(TOKENS)
    r2_self, r2_all, _ = measure(tokens, mixed(mixing, tokens), storage=storage)
    assert r2_self == pytest.approx(np.square(np.diag(mixing)).mean(), abs=SAMPLING)
    assert r2_all == pytest.approx(1, abs=EXACT)


@STORAGE
def test_a_strong_own_share_in_orthogonal_mixing_needs_a_share_for_each_position(storage):
    skew = 0.15 * np.triu(np.random.default_rng(2).standard_normal((TOKENS, TOKENS)), 1)
    skew = (skew - skew.T) * np.linspace(0, 2, TOKENS)[:, None] * np.linspace(0, 2, TOKENS)
    eye = np.eye(TOKENS)
    mixing = np.linalg.solve(eye + skew, eye - skew)  # Cayley: orthogonal
    tokens = gaussian(IMAGES)
    r2_self, r2_all, _ = measure(tokens, mixed(mixing, tokens), storage=storage)
    own = np.diag(mixing)
    assert np.square(own).mean() - own.mean() ** 2 > 0.1  # one map for all positions falls short
    assert r2_self == pytest.approx(np.square(own).mean(), abs=SAMPLING)
    assert r2_all == pytest.approx(1, abs=EXACT)


@STORAGE
def test_correlated_tokens_with_noise_help_each_other_without_any_mixing(storage):
    lag = np.abs(np.subtract.outer(np.arange(TOKENS), np.arange(TOKENS)))
    covariance = 0.9**lag
    wiener = covariance @ np.linalg.solve(covariance + 0.49 * np.eye(TOKENS), covariance)
    assert np.trace(wiener) / TOKENS == pytest.approx(0.840, abs=5e-4)
    tokens = autoregressive(2500)
    noisy = tokens + 0.7 * gaussian(2500, seed=1)
    r2_self, r2_all, _ = measure(tokens, noisy, storage=storage)
    assert r2_self == pytest.approx(0.671, abs=SAMPLING)
    assert r2_all == pytest.approx(0.840, abs=SAMPLING)


@STORAGE
def test_the_taps_up_to_the_addition_of_positions_keep_everything(storage):
    """Whether it is tap "position" or, before a norm that follows, "norm_pre"."""
    tokens = autoregressive(300)
    positions = 3 * np.random.default_rng(5).standard_normal((TOKENS, CHANNELS))
    result = scrambling.compute(
        dataset_of(tokens, tokens + positions, storage=storage), bootstrap_samples=5
    )
    for name, expected in {"r2_self": 1, "r2_all": 1, "isi": 0, "isi_excess": 0}.items():
        assert result[name].values == pytest.approx(expected, abs=2e-6)


def test_a_context_fitted_once_on_the_self_residual_falls_short_of_the_truth():
    mixing = partly_averaged(0.7)
    self_map = np.trace(mixing) / np.square(mixing).sum()
    gram = mixing @ mixing.T
    residual = (np.eye(TOKENS) - self_map * mixing) @ mixing.T  # residual of i times token j
    others = [np.delete(np.arange(TOKENS), i) for i in range(TOKENS)]
    once = [
        residual[i, o] @ np.linalg.solve(gram[np.ix_(o, o)], residual[i, o])
        for i, o in enumerate(others)
    ]
    assert np.mean(once) == pytest.approx(0.129, abs=0.003)
    tokens = gaussian(IMAGES)
    *_, isi = measure(tokens, mixed(mixing, tokens))
    assert isi == pytest.approx(0.1955, abs=SAMPLING)


def test_few_images_do_not_make_scrambling_negative_where_there_is_none():
    """Where a full ridge from all tokens to all tokens gives an index of about −0.6."""
    tokens, noise = gaussian(50), gaussian(50, seed=1)
    noisy = tokens + 0.7 * noise
    naive = _naive_full_ridge(tokens, noisy, fit=30)
    r2_self, _, isi = measure(tokens, noisy)
    assert naive - r2_self < -0.5
    assert isi >= -0.01


@pytest.mark.parametrize("channels", [6, 24])
@pytest.mark.parametrize("images", [20, 60])
def test_fewer_images_than_channels_do_not_cost_more_than_a_hundredth(images, channels):
    tokens = gaussian(images, channels=channels)
    noisy = tokens + 0.7 * gaussian(images, seed=1, channels=channels)
    *_, isi = measure(tokens, noisy)
    assert -0.01 <= isi <= 0.01


def test_a_small_problem_agrees_with_the_exact_map_from_all_to_all():
    tokens = autoregressive(3000, tokens=4, channels=3)
    layer = mixed(partly_averaged(0.4, 4), tokens) + 0.5 * gaussian(3000, 1, 4, 3)
    _, r2_all, _ = measure(tokens, layer)
    assert r2_all == pytest.approx(_naive_full_ridge(tokens, layer, fit=1800), abs=0.003)


def test_two_pairs_recover_what_one_cannot():
    tokens = gaussian(IMAGES, tokens=6, channels=6)
    inverses = [orthogonal(6, seed) for seed in range(4)]
    # Z = X W_0 + M_1 X W_1 + M_2 X W_2 holds exactly for X the inverse of that map
    one, two = (np.kron(inverses[i], inverses[i + 2].T) for i in range(2))
    undo = 0.5 * np.eye(36) + one + 0.8 * two
    layer = np.linalg.solve(undo, tokens.reshape(IMAGES, 36).T).T.reshape(tokens.shape)
    r2_all = [measure(tokens, layer, rank=rank, sweeps=400)[1] for rank in (1, 2)]
    assert r2_all[0] < 0.97
    assert r2_all[1] == pytest.approx(1, abs=1e-3)


def _naive_full_ridge(targets, inputs, fit):
    """R² on the images after `fit` of a dual ridge map of all tokens to all tokens."""
    x, z = (values.reshape(len(values), -1) for values in (inputs, targets))
    x, z = x - x[:fit].mean(axis=0), z - z[:fit].mean(axis=0)
    kernel = x[:fit] @ x[:fit].T
    weights = np.linalg.solve(kernel + 1e-6 * np.trace(kernel) / fit * np.eye(fit), z[:fit])
    errors = z[fit:] - x[fit:] @ (x[:fit].T @ weights)
    return 1 - np.square(errors).sum() / np.square(z[fit:]).sum()


@pytest.mark.parametrize(
    ("variances", "first"),
    [
        ([1e-9, 1e-8, 1.0, 2.0], 2),
        ([1e-5, 1e-4, 1.0, 2.0], 0),  # little, and yet no rounding
        ([1.1e-7] * 100 + [1.0], 9),  # together they would be more than a millionth
        ([0.0, 0.0, 0.0], 0),
    ],
)
def test_what_is_rounding_of_the_embedding_is_not_rebuilt(variances, first):
    assert rebuilt_from(torch.tensor(variances, dtype=torch.float64)) == first
