"""The known answers of the phases of token similarity over depth."""

import numpy as np
import pytest
import xarray as xr

from activation_datasets import ODD_CHUNKS, chunked, computed, every_tap, layer_names
from vitals.errors import VitalsError
from vitals.metrics import phases
from vitals.metrics.results import absences

DEPTH = np.arange(26.0)
INTERVALS = [
    "cliff_end",
    "climb_start",
    "slope_cliff",
    "slope_plateau",
    "slope_climb",
    "cliff_depth",
    "plateau_length",
    "plateau_length_relative",
    "plateau_length_threshold",
]


def known_curve(depth):
    return 0.02 - 0.022 * np.minimum(depth, 1) + 0.03 * np.maximum(depth - 15, 0)


def similarity(values, names=None, depth=None):
    """A result of similarity, from a mean curve (layer) or from images (layer, image)."""
    values = np.asarray(values)
    names = names or layer_names(len(values))
    depth = np.arange(len(values)) if depth is None else depth
    return xr.Dataset(
        {"centered_cosine": (("layer", "image")[: values.ndim], values)},
        coords={"layer": names, "depth": ("layer", depth)},
    )


CURVE = known_curve(DEPTH)


def of_images(curve, noise, images=40, seed=0):
    generator = np.random.default_rng(seed)
    return similarity(curve[:, None] + noise * generator.standard_normal((len(curve), images)))


def pieces(curve):
    return phases.compute(similarity(curve))["pieces"].item()


def assert_known_answer(result, tolerance):
    assert result["cliff_end"] == 1 and result["climb_start"] == 15
    assert result["slope_cliff"] == pytest.approx(-0.022, abs=tolerance)
    assert result["slope_plateau"] == pytest.approx(0, abs=tolerance)
    assert result["slope_climb"] == pytest.approx(0.03, abs=tolerance)
    assert result["cliff_depth"] == pytest.approx(0.022, abs=tolerance)
    assert result["plateau_length"] == 14
    assert result["plateau_length_relative"] == 14 / 25
    assert result["pieces"] == 3


def test_the_known_curve_gives_its_knots_and_slopes():
    result = phases.compute(similarity(CURVE))
    assert_known_answer(result, 1e-12)
    np.testing.assert_allclose(result["fit"], CURVE, atol=1e-12)
    assert result["residual_rms"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("storage", "tolerance"), [(np.float32, 1e-6), (np.float16, 1e-3)])
def test_the_known_curve_survives_storage(storage, tolerance):
    images = similarity((CURVE[:, None] * np.ones(8)).astype(storage))
    assert_known_answer(computed(phases.compute, images, bootstrap_samples=20), tolerance)


@pytest.mark.parametrize("chunks", ODD_CHUNKS)
def test_chunks_and_laziness_change_nothing(chunks):
    dataset = of_images(CURVE, 0.01)
    whole, parts = (
        phases.compute(d, bootstrap_samples=20) for d in (dataset, chunked(dataset, chunks))
    )
    xr.testing.assert_identical(whole, parts)


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
@pytest.mark.parametrize("offset", [0.0, 0.9])
def test_a_straight_line_is_one_piece_though_every_fit_is_exact(scale, offset):
    assert pieces(scale * (offset + 0.01 * DEPTH)) == 1


@pytest.mark.parametrize("value", [0.0, 0.1, -1 / 195])
def test_a_constant_is_one_piece(value):
    assert pieces(np.full(26, value)) == 1


@pytest.mark.parametrize("vertex", [1, 2, 10, 20.25])
def test_a_v_is_two_pieces_though_three_fit_it_exactly_too(vertex):
    assert pieces(np.abs(DEPTH - vertex)) == 2


def test_noise_on_a_line_a_v_and_three_phases_leaves_their_pieces():
    generator = np.random.default_rng(0)
    noise = 0.002 * generator.standard_normal((100, 26))
    for curve, expected in [(0.01 * DEPTH, 1), (0.03 * abs(DEPTH - 10), 2), (CURVE, 3)]:
        found = [pieces(curve + n) for n in noise]
        assert np.mean(np.equal(found, expected)) > 0.8  # .90 of a thousand noisy lines


