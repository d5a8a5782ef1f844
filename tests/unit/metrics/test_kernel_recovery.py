"""The exact linear map: against the primal, against known shares, and against the small family."""

import numpy as np
import pytest

from scrambled import autoregressive, gaussian, measure, mixed, orthogonal, partly_averaged
from vitals.errors import VitalsError
from vitals.metrics import kernel_recovery
from vitals.metrics.kernel_recovery import recover


def split(x, z, fit=0.6):
    fitted = int(fit * len(x))
    return x[:fitted], z[:fitted], x[fitted:], z[fitted:]


def both(x, z, fit=0.6, **params):
    """R² from the same token and from all tokens."""
    return [recover(*split(x, z, fit), tokens, **params).r2 for tokens in ("same", "all")]


def primal(x, z, x_test, penalty):
    """Ridge regression with an intercept, by normal equations of (feature, feature)."""
    x_mean, z_mean = x.mean(axis=0), z.mean(axis=0)
    x, z = x - x_mean, z - z_mean
    ridge = penalty * np.linalg.eigvalsh(x @ x.T).mean()
    return z_mean + (x_test - x_mean) @ np.linalg.solve(
        x.T @ x + ridge * np.eye(x.shape[1]), x.T @ z
    )


def noisy(images, sigma, seed=0, **shape):
    z = gaussian(images, seed, **shape)
    return z + sigma * gaussian(images, seed + 1, **shape), z


@pytest.mark.parametrize("penalty", [1e-4, 1e-1, 10.0])
@pytest.mark.parametrize("images", [40, 200])  # fewer and more fit images than features
@pytest.mark.parametrize("offset", [0, 100])
def test_it_is_the_primal_ridge(penalty, images, offset):
    x, z = noisy(images, 0.1, tokens=5, channels=6)
    x, z = x + offset, z[..., :4] - offset
    parts = split(x, z)
    found = recover(*parts, "all", penalties=[penalty])
    flat = [part.reshape(len(part), -1) for part in parts]
    expected = np.square(flat[3] - primal(*flat[:3], penalty)).sum(axis=1)
    np.testing.assert_allclose(found.error, expected, rtol=1e-8)
    total = np.square(flat[3] - flat[1].mean(axis=0)).sum(axis=1)
    np.testing.assert_allclose(found.total, total, rtol=1e-12)


def test_from_the_same_token_it_is_the_primal_ridge_of_each_position():
    x, z = noisy(80, 0.7, tokens=3, channels=6)
    parts = split(x * np.array([1, 5, 0.2])[:, None], z)
    found = recover(*parts, "same", penalties=[0.01])
    expected = sum(
        np.square(parts[3][:, t] - primal(*(p[:, t] for p in parts[:3]), 0.01)).sum(axis=1)
        for t in range(3)
    )
    np.testing.assert_allclose(found.error, expected, rtol=1e-8)


@pytest.mark.parametrize("penalty", [1e-3, 1.0, np.inf])
def test_what_is_left_out_is_rebuilt_by_a_fit_without_it(penalty):
    """Refitted without each fold, at the same λ, from the one decomposition of all images."""
    x, z = (part.reshape(30, -1) for part in noisy(30, 0.7, tokens=4, channels=5))
    problem = kernel_recovery._Problem(x, z, x, z)
    folds = np.array_split(np.random.default_rng(1).permutation(30), 4)
    expected = 0.0
    for fold in folds:
        rest = np.setdiff1d(np.arange(30), fold)
        if np.isinf(penalty):
            rebuilt = z[rest].mean(axis=0)
        else:
            own = np.linalg.eigvalsh((x[rest] - x[rest].mean(0)) @ (x[rest] - x[rest].mean(0)).T)
            rebuilt = primal(x[rest], z[rest], x[fold], penalty * problem.scale / own.mean())
        expected += np.square(z[fold] - rebuilt).sum()
    assert problem.cross_validated(penalty, folds) == pytest.approx(expected, rel=1e-9)


def test_the_identity_is_recovered_from_the_same_token():
    z = gaussian(300, tokens=4, channels=6)
    assert both(z, z) == pytest.approx([1, 1], abs=1e-9)


def test_a_permutation_is_recovered_from_all_tokens_alone():
    z = gaussian(300, tokens=4, channels=6)
    same, everything = both(z[:, [2, 3, 1, 0]], z)
    assert everything == pytest.approx(1, abs=1e-9) and same == pytest.approx(0, abs=1e-9)


