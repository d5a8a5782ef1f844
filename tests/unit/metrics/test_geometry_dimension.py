"""The known answers of TWO-NN."""

import numpy as np
import pytest

from vitals.metrics import intrinsic_dimension as dimension
from vitals.metrics.bootstrap import image_counts


def cube(dimensions, points=5000, seed=0):
    return np.random.default_rng(seed).uniform(size=(points, dimensions))


@pytest.mark.parametrize(
    ("dimensions", "expected", "deviation"), [(1, 0.98, 0.021), (2, 2.06, 0.039), (5, 4.68, 0.101)]
)
def test_a_uniform_cube_of_5000_points(dimensions, expected, deviation):
    """deviation: of the estimate over such cubes, whose faces cost 5 dimensions a third of one."""
    found = dimension.two_nn(dimension.neighbours(cube(dimensions)).ratios)
    assert found == pytest.approx(expected, abs=3 * deviation)


def test_neither_a_turn_into_many_channels_nor_a_scale_nor_an_offset_changes_it():
    flat = cube(2, points=800)
    basis = np.linalg.qr(np.random.default_rng(1).standard_normal((40, 40)))[0][:2]
    turned = 50 * flat @ basis + 1000
    plain, moved = (dimension.two_nn(dimension.neighbours(x).ratios) for x in (flat, turned))
    assert moved == pytest.approx(plain, rel=1e-6)


def test_ratios_of_the_law_itself_give_its_dimension():
    """F(μ) = 1 − μ^−d, and the largest of 1000, at F = 1, is discarded."""
    share = np.minimum(np.arange(1, 1001), 999) / 1000
    assert dimension.two_nn((1 - share) ** (-1 / 7)) == pytest.approx(7, rel=1e-9)


def test_the_discarded_share_is_left_out_of_the_fit():
    ratios = dimension.neighbours(cube(2, points=1000)).ratios
    spoiled = np.where(ratios >= np.quantile(ratios, 0.95), 1e6, ratios)
    assert dimension.two_nn(spoiled, 0.1) == dimension.two_nn(ratios, 0.1)
    assert dimension.two_nn(spoiled, 0.01) < 0.7 * dimension.two_nn(ratios, 0.01)
    assert np.isfinite(dimension.two_nn(ratios, 0.0))


def test_copies_have_no_ratio_and_the_others_keep_theirs():
    points = np.concatenate([cube(3, points=300), np.full((2, 3), 9.0)])
    found = dimension.neighbours(points)
    assert np.isnan(found.ratios[-2:]).all() and np.isfinite(found.ratios[:-2]).all()
    assert np.isfinite(dimension.two_nn(found.ratios))


@pytest.mark.parametrize("points", [np.full((50, 6), 0.1), cube(3, points=2), cube(3, points=1)])
def test_points_that_are_one_or_fewer_than_three_have_no_dimension(points):
    found = dimension.neighbours(points)
    assert np.isnan(dimension.two_nn(found.ratios))
    counts = image_counts(len(points), 5, seed=0)
    assert np.isnan(dimension.resampled(found, counts)).all()


def test_blocks_of_points_change_nothing(monkeypatch):
    points = cube(4, points=100)
    whole = dimension.neighbours(points)
    monkeypatch.setattr(dimension, "POINTS_PER_BLOCK", 7)
    parts = dimension.neighbours(points)
    np.testing.assert_allclose(parts.ratios, whole.ratios, rtol=1e-9)
    np.testing.assert_array_equal(parts.nearest, whole.nearest)


def test_the_interval_is_as_wide_as_the_estimate_varies():
    counts = image_counts(500, 100, seed=0)
    found = [dimension.neighbours(cube(2, points=500, seed=seed)) for seed in range(60)]
    varies = np.std([dimension.two_nn(of.ratios) for of in found])
    said = np.mean([dimension.resampled(of, counts).std() for of in found])
    assert said == pytest.approx(varies, rel=0.25)
    alone = [dimension.Neighbours(of.ratios, np.arange(500)) for of in found]
    narrow = np.mean([dimension.resampled(of, counts).std() for of in alone])
    assert narrow < 0.85 * said
