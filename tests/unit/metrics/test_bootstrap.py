"""Resamples of images: the same for all who ask, and without those that are not defined."""

import numpy as np
import pytest
import xarray as xr

from vitals.metrics import bootstrap


def test_the_resamples_are_drawn_once_and_cannot_be_written_to():
    counts = bootstrap.image_counts(20, 7, 3)
    assert bootstrap.image_counts(20, 7, 3) is counts
    with pytest.raises(ValueError, match="read-only"):
        counts[0, 0] = 1
    assert not np.array_equal(bootstrap.image_counts(20, 7, 4), counts)
    assert counts.shape == (7, 20) and (counts.sum(axis=1) == 20).all()


@pytest.mark.parametrize("samples", [1, 127, 128, 129, 300])
def test_a_resampled_mean_is_that_of_the_images_drawn(samples):
    values = xr.DataArray(
        np.random.default_rng(0).standard_normal((3, 20)), dims=("layer", "image")
    )
    counts = bootstrap.image_counts(20, samples, seed=0)
    found = bootstrap.mean_draws(values, samples, seed=0)
    assert found.dims == ("layer", "draw")
    expected = [[np.repeat(row, count).mean() for count in counts] for row in values.values]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_an_image_that_is_not_defined_takes_no_part():
    values = np.random.default_rng(0).standard_normal((2, 20))
    values[0, :5] = np.nan
    values[1] = np.nan
    counts = bootstrap.image_counts(20, 50, seed=0)
    found = bootstrap.mean_draws(xr.DataArray(values, dims=("layer", "image")), 50, seed=0)
    expected = [np.repeat(values[0, 5:], count[5:]).mean() for count in counts]
    np.testing.assert_allclose(found[0], expected, atol=1e-12)
    assert np.isnan(found[1]).all()


def test_the_ends_of_an_interval_are_percentiles_of_the_draws_that_are_defined():
    draws = np.tile(np.arange(201.0), (3, 1))
    draws[1, 101:] = np.nan
    draws[2] = np.nan
    low, high = bootstrap.bounds(xr.DataArray(draws, dims=("layer", "draw")))
    np.testing.assert_allclose(low, [5, 2.5, np.nan])
    np.testing.assert_allclose(high, [195, 97.5, np.nan])
    low, high = bootstrap.bounds(xr.DataArray(draws[0], dims="draw"))
    assert (float(low), float(high)) == pytest.approx((5, 195))


def bands(points, correlated, seed, images=100):
    """Whether the pointwise interval and the band of a curve that is 0 hold all of it."""
    generator = np.random.default_rng(seed)
    size = (1 if correlated else points, images)
    values = np.broadcast_to(generator.standard_normal(size), (points, images))
    values = xr.DataArray(values * np.arange(1, points + 1)[:, None], dims=("depth", "image"))
    draws = bootstrap.mean_draws(values, 400, seed=0)
    mean = values.mean("image")
    pairs = bootstrap.bounds(draws), bootstrap.simultaneous_bounds(mean, draws, "depth")
    return [bool(((low <= 0) & (high >= 0)).all()) for low, high in pairs]


def test_a_band_holds_the_whole_curve_and_pointwise_intervals_do_not():
    pointwise, band = np.mean([bands(20, False, seed) for seed in range(150)], axis=0)
    assert pointwise == pytest.approx(0.95**20, abs=0.15) and band == pytest.approx(0.95, abs=0.06)


def test_a_band_of_points_that_move_together_is_no_wider_than_that_of_one():
    pointwise, band = np.mean([bands(20, True, seed) for seed in range(150)], axis=0)
    assert band == pytest.approx(0.95, abs=0.06) and band == pytest.approx(pointwise, abs=0.03)


def test_a_band_is_nowhere_narrower_than_the_interval_of_a_point():
    """Draws that are skewed, and draws kept in fewer digits than the value, which do not vary."""
    draws = np.random.default_rng(0).exponential(size=(2, 500)) ** 3
    draws[1] = 0
    draws = xr.DataArray(draws, dims=("depth", "draw"))
    values = xr.DataArray([1.0, 1e-14], dims="depth")
    low, high = bootstrap.simultaneous_bounds(values, draws, "depth")
    point_low, point_high = bootstrap.bounds(draws)
    assert (low <= point_low).all() and (high >= point_high).all()
    assert low[1] == 0


def test_a_point_that_does_not_vary_leaves_the_band_of_the_others_as_it_is():
    draws = xr.DataArray(np.random.default_rng(0).standard_normal((2, 3, 500)), dims=tuple("abc"))
    draws = draws.rename(b="depth", c="draw")
    values = draws.mean("draw") * 0
    alone = bootstrap.simultaneous_bounds(values, draws, "depth")
    constant = xr.full_like(draws[:, :1], 0.3) + 1e-17 * draws[:, :1]
    further = xr.concat([draws, constant, constant * np.nan], "depth")
    value = xr.concat([values, values[:, :1] + 0.3, values[:, :1]], "depth")
    for bound, expected in zip(
        bootstrap.simultaneous_bounds(value, further, "depth"), alone, strict=True
    ):
        xr.testing.assert_allclose(bound[:, :3], expected)
        np.testing.assert_allclose(bound[:, 3], 0.3, atol=1e-12)
        assert np.isnan(bound[:, 4]).all()
