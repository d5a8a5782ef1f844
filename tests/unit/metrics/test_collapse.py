"""The known answers of neural collapse, and the traps of its formulas."""

import warnings

import numpy as np
import pytest
import xarray as xr

from activation_datasets import every_tap, pooled_dataset
from collapse_features import (
    CHUNKED,
    EACH,
    QUICK,
    RADIUS,
    SIGMA,
    STORAGE,
    TOLERANCE,
    C,
    D,
    collapsed,
    exact_noise,
    halves,
    of,
    rotation,
    simplex,
)
from vitals.errors import VitalsError
from vitals.metrics import class_regime, class_spectrum, collapse
from vitals.metrics.class_collapse import Resampling, TapFeature
from vitals.metrics.class_resamples import stratified_counts
from vitals.metrics.results import absences


@STORAGE
@CHUNKED
def test_a_simplex_with_isotropic_noise(storage, chunks):
    result = of(*collapsed(), storage, chunks=chunks)
    assert result["nc1_pinv"] == pytest.approx(0.5013889, rel=TOLERANCE[storage] + 1e-7)
    assert result["nc1_cdnv"] == pytest.approx(0.8444444, rel=TOLERANCE[storage] + 1e-7)
    noise_of_means = D * SIGMA**2 / EACH
    assert result["nc1_quotient"] == pytest.approx(
        D * SIGMA**2 / (RADIUS**2 - noise_of_means), rel=TOLERANCE[storage]
    )
    for name in ("nc2_equinorm", "nc2_equiangular", "nc2_etf_gap", "nc2_etf_excess"):
        assert result[name] == pytest.approx(0, abs=10 * TOLERANCE[storage])


@STORAGE
@CHUNKED
def test_the_quotient_is_that_of_the_population_whose_means_were_sampled(storage, chunks):
    """The noise of each class mean, of energy Dσ²/n, lies across the simplex and is taken off."""
    signal, noise = np.split(rotation()[: 2 * C], 2)  # two spaces across each other
    unit = (np.eye(C) - 1 / C) / np.sqrt(1 - 1 / C)
    means = RADIUS * unit @ signal + SIGMA * np.sqrt(D / EACH) * unit @ noise
    result = of(*collapsed(means), storage, chunks=chunks)
    assert result["nc1_quotient"] == pytest.approx(1.7777778, rel=TOLERANCE[storage] + 1e-7)


def test_the_population_is_recovered_from_samples():
    noise = SIGMA * np.random.default_rng(2).standard_normal((C, 400, D))
    result = of(*collapsed(noise=noise))
    assert result["nc1_quotient"] == pytest.approx(1.7777778, rel=0.01)
    assert result["nc1_cdnv"] == pytest.approx(0.8444444, rel=0.01)
    assert result["nc1_pinv"] == pytest.approx(0.5013889, rel=0.01)


def test_few_images_of_a_class_bias_the_plain_quotient_but_not_the_debiased_one():
    noise = 2 * np.random.default_rng(2).standard_normal((C, 5, D))
    x, label = collapsed(noise=noise)
    truth = D * 4 / RADIUS**2
    assert of(x, label)["nc1_quotient"] == pytest.approx(truth, rel=0.15)
    means = x.reshape(C, 5, D).mean(axis=1)
    plain = D * 4 / np.square(means - means.mean(axis=0)).sum(axis=1).mean()
    assert plain < 0.2 * truth


def test_unequal_classes_count_once_each_and_their_noise_by_the_harmonic_mean():
    x, label = collapsed()
    kept = np.concatenate([np.flatnonzero(label == c)[: 66 + c % 3 * 7] for c in range(C)])
    x, label = x[kept], label[kept]
    groups = [x[label == c] for c in range(C)]
    means = np.stack([g.mean(axis=0) for g in groups])
    within = sum(np.square(g - g.mean(axis=0)).sum() for g in groups) / (len(x) - C)
    between = np.square(means - means.mean(axis=0)).sum() / C
    noise = within * np.mean([1 / len(g) for g in groups])
    assert of(x, label)["nc1_quotient"] == pytest.approx(within / (between - noise), rel=1e-9)
    order = np.random.default_rng(0).permutation(len(x))
    assert of(x[order], label[order])["nc1_quotient"] == pytest.approx(
        float(of(x, label)["nc1_quotient"]), rel=1e-12
    )