def test_noise_over_images_leaves_the_knots_and_the_intervals_hold_them():
    result = phases.compute(of_images(CURVE, 0.01))
    for name, truth in [("cliff_end", 1), ("climb_start", 15), ("slope_climb", 0.03)]:
        assert result[name] == pytest.approx(truth, abs=0.5 if truth >= 1 else 1e-3)
        assert result[f"{name}_low"] <= truth <= result[f"{name}_high"]
    assert result["pieces_share"].sel(piece_count=3) > 0.9
    assert result["pieces_share"].sum() == pytest.approx(1)


def test_the_search_finds_the_least_squares_of_every_pair_of_knots():
    curve = np.random.default_rng(3).standard_normal(9)
    t = np.arange(9.0)
    residuals = {}
    for first in np.arange(1, 3.01, 0.25):
        for second in np.arange(first + 1, 7.01, 0.25):
            hinges = [np.maximum(t - knot, 0) for knot in (first, second)]
            basis = np.stack([np.ones(9), t, *hinges], axis=1)
            fitted = basis @ np.linalg.lstsq(basis, curve)[0]
            residuals[first, second] = np.square(curve - fitted).sum()
    best = min(residuals, key=residuals.get)
    result = phases.compute(similarity(curve))
    assert (result["cliff_end"], result["climb_start"]) == best
    assert result["residual_rms"] ** 2 * 9 == pytest.approx(residuals[best])


def test_where_a_cliff_or_a_climb_is_absent_the_plateau_has_its_room():
    fall = phases.compute(similarity(-np.minimum(DEPTH, 1)))
    assert (fall["cliff_end"], fall["climb_start"]) == (1, 24)
    rise = phases.compute(similarity(np.maximum(DEPTH - 15, 0)))
    assert (rise["cliff_end"], rise["climb_start"]) == (1, 15)


def test_the_final_norm_takes_no_part():
    names = [*layer_names(26), "norm"]
    with_norm = phases.compute(similarity([*CURVE, 5.0], names))
    xr.testing.assert_allclose(with_norm, phases.compute(similarity(CURVE)))


def test_without_layer_names_or_depth_the_taps_count_from_zero():
    result = phases.compute(xr.Dataset({"centered_cosine": ("layer", CURVE)}))
    assert_known_answer(result, 1e-12)


def test_a_model_without_a_position_tap_has_no_cliff_depth():
    names = ["embed", *(f"block.{i}" for i in range(25))]
    result = phases.compute(similarity(CURVE, names))
    assert "cliff_depth" not in result
    assert "no tap 'position'" in absences(result)["cliff_depth"]


def test_taps_within_blocks_stand_at_their_depth_and_change_no_answer():
    names, depth = every_tap(24)
    values = [*known_curve(depth[:-1]), 5.0]  # "norm" takes no part
    result = phases.compute(similarity(values, names, depth))
    assert_known_answer(result, 1e-12)
    np.testing.assert_allclose(result["fit"], values[:-1], atol=1e-12)


def test_the_cliff_lies_between_embed_and_position_by_name():
    names, depth = every_tap(4, final_norm=False)
    values = np.zeros(len(names))
    values[:3] = 0.5, 0.2, 0.1  # before the norm, similarity has fallen by 0.3 only
    assert phases.compute(similarity(values, names, depth))["cliff_depth"] == pytest.approx(0.4)


def test_a_model_that_adds_no_positions_has_a_cliff_of_depth_zero():
    curve = [0.3, 0.3, 0.2, 0.1, 0.1, 0.2]  # rotary positions: both taps are one state
    assert phases.compute(similarity(curve))["cliff_depth"] == 0


def test_the_longest_run_is_of_taps_within_a_share_of_the_range():
    curve = [1.0, 0.0, 0.05, 0.3, 0.1, 0.1, 0.0, 0.9]  # within .1: taps 1-2 and 4-6
    runs = phases.compute(similarity(curve))["plateau_length_threshold"]
    assert runs.sel(threshold=0.05) == 2
    assert runs.sel(threshold=0.1) == 3
    assert runs.sel(threshold=0.2) == 3


