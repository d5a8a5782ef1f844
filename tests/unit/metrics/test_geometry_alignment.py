"""The known answers of linear CKA with the unbiased HSIC, streamed."""

import numpy as np
import pytest

from vitals.metrics import bootstrap
from vitals.metrics.kernel_alignment import alignment


def streamed(taps, size=32):
    taps = np.asarray(taps)
    return alignment(lambda: (taps[:, i : i + size] for i in range(0, taps.shape[1], size)))


def gaussians(images, channels, taps, seed=0):
    return np.random.default_rng(seed).standard_normal((taps, images, channels))


def related(images, channels, noise, seed=0):
    x, extra = gaussians(images, channels, 2, seed)
    return np.stack([x, x + noise * extra])


def by_kernels(x, y):
    """HSIC_1 from the kernels themselves, (image, image)."""
    n, one = len(x), np.ones(len(x))
    k, l_ = ((z - z.mean(axis=0)) @ (z - z.mean(axis=0)).T for z in (x, y))
    np.fill_diagonal(k, 0), np.fill_diagonal(l_, 0)
    pairs = (one @ k @ one) * (one @ l_ @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ l_) + pairs - 2 / (n - 2) * one @ k @ l_ @ one) / (n * (n - 3))


def cka_by_kernels(x, y):
    return by_kernels(x, y) / np.sqrt(by_kernels(x, x) * by_kernels(y, y))


def test_a_turn_a_scale_and_an_offset_leave_one():
    x = gaussians(100, 12, 1)[0]
    turn = np.linalg.qr(gaussians(12, 12, 1, seed=1)[0])[0]
    np.testing.assert_allclose(streamed([x, 3 * x @ turn + 1]).cka, 1, atol=1e-12)


def test_independent_gaussians_are_near_zero_where_the_biased_estimate_is_not():
    values = [streamed(gaussians(100, 60, 2, seed)).cka[0, 1] for seed in range(20)]
    assert np.mean(values) == pytest.approx(0, abs=0.01)
    x, y = (z - z.mean(axis=0) for z in gaussians(100, 60, 2))
    biased = np.square(x.T @ y).sum() / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
    assert biased > 0.3


@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0])
def test_noise_of_variance_v_leaves_one_over_one_plus_v(noise):
    """HSIC of X with X + σE is ‖Σ‖², that of X + σE with itself (1 + σ²)²‖Σ‖²."""
    found = streamed(related(20000, 6, noise)).cka[0, 1]
    assert found == pytest.approx(1 / (1 + noise**2), abs=0.01)


@pytest.mark.parametrize("size", [1, 7, 60])
@pytest.mark.parametrize("offset", [0, 1000])
def test_it_is_that_of_the_kernels_for_any_blocks_and_offset(size, offset):
    taps = [*related(60, 9, 1.0), *gaussians(60, 9, 1, seed=1)]
    expected = [[cka_by_kernels(x, y) for y in taps] for x in taps]
    found = streamed(np.asarray(taps) + offset, size)
    np.testing.assert_allclose(found.cka, expected, atol=1e-9)


def test_the_mean_over_minibatches_is_another_number():
    """Few images of unequal size in a batch: a ratio of means is not a mean of ratios."""
    taps = related(640, 16, 1.0) * np.random.default_rng(3).gamma(0.5, size=640)[:, None]
    whole = streamed(taps).cka[0, 1]
    assert whole == pytest.approx(cka_by_kernels(*taps), abs=1e-9)
    batches = [streamed(taps[:, i : i + 8]).cka[0, 1] for i in range(0, 640, 8)]
    assert abs(np.nanmean(batches) - whole) > 0.03


def test_without_each_image_it_is_that_of_the_others():
    taps = [*related(20, 5, 1.0), *gaussians(20, 5, 1, seed=1)]
    found = streamed(np.asarray(taps) + 10).cka_without
    for image in range(20):
        rest = np.delete(taps, image, axis=1)
        expected = [[cka_by_kernels(x, y) for y in rest] for x in rest]
        np.testing.assert_allclose(found[..., image], expected, atol=1e-9)


def test_the_pseudo_values_vary_as_the_estimate_does():
    found = [streamed(related(80, 6, 1.5, seed)) for seed in range(100)]
    varies = np.std([of.cka[0, 1] for of in found])
    counts = bootstrap.image_counts(80, 200, seed=0)
    said = np.mean([(counts @ of.pseudo_values(0)[1] / 80).std() for of in found])
    assert said == pytest.approx(varies, rel=0.25)


def test_a_feature_that_is_the_same_for_every_image_has_no_alignment():
    taps = np.stack([np.full((30, 4), 0.1), *gaussians(30, 4, 2)])
    found = streamed(taps)
    assert np.isnan(found.cka[0]).all() and np.isnan(found.cka[:, 0]).all()
    assert np.isfinite(found.cka[1:, 1:]).all() and np.isfinite(found.pseudo_values(1)[1:]).all()