@pytest.mark.parametrize("storage", [np.float64, np.float32])
@pytest.mark.parametrize("offset", [100.0, 1000.0])
def test_a_large_common_offset_changes_nothing(offset, storage):
    x, label = collapsed()
    plain, shifted = of(x, label), of(x + offset, label, storage)
    for name in ("nc1_quotient", "nc1_cdnv", "nc1_pinv"):
        tolerance = 1e-9 if storage is np.float64 else 1e-4
        assert shifted[name] == pytest.approx(float(plain[name]), rel=tolerance)


def test_only_the_eigenpairs_that_exist_are_inverted():
    """numpy's own cutoff keeps the rounding errors of a float32 Σ_B as if they were directions."""
    x, label = collapsed()
    x = x.astype(np.float32)
    means = x.reshape(C, EACH, D).mean(axis=1)
    means -= means.mean(axis=0)
    careless = SIGMA**2 * np.trace(np.linalg.pinv(means.T @ means / C)) / C
    assert abs(careless) > 1e4
    vectors, eigenvalues = class_spectrum.between_eigenpairs(means, 1e-6)
    assert vectors.shape == (D, C - 1) and len(eigenvalues) == C - 1
    assert of(x, label, np.float32)["nc1_pinv"] == pytest.approx(0.5013889, rel=1e-5)


def test_means_on_a_line_have_one_eigenpair():
    means = np.arange(C)[:, None] * np.ones(D)
    result = of(*collapsed(means))
    spread = D * np.var(np.arange(C))
    assert result["nc1_pinv"] == pytest.approx(SIGMA**2 / spread / C, rel=1e-9)


def test_means_that_fill_a_narrow_space_evenly_have_no_excess():
    """The C points (±r on each axis) are a tight frame, the best that D < C−1 dimensions hold."""
    axes_both_ways = np.concatenate([np.eye(8), -np.eye(8)])
    with pytest.warns(UserWarning, match="nc2_etf_gap at least 0.73"):
        result = of(*collapsed(axes_both_ways, exact_noise(16, 8)))
    assert result["nc2_etf_gap"] == pytest.approx(class_regime.etf_floor(8, 16))
    assert result["nc2_etf_excess"] == pytest.approx(0, abs=1e-9)


def test_nc1_pinv_diverges_where_the_width_nears_the_number_of_classes_and_warns():
    """The same signal to noise at every width; only the width over the classes differs."""
    classes, found = 100, {}
    for channels in (20, 38, 76, 99, 103, 400):
        generator = np.random.default_rng(0)
        means = generator.standard_normal((classes, channels))
        noise = generator.standard_normal((classes, 8, channels))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = of(*collapsed(means, noise), params={**QUICK, "tolerance": 1e-9})
        found[channels] = float(result["nc1_pinv"])
        said = " ".join(str(w.message) for w in caught)
        assert ("inflated" in said) == (channels in (76, 99, 103))
        assert ("inflated" in result.attrs.get("regime_warning", "")) == ("inflated" in said)
    assert found[38] < found[76] / 2 < found[99] / 20 and found[103] > 4 * found[76]
    assert found[400] < found[38]


@STORAGE
@CHUNKED
def test_weights_in_proportion_to_the_means_are_aligned(storage, chunks):
    x, label = collapsed(means=simplex() + 5)
    for weight in (simplex(), 0.1 * (simplex() + 7)):
        head = {"head_weight": weight, "head_bias": np.zeros(C)}
        result = of(x, label, storage, chunks=chunks, **head)
        assert result["nc3_alignment"] == pytest.approx(1, abs=TOLERANCE[storage])
        assert result["nc3_distance"] == pytest.approx(0, abs=50 * TOLERANCE[storage])


def test_weights_against_the_means_are_opposite():
    x, label = collapsed(means=simplex() + 5)
    opposite = of(x, label, head_weight=-simplex(), head_bias=np.zeros(C))
    assert opposite["nc3_alignment"] == pytest.approx(-1, abs=1e-9)
    assert opposite["nc3_distance"] == pytest.approx(2, abs=1e-7)