def test_an_orthogonal_mixing_is_recovered_from_all_tokens_and_in_part_from_the_same():
    z, mixing = gaussian(800, tokens=6, channels=3), orthogonal(6)
    same, everything = both(mixed(mixing, z), z)
    assert everything == pytest.approx(1, abs=1e-9)
    assert same == pytest.approx(np.square(np.diagonal(mixing)).mean(), abs=0.04)


def test_noise_of_variance_v_leaves_one_over_one_plus_v():
    x, z = noisy(800, 0.7, tokens=4, channels=2)
    assert both(x, z) == pytest.approx(2 * [1 / (1 + 0.49)], abs=0.02)


def test_hardly_penalised_it_is_far_below_nothing_where_images_are_few():
    """About as many fit images as features, all noise: what fits them by heart is worse than 0."""
    x, z = noisy(170, 1.0, tokens=12, channels=8)
    hardly = 1e-4  # of the mean eigenvalue: the smallest is not lost in rounding
    naive = recover(*split(x, z), "all", penalties=[hardly]).penalty
    assert np.isinf(naive)  # cross-validation would rather have the mean, by a factor of 3
    fitted = split(x, z)
    flat = [part.reshape(len(part), -1) for part in fitted]
    by_heart = np.square(flat[3] - primal(*flat[:3], hardly)).sum()
    assert 1 - by_heart / np.square(flat[3]).sum() < -1
    same, everything = both(x, z)
    assert 0 < everything < same < 0.5 + 0.05  # the truth is a half for both


@pytest.mark.parametrize("storage", [np.float32, np.float16])
def test_stored_in_fewer_digits_the_shares_are_the_same(storage):
    x, z = noisy(300, 0.7, tokens=4, channels=6)
    stored = both((x + 3).astype(storage), (z - 3).astype(storage))
    assert stored == pytest.approx(both(x, z), abs=2e-3)


def test_the_folds_are_dealt_by_the_seed_and_the_result_is_the_same_again():
    x, z = noisy(60, 1.0, tokens=6, channels=4)
    first, again = (recover(*split(x, z), "all", seed=3) for _ in range(2))
    assert first.penalty == again.penalty and np.array_equal(first.error, again.error)


def test_tokens_that_are_the_same_in_every_image_give_nothing():
    z = gaussian(40, tokens=4, channels=3)
    for tokens in ("same", "all"):
        found = recover(*split(np.ones_like(z), z), tokens)
        assert found.r2 == pytest.approx(1 - 1, abs=1e-9) and np.isinf(found.penalty)


@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_of_noise_the_small_family_of_scrambling_finds_the_same(sigma):
    """Of its 8·8 unknowns a row the exact map pays for each, (1 − R²)·8/480; the family hardly."""
    x, z = noisy(800, sigma, tokens=4, channels=2)
    exact = recover(*split(x, z), "all").r2
    assert measure(z, x)[1] == pytest.approx(exact, abs=0.02)


def test_of_mixed_tokens_the_small_family_of_scrambling_finds_the_same():
    z = gaussian(600, tokens=6, channels=3)
    x = mixed(orthogonal(6), z, orthogonal(3, seed=2))
    assert measure(z, x)[1] == pytest.approx(recover(*split(x, z), "all").r2, abs=1e-3)


def test_of_averaged_tokens_with_noise_the_small_family_of_scrambling_finds_the_same():
    shape = {"tokens": 4, "channels": 2}
    z = autoregressive(800, **shape)
    x = mixed(partly_averaged(0.5, 4), z) + 0.5 * gaussian(800, seed=4, **shape)
    exact = recover(*split(x, z), "all").r2
    assert measure(z, x)[1] == pytest.approx(exact, abs=0.02)


def test_what_cannot_be_is_refused():
    z = gaussian(30, tokens=4, channels=3)
    for penalties in ([], [0.0], [np.inf]):
        with pytest.raises(VitalsError, match="positive and finite"):
            recover(*split(z, z), "all", penalties=penalties)
    with pytest.raises(VitalsError, match=r"10 folds need at least 20 fit images.*found 18"):
        recover(*split(z, z), "all", folds=10)
    with pytest.raises(VitalsError, match="unknown kind of tokens 'own'"):
        recover(*split(z, z), "own")