def test_the_longest_run_is_in_layers_where_taps_are_nearer_than_a_layer():
    depth = [0, 0.5, 1, 2, 3, 4]
    names = ["embed", "norm_pre", "position", "block.0", "block.1", "block.2"]
    result = phases.compute(similarity([1, 0, 0, 0, 1, 1], names, depth))
    # from .25, half way to embed, to 2.5, half way to block 1
    assert (result["plateau_length_threshold"] == 2.25).all()
    assert result["plateau_length_threshold"].attrs["units"] == "layers"


def test_the_longest_run_does_not_depend_on_the_offset_or_scale_of_the_curve():
    curve = np.random.default_rng(0).standard_normal(12)
    plain, moved = (phases.compute(similarity(c)) for c in (curve, 3 * curve + 7))
    xr.testing.assert_equal(plain["plateau_length_threshold"], moved["plateau_length_threshold"])


def test_a_mean_curve_has_no_interval_and_says_so():
    result = phases.compute(similarity(CURVE))
    assert "images" in absences(result)["interval"]
    assert not [name for name in result if name.endswith(("_low", "_high", "_draws"))]


def test_every_headline_has_an_interval_and_draws():
    result = phases.compute(of_images(CURVE, 0.01), bootstrap_samples=30)
    for name in INTERVALS:
        assert result[f"{name}_draws"].sizes["draw"] == 30
        assert (result[f"{name}_low"] <= result[f"{name}_high"]).all()


def test_the_fit_has_an_interval_over_depth():
    result = phases.compute(of_images(CURVE, 0.05), bootstrap_samples=200)
    assert result["fit_low"].dims == ("layer",) and "fit_draws" not in result
    assert (result["fit_low"] < result["fit"]).all() and (result["fit"] < result["fit_high"]).all()


def test_draws_of_two_models_over_the_same_images_are_paired():
    dataset = of_images(CURVE, 0.05)
    doubled = dataset.assign(centered_cosine=2 * dataset["centered_cosine"] + 1)
    one, two = (phases.compute(d, bootstrap_samples=50) for d in (dataset, doubled))
    assert one["climb_start_draws"].std() > 0
    xr.testing.assert_equal(one["climb_start_draws"], two["climb_start_draws"])


def test_six_taps_are_fitted_but_cannot_support_three_pieces():
    result = phases.compute(similarity([0.02, -0.002, -0.002, -0.002, 0.1, 0.2]))
    assert (result["cliff_end"], result["climb_start"]) == (1, 3)
    assert result["bic"]["piece_count"].values.tolist() == [1, 2]  # 6 parameters would fit anything


def test_fewer_than_five_taps_are_absent_with_a_reason():
    result = phases.compute(similarity(CURVE[:4]))
    assert not result.data_vars
    assert "at least 5 taps, found 4" in absences(result)["phases"]


def test_taps_too_near_for_two_knots_are_absent_with_a_reason():
    names = ["embed", "norm_pre", "position", "block.0.attention", "block.0"]
    depth = [0, 0.25, 0.5, 0.75, 1]
    result = phases.compute(similarity(CURVE[:5], names, depth))
    assert not result.data_vars
    assert "two knots, a layer apart, do not fit" in absences(result)["phases"]


def test_a_tap_where_no_image_has_a_cosine_is_absent_with_a_reason():
    dataset = of_images(CURVE, 0.01)
    dataset["centered_cosine"][0] = np.nan
    assert "not defined" in absences(phases.compute(dataset, bootstrap_samples=5))["phases"]


def test_an_image_without_a_cosine_takes_no_part():
    dataset = of_images(CURVE, 0.0)
    dataset["centered_cosine"][3, 0] = np.nan
    assert_known_answer(phases.compute(dataset, bootstrap_samples=5), 1e-12)


def test_a_missing_curve_and_a_depth_out_of_order_are_refused():
    with pytest.raises(VitalsError, match="lacks centered_cosine"):
        phases.compute(xr.Dataset())
    shuffled = similarity(CURVE).assign_coords(depth=("layer", DEPTH[::-1]))
    with pytest.raises(VitalsError, match="depth that increases"):
        phases.compute(shuffled)