def classified(name="norm", scale=None, bias=None, **parameters):
    x, label = collapsed(simplex(radius=3))
    means = simplex()
    return of(
        x,
        label,
        split=halves(x, label),
        name=name,
        head_weight=means,
        head_bias=np.zeros(C) if bias is None else bias,
        norm_scale=np.ones(D) if scale is None else scale,
        norm_shift=np.zeros(D),
        **parameters,
    )


def test_a_classifier_of_the_class_means_agrees_with_the_nearest_mean():
    result = classified()
    assert result["nc4_agreement"] > 0.97
    assert result["ncc_accuracy"] > 0.9
    assert result["nc4_agreement_low"] <= result["nc4_agreement"] <= result["nc4_agreement_high"]


def test_the_margin_of_a_noiseless_simplex_is_half_the_distance_of_two_means():
    x, label = collapsed(noise=np.zeros((C, 4, D)))
    result = of(x, label, split=halves(x, label), head_weight=simplex(), head_bias=np.zeros(C))
    apart = RADIUS * np.sqrt(2 * C / (C - 1))
    assert result["nc4_margin"] == pytest.approx(apart / 2)
    assert result["nc4_agreement"] == 1 and result["ncc_accuracy"] == 1
    assert result["nc1_quotient"] == pytest.approx(0, abs=1e-12)


def test_before_the_final_norm_the_classifier_is_a_lens():
    x, label = collapsed()
    generator = np.random.default_rng(0)
    scale, shift = generator.random(D) + 0.5, generator.standard_normal(D)
    centered = x - x.mean(axis=1, keepdims=True)
    normed = centered / np.sqrt(x.var(axis=1, keepdims=True) + 1e-6) * scale + shift
    head = {
        "head_weight": generator.standard_normal((C, D)),
        "head_bias": generator.standard_normal(C),
        "norm_scale": scale,
        "norm_shift": shift,
    }
    before = of(x, label, split=halves(x, label), name="block.0", **head)
    at_norm = of(normed, label, split=halves(x, label), **head)
    for name in ("nc3_alignment", "nc3_distance", "nc4_agreement", "nc4_margin"):
        assert before[name] == pytest.approx(float(at_norm[name]), abs=1e-9)


def test_the_last_tap_takes_the_logits_of_the_model_itself_for_every_feature():
    x, label = collapsed(noise=np.zeros((C, 4, D)))
    patches = np.roll(x, 4, axis=0)  # each class where another has its mean
    head = {"head_weight": simplex(), "head_bias": np.zeros(C), "logits": x @ simplex().T}
    layers = [{"cls": x, "patch_mean": patches}]
    dataset = pooled_dataset(layers, label, split=halves(x, label), names=["norm"], **head)
    result = collapse.compute(dataset, **QUICK).isel(layer=0)
    assert (result["nc4_agreement"] == 1).all()  # by the lens, patch_mean would never agree
    assert result["nc4_margin"].sel(feature="patch_mean") > 0


IMAGENET = 1000
ROWS = np.array([17, 3, 999])


def of_a_subset(**changed):
    """Three classes of a thousand, the rows of a classifier that knows all, and its logits."""
    x, label = collapsed(simplex(3), exact_noise(3))
    generator = np.random.default_rng(5)
    weight, bias = generator.standard_normal((IMAGENET, D)), generator.standard_normal(IMAGENET)
    weight[ROWS] = simplex(3) + 2
    bias[ROWS], bias[500] = 0, 1e4  # a class that is not studied is what it names
    parameters = {
        "head_weight": weight,
        "head_bias": bias,
        "norm_scale": np.ones(D),
        "norm_shift": np.zeros(D),
        "logits": x @ weight.T + bias,
    }
    dataset = pooled_dataset(
        [{"cls": x}], ROWS[label], split=halves(x, label), names=["norm"], **parameters | changed
    )
    return dataset.assign_coords({"class": [f"n{row:08d}" for row in range(IMAGENET)]})


