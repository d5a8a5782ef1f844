"""What scrambling is held against, and the nulls that it lacks."""

import numpy as np
import pytest

from scrambled import autoregressive, dataset_of, gaussian, mixed, orthogonal, partly_averaged
from vitals.errors import VitalsError
from vitals.metrics import scrambling
from vitals.metrics.results import absences

IMAGES = 1500


def null_of(embed, *layers, **params):
    return scrambling.compute(dataset_of(embed, *layers), bootstrap_samples=50, **params)


def test_the_noise_of_the_null_leaves_as_much_in_each_token_as_was_measured():
    tokens = autoregressive(400)
    layers = [
        mixed(partly_averaged(share), tokens, orthogonal(6)) + noise * gaussian(400, seed=1)
        for share, noise in ((0.2, 0.0), (0.5, 0.3), (0.9, 2.0))
    ]
    measured, null = null_of(tokens, *layers)["r2_self"].transpose("null", "layer").values
    assert (measured[1:] < 0.99).all()
    assert null == pytest.approx(measured, abs=2e-6)


def test_correlated_tokens_with_noise_are_not_in_excess_of_the_null():
    tokens = autoregressive(IMAGES)
    result = null_of(tokens, tokens + 0.7 * gaussian(IMAGES, seed=1)).isel(layer=1)
    assert result["isi"].sel(null="none") == pytest.approx(0.169, abs=0.015)
    assert result["isi_excess"] == pytest.approx(0, abs=0.006)
    assert result["noise_scale"] == pytest.approx(0.7, abs=0.02)


def test_mixing_of_independent_tokens_is_all_in_excess_of_the_null():
    tokens = gaussian(IMAGES)
    result = null_of(tokens, mixed(partly_averaged(0.7), tokens)).isel(layer=1)
    assert result["isi"].sel(null="noise_matched") == pytest.approx(0, abs=5e-4)
    assert result["isi_excess"] == pytest.approx(0.1955, abs=0.012)


def test_the_noise_is_isotropic_and_its_scale_known_for_independent_tokens():
    tokens = gaussian(IMAGES)
    layer = tokens + 2 * gaussian(IMAGES, seed=1)
    result = null_of(tokens, layer).isel(layer=1)
    r2_self = result["r2_self"].sel(null="none").item()
    assert result["noise_scale"] == pytest.approx(np.sqrt(1 / r2_self - 1), rel=0.02)


@pytest.mark.parametrize("images", [20, 200])
def test_a_tap_that_keeps_everything_has_a_null_without_noise(images):
    result = null_of(gaussian(images)).isel(layer=0)
    assert result["noise_scale"] == 0
    null = result.sel(null="noise_matched")
    assert [float(null[name]) for name in ("r2_self", "r2_all", "isi")] == [1, 1, 0]
    assert result["isi_excess"] == pytest.approx(0, abs=1e-9)


def test_a_tap_that_keeps_nothing_has_noise_alone_as_its_null():
    tokens = gaussian(200)
    result = null_of(tokens, np.roll(tokens, 1, axis=1)).isel(layer=1)
    assert result["r2_self"].sel(null="none") <= 0
    null = result.sel(null="noise_matched")
    assert [float(null[name]) for name in ("r2_self", "r2_all", "isi")] == [0, 0, 0]
    assert result["noise_scale"] == np.inf


def test_another_seed_draws_other_noise_and_the_same_seed_the_same():
    tokens = autoregressive(200)
    layer = tokens + gaussian(200, seed=1)
    first, again, other = (null_of(tokens, layer, seed=seed)["isi_excess"] for seed in (0, 0, 1))
    assert first.identical(again)
    assert not first.equals(other)


def test_without_the_null_the_excess_is_absent_and_says_why():
    tokens = gaussian(60)
    result = null_of(tokens, nulls=("none",))
    assert "isi_excess" not in result and "noise_scale" not in result
    assert "noise_matched" in absences(result)["isi_excess"]


@pytest.mark.parametrize("null", ["patch_shuffled", "attention_off"])
def test_nulls_of_another_forward_pass_are_absent_without_it(null):
    result = null_of(gaussian(60), nulls=("none", null))
    assert result["null"].values.tolist() == ["none"]
    assert "forward pass of its own" in absences(result)[null]


def test_a_null_of_another_forward_pass_is_measured_on_it_by_the_same_code():
    tokens, other = gaussian(200), gaussian(200, seed=3)
    mixing = partly_averaged(0.5)
    variant = dataset_of(other, mixed(mixing, other))
    result = scrambling.compute(
        dataset_of(tokens, mixed(mixing, tokens)),
        nulls=("none", "patch_shuffled"),
        variants={"patch_shuffled": variant},
        bootstrap_samples=50,
    )
    alone = scrambling.compute(variant, nulls=("none",), bootstrap_samples=50).isel(null=0)
    null = result.sel(null="patch_shuffled")
    for name in ("r2_self", "r2_all", "isi", "isi_low", "r2_all_whitened", "total", "penalty"):
        np.testing.assert_array_equal(null[name], alone[name])
    assert not absences(result).get("patch_shuffled")


def test_a_variant_of_other_taps_or_images_is_refused():
    dataset = dataset_of(gaussian(60), gaussian(60, seed=1))
    nulls = ("none", "attention_off")
    for name, other in (
        ("layer", dataset.isel(layer=[0])),
        ("image_id", dataset.isel(image=slice(1, None))),
    ):
        with pytest.raises(
            VitalsError, match=f"'attention_off' differs from the dataset in {name}"
        ):
            scrambling.compute(dataset, nulls=nulls, variants={"attention_off": other})
    with pytest.raises(VitalsError, match="'none'"):
        scrambling.compute(dataset, variants={"none": dataset})


def test_an_unknown_null_is_refused_with_the_nearest_that_is():
    with pytest.raises(VitalsError, match="did you mean 'noise_matched'"):
        null_of(gaussian(60), nulls=("none", "noise-matched"))


def test_nulls_without_the_measurement_are_refused():
    with pytest.raises(VitalsError, match="must hold 'none'"):
        null_of(gaussian(60), nulls=("noise_matched",))