def test_a_label_is_a_row_of_the_classifier_and_rows_not_studied_take_no_part():
    result = collapse.compute(of_a_subset(), **QUICK).isel(layer=0, feature=0)
    assert result["nc3_alignment"] == pytest.approx(1, abs=0.01)
    assert result["nc4_agreement"] == 1 and result["ncc_accuracy"] == 1
    assert result.attrs["classes"] == 3
    for name in ("nc3_alignment", "nc4_agreement", "nc4_margin"):
        assert result[name].attrs["note"] == "the classifier is asked about 3 of its 1000 classes"
    assert "note" not in result["ncc_accuracy"].attrs
    assert "note" not in classified()["nc4_agreement"].attrs


def test_a_number_of_a_class_has_no_part_in_what_is_measured():
    """A model without a classifier numbers the same classes otherwise; the draws stay paired."""
    dataset = of_a_subset().drop_vars(["head_weight", "head_bias", "logits"])
    order = np.random.default_rng(0).permutation(dataset.sizes["image"])[:100]  # unequal classes
    rows = dataset.isel(image=order).drop_vars("class")
    dense = rows.assign_coords(label=("image", np.searchsorted(np.sort(ROWS), rows["label"])))
    other = rows.assign_coords(label=("image", 2000 - rows["label"].values))
    expected = collapse.compute(rows, **QUICK)
    for renumbered in (dense, other):
        xr.testing.assert_identical(collapse.compute(renumbered, **QUICK), expected)


def test_a_classifier_of_another_pooling_is_absent():
    """Its weights read a vector that is no feature here, as with attention pooling."""
    pooled = np.random.default_rng(0).standard_normal((3 * EACH, D))
    weight = of_a_subset()["head_weight"].values
    dataset = of_a_subset(logits=pooled @ weight.T + of_a_subset()["head_bias"].values)
    result = collapse.compute(dataset, **QUICK)
    for name in (*collapse.NC3, *collapse.NC4):
        assert name not in result
        assert "does not give the model's logits from cls at 'norm'" in absences(result)[name]
    assert (result["ncc_accuracy"] == 1).all()


@STORAGE
def test_a_classifier_that_reads_the_mean_patch_is_the_models_own(storage):
    """Also where a norm after pooling leaves no tap "norm": the lens at the last block is it."""
    x, label = collapsed()
    normed = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
    head = {"head_weight": simplex(), "head_bias": np.zeros(C)}
    norm = {"norm_scale": np.ones(D), "norm_shift": np.zeros(D)}
    rolled = np.roll(x, EACH, axis=0)
    for name, logits in (("norm", x @ simplex().T), ("block.0", normed @ simplex().T)):
        layers = [{"cls": rolled.astype(storage), "patch_mean": x.astype(storage)}]
        dataset = pooled_dataset(
            layers, label, split=halves(x, label), names=[name], logits=logits, **head, **norm
        )
        found = collapse.compute(dataset, **QUICK).sel(feature="patch_mean")
        assert (found["nc4_agreement"] > 0.97).all() and (found["nc3_alignment"] > 0.9).all()


def test_of_a_distilled_model_the_classifier_is_that_of_cls():
    """The logits are a mean of two heads, whose margin these weights do not have."""
    x, label = collapsed(noise=np.zeros((C, 4, D)))
    head = {"head_weight": simplex(), "head_bias": np.zeros(C)}
    plain = of(x, label, split=halves(x, label), **head)
    # the head of the distillation token says something else of every image
    logits = (x @ simplex().T + np.roll(x @ simplex().T, 1, axis=1) * 3) / 2
    layers = [{"cls": x, "patch_mean": np.roll(x, 4, axis=0)}]
    kinds = ["cls", "distillation", "patch"]
    dataset = pooled_dataset(
        layers, label, split=halves(x, label), names=["norm"], logits=logits, **head
    ).assign_coords(token_kind=("token", kinds))
    result = collapse.compute(dataset, **QUICK).isel(layer=0)
    for name in (*collapse.NC3, *collapse.NC4):
        assert result[name].sel(feature="cls") == pytest.approx(float(plain[name]))
        assert "[CLS] alone" in result[name].attrs["note"]
    assert (result["nc4_agreement"] == 1).all()


def test_a_model_without_a_classifier_has_all_but_its_part_and_says_why():
    dataset = of_a_subset().drop_vars(["head_weight", "head_bias", "logits", "class"])
    dataset.attrs["absent"] = {"logits": "the model has no classifier"}
    result = collapse.compute(dataset, **QUICK)
    reasons = {name: absences(result)[name] for name in (*collapse.NC3, *collapse.NC4)}
    assert set(reasons.values()) == {"the model has no classifier"}
    assert {"nc1_quotient", "nc2_etf_gap", "ncc_accuracy"} <= set(result)


def test_every_tap_keeps_its_own_depth():
    names, depth = every_tap(2)
    x, label = collapsed()
    dataset = pooled_dataset([{"cls": x}] * len(names), label, names=names)
    result = collapse.compute(dataset.assign_coords(depth=("layer", depth)), **QUICK)
    assert result["depth"].values.tolist() == depth.tolist()
    assert result["layer"].values.tolist() == names


def test_a_class_with_too_few_images_is_left_out_and_named():
    x, label = collapsed()
    split = halves(x, label)
    split[label == 3] = "fit"  # no test image: its mean is still one of those to be nearest to
    few = (label >= 12) & (np.arange(len(x)) % EACH > 0)  # one fit image of each, at most
    kept = ~few
    result = of(x[kept], label[kept], split=split[kept])
    alone = of(x[label < 12], label[label < 12], split=split[label < 12])
    xr.testing.assert_identical(result.drop_attrs(deep=False), alone.drop_attrs(deep=False))
    assert result.attrs["classes"] == 12
    assert absences(result)["classes"] == (
        "left out: 12, 13, 14, 15, 16 and 3 more, with fewer than 2 images in the split 'fit'"
    )


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ([0] * 9, "only where there are 2, found 1"),
        ([0] * 8 + [1], "found 1; left out: 1, with fewer than 2 images in the split 'fit'"),
    ],
)
def test_fewer_than_two_classes_have_no_collapse(label, reason):
    layers = [{"cls": np.random.default_rng(0).standard_normal((9, 4))}]
    result = collapse.compute(pooled_dataset(layers, label), **QUICK)
    assert not result.data_vars
    assert reason in absences(result)["collapse"]


def test_a_class_subset_is_measured_as_if_there_were_no_other():
    x, label = collapsed()
    few = label < 7
    head = {"head_weight": simplex() + 1, "head_bias": np.arange(C)}
    subset = of(x, label, split=halves(x, label), params={**QUICK, "classes": range(7)}, **head)
    alone = of(
        x[few],
        label[few],
        split=halves(x, label)[few],
        head_weight=head["head_weight"][:7],
        head_bias=head["head_bias"][:7],
    )
    xr.testing.assert_allclose(subset.drop_vars("layer"), alone.drop_vars("layer"))


def test_means_come_from_the_fit_images_and_scores_from_the_test_images():
    x, label = collapsed()
    split = halves(x, label)
    moved = np.where((split == "test")[:, None], np.roll(x, EACH, axis=0), x)
    plain, changed = of(x, label, split=split), of(moved, label, split=split)
    assert changed["nc1_quotient"] == plain["nc1_quotient"]
    assert plain["ncc_accuracy"] > 0.9 and changed["ncc_accuracy"] < 0.1


def test_what_is_missing_is_absent_with_its_reason():
    x, label = collapsed()
    only_fit = collapse.compute(
        pooled_dataset([{"cls": x}], label, split=["fit"] * len(x)), **QUICK
    )
    absent = absences(only_fit)
    assert "no linear classifier" in absent["nc3_alignment"]
    assert absent["ncc_accuracy"] == absent["nc4_margin"] == "no image is in the split 'test'"
    assert not {"nc3_alignment", "ncc_accuracy"} & set(only_fit)
    unknown = absences(of(x, label, head_weight=simplex()[:5], head_bias=np.zeros(5)))
    assert "not those of the classifier" in unknown["nc3_alignment"]
    before_norm = absences(of(x, label, name="embed", head_weight=simplex()))
    assert "final norm" in before_norm["nc3_alignment"]
    assert before_norm["classifier at embed"] == "the final norm is unknown"


def test_the_same_vector_for_every_image_has_no_collapse_to_measure():
    x, label = collapsed()
    vector = np.random.default_rng(0).standard_normal(D).astype(np.float32)
    layers = [{"cls": np.tile(vector, (len(x), 1)), "patch_mean": x.astype(np.float32)}]
    dataset = pooled_dataset(layers, label, split=halves(x, label))
    result = collapse.compute(dataset, **QUICK)
    assert absences(result)["cls at embed"] == "the class means coincide"
    assert np.isnan(result["nc1_quotient"].sel(feature="cls")).all()
    assert np.isfinite(result["nc1_quotient"].sel(feature="patch_mean")).all()


def test_classes_that_differ_by_noise_alone_have_an_unbounded_quotient():
    generator = np.random.default_rng(3)
    noise = generator.standard_normal((10, 100, 8))
    found = [of(x, np.arange(100) % 5, params={"bootstrap_samples": 200}) for x in noise]
    assert sum(np.isposinf(r["nc1_quotient_high"].item()) for r in found) > 7
    undefined = [r for r in found if np.isnan(r["nc1_quotient"])]
    assert undefined and not any(r["nc1_quotient_low"] <= 1 for r in undefined)


def test_the_interval_holds_the_estimate_and_narrows_with_more_images():
    widths = []
    for each in (20, 320):
        noise = SIGMA * np.random.default_rng(2).standard_normal((C, each, D))
        result = of(*collapsed(noise=noise), params={"bootstrap_samples": 200})
        for name in ("nc1_quotient", "nc1_cdnv", "nc1_pinv", "nc2_etf_gap"):
            assert result[f"{name}_low"] < result[name] < result[f"{name}_high"]
        assert result["nc1_quotient_draws"].dims == ("draw",)
        assert result["nc1_quotient_draws"].mean() == pytest.approx(
            float(result["nc1_quotient"]), rel=0.01
        )
        widths.append(float(result["nc1_quotient_high"] - result["nc1_quotient_low"]))
    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.5)


def test_a_resample_is_the_metric_of_the_resampled_images():
    x, label = collapsed(noise=np.random.default_rng(2).standard_normal((C, 6, D)))
    images = collapse.class_split(pooled_dataset([{"cls": x}], label))
    drawn = TapFeature.of(x, images).scatter(Resampling(40, 40, 0), 1e-6)
    counts = stratified_counts(images.sizes, range(39, 40), 0)[0]
    again = TapFeature.of(np.repeat(x, counts, axis=0), images).scatter(Resampling(0, 0, 0), 1e-6)
    for name, values in again.items():
        assert drawn[name][40] == pytest.approx(values[0], rel=1e-9)


def test_chunks_and_laziness_change_nothing():
    x, label = collapsed()
    layers = [{"cls": x + i, "patch_mean": x * (i + 1)} for i in range(3)]
    dataset = pooled_dataset(
        layers,
        label,
        split=halves(x, label),
        head_weight=simplex(),
        head_bias=np.zeros(C),
        norm_scale=np.ones(D),
        norm_shift=np.zeros(D),
    )
    lazy = dataset.chunk({"image": 100, "layer": 1, "feature": 1})
    xr.testing.assert_identical(collapse.compute(dataset, **QUICK), collapse.compute(lazy, **QUICK))


@pytest.mark.parametrize(
    ("label", "params", "message"),
    [
        ([0] * 4 + [1] * 5, {"classes": [0]}, "only where there are 2, found 1"),
        ([0] * 8 + [1], {"classes": [0, 1]}, "class 1 has fewer than 2 images in the split 'fit'"),
        ([0] * 4 + [1] * 5, {"classes": [0, 7]}, r"unknown class '7': \(known: 0, 1\)"),
    ],
)
def test_a_wrong_choice_of_classes_is_named(label, params, message):
    with pytest.raises(VitalsError, match=message):
        of(np.random.default_rng(0).standard_normal((9, 4)), label, params=params)


def test_no_image_to_fit_is_named():
    x, label = collapsed()
    with pytest.raises(VitalsError, match="no image is in the split 'fit'"):
        of(x, label, split=["test"] * len(x))


def test_values_that_are_not_finite_are_named_by_tap():
    x, label = collapsed()
    x[3, 2] = np.nan
    with pytest.raises(VitalsError, match=r"tap block\.7 are not all finite"):
        of(x, label, name="block.7")
