"""The known answers of the probes, and their traps."""

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, log_loss

from activation_datasets import pooled_dataset
from probe_features import CHANNELS, CLASSES, clusters, parts
from vitals.errors import VitalsError
from vitals.metrics import batched_logistic, probe_runs, probes
from vitals.metrics.results import absences

SCORES = ("accuracy", "ridge_accuracy", "lda_accuracy", "knn_accuracy")
CHOSEN = ("penalty", "ridge_penalty", "lda_penalty")
# as it is stored: the type, and chunks along images or none
STORAGE = pytest.mark.parametrize(
    "storage",
    [(np.float32, None), (np.float16, None), (np.float32, 50), (np.float16, 50)],
    ids=["float32", "float16", "float32 in chunks", "float16 in chunks"],
)
SOLVER = pytest.mark.parametrize("solver", ["scikit-learn", "batched"])


def probe(x, label, storage=(np.float64, None), split=None, **params):
    dtype, chunk = storage
    layers = [{"cls": np.asarray(x).astype(dtype)}]
    split = np.where(np.arange(len(label)) % 2, "test", "fit") if split is None else split
    dataset = pooled_dataset(layers, label, split=split)
    dataset = dataset.chunk({"image": chunk}) if chunk else dataset
    return probes.compute(dataset, **{"bootstrap_samples": 20, **params}).isel(layer=0, feature=0)


@SOLVER
@STORAGE
def test_separable_clusters_are_read_without_error(storage, solver):
    result = probe(*clusters(apart=40), storage, solver=solver)
    for name in (*SCORES, "macro_f1"):
        assert result[name] == 1 and result[f"{name}_low"] == 1
    assert result["correct"].all() and result["converged"]


@SOLVER
@STORAGE
def test_shuffled_labels_are_read_by_chance(storage, solver):
    x, label = clusters(images=2000)
    result = probe(x, np.random.default_rng(1).permutation(label), storage, solver=solver)
    chance, error = 1 / CLASSES, np.sqrt(1 / CLASSES * (1 - 1 / CLASSES) / 1000)
    for name in SCORES:
        assert result[name] == pytest.approx(chance, abs=4 * error)
    assert result["nll"] == pytest.approx(np.log(CLASSES), abs=0.05)


@SOLVER
@pytest.mark.parametrize("offset", [1.0, 1000.0])
def test_a_constant_added_to_the_features_changes_nothing(offset, solver):
    x, label = clusters(apart=1.5)
    shift = offset * np.random.default_rng(1).standard_normal(CHANNELS)
    plain, shifted = (probe(x + by, label, solver=solver) for by in (0, shift))
    assert 0.5 < plain["accuracy"] < 0.95
    assert (shifted["correct"] == plain["correct"]).all()
    for name in (*SCORES, *CHOSEN):
        assert shifted[name] == plain[name]
    assert shifted["nll"] == pytest.approx(float(plain["nll"]), abs=1e-6)


@STORAGE
def test_a_constant_that_storage_holds_exactly_changes_nothing(storage):
    x, label = clusters(apart=1.5)
    x = np.round(x * 64) / 64  # what float16 holds up to 16
    plain, shifted = (probe(x + by, label, storage) for by in (0, 8))
    xr.testing.assert_allclose(shifted, plain, atol=1e-9)


@SOLVER
@STORAGE
@pytest.mark.parametrize("shares", [(0.4, 0.3, 0.2, 0.1), (0.25, 0.25, 0.25, 0.25)])
def test_one_vector_for_every_image_gives_exactly_the_majority_class(shares, storage, solver):
    """As [CLS] at the embedding and after positions."""
    generator = np.random.default_rng(0)
    label = generator.choice(CLASSES, 300, p=shares)
    same = np.tile(generator.standard_normal(CHANNELS), (300, 1))
    result = probe(same, label, storage, solver=solver)
    fit, test = label[::2], label[1::2]
    expected = np.mean(test == np.bincount(fit).argmax())
    assert result.attrs["majority_accuracy"] == expected
    for name in SCORES:
        assert result[name] == expected
    assert result["nll"] == pytest.approx(-np.log(np.bincount(fit) / len(fit))[test].mean())


@pytest.mark.parametrize("step", [1, -1])
def test_equally_frequent_classes_give_that_of_smallest_label_in_any_order_of_images(step):
    label = np.arange(80)[::step] // 2 % CLASSES
    result = probe(np.ones((80, CHANNELS)), label)
    assert (result["correct"] == (label[1::2] == 0)).all()
    assert result.attrs["majority_accuracy"] == 1 / CLASSES


def test_a_channel_that_is_constant_on_the_fit_images_is_left_out():
    x, label = clusters(apart=1.5)
    constant = np.where(np.arange(len(x)) % 2, 1e6, 0.1)[:, None]  # another value on test
    result = probe(np.concatenate([x, constant], axis=1), label)
    assert (result["correct"] == probe(x, label)["correct"]).all()


def test_the_scale_of_a_channel_changes_nothing():
    x, label = clusters(apart=1.5)
    scaled = probe(x * 10.0 ** np.arange(-4, 4), label)
    for name in SCORES:
        assert scaled[name] == probe(x, label)[name]


@pytest.mark.parametrize("penalty", [0.01, 1.0])
def test_the_logistic_probe_is_that_of_scikit_learn_at_the_same_penalty(penalty):
    x, label = clusters(apart=1.5)
    fit, fit_label, test, test_label = parts(x, label)
    reference = LogisticRegression(C=penalty, tol=1e-10, max_iter=10_000).fit(fit, fit_label)
    result = probe(x, label, penalties=[penalty])
    predicted = reference.predict(test)
    assert result["penalty"] == penalty
    assert result["accuracy"] == np.mean(predicted == test_label)
    assert result["macro_f1"] == pytest.approx(f1_score(test_label, predicted, average="macro"))
    assert result["nll"] == pytest.approx(
        log_loss(test_label, reference.predict_proba(test)), abs=1e-4
    )


@SOLVER
def test_two_classes_are_two_logits(solver):
    x, label = clusters(apart=1.5)
    fit, fit_label, test, test_label = parts(x, label % 2)
    reference = LogisticRegression(tol=1e-10, max_iter=10_000).fit(fit, fit_label)
    result = probe(x, label % 2, penalties=[1.0], solver=solver)
    expected = log_loss(test_label, reference.predict_proba(test))
    assert result["nll"] == pytest.approx(expected, abs=1e-5)


def test_the_penalty_is_the_smallest_of_those_with_most_right_images():
    x, label = clusters(apart=40)
    assert probe(x, label, penalties=[10, 1, 0.1])["penalty"] == 0.1  # all are right with each


def test_the_penalty_knows_nothing_of_the_test_labels():
    x, label = clusters(apart=1.5)
    spoiled = np.where(np.arange(len(label)) % 2, (label + 1) % CLASSES, label)
    result, other = probe(x, label), probe(x, spoiled)
    for name in CHOSEN:
        assert result[name] == other[name]
    assert result["accuracy"] > 0.5 > other["accuracy"]


def test_the_ridge_probe_takes_more_channels_than_images():
    x, label = clusters(images=80, apart=8, channels=200)
    assert probe(x, label)["ridge_accuracy"] > 0.9


def test_more_neighbours_than_fit_images_are_all_of_them():
    x, label = clusters(images=80)
    assert (
        probe(x, label, neighbours=1000)["knn_accuracy"]
        == probe(x, label, neighbours=40)["knn_accuracy"]
    )


def test_both_features_side_by_side_and_their_gap():
    x, label = clusters(apart=1.5)
    noise = np.random.default_rng(5).standard_normal(x.shape)
    split = np.where(np.arange(len(label)) % 2, "test", "fit")
    dataset = pooled_dataset([{"cls": noise, "patch_mean": x}] * 2, label, split=split)
    result = probes.compute(dataset, bootstrap_samples=50)
    assert result["feature"].values.tolist() == ["cls", "patch_mean", "cls+patch_mean"]
    accuracy = result["accuracy"]
    gap = accuracy.sel(feature="patch_mean") - accuracy.sel(feature="cls")
    assert result["accuracy_gap"].dims == ("layer",)
    np.testing.assert_allclose(result["accuracy_gap"], gap)
    assert (result["accuracy_gap_low"] < gap).all() and (gap < result["accuracy_gap_high"]).all()
    draws = result["accuracy_draws"]
    np.testing.assert_allclose(
        result["accuracy_gap_draws"],
        draws.sel(feature="patch_mean") - draws.sel(feature="cls"),
        atol=1e-6,
    )
    side_by_side = probe(np.concatenate([noise, x], axis=1), label)
    assert (accuracy.sel(feature="cls+patch_mean") == side_by_side["accuracy"]).all()


def test_a_single_feature_has_no_gap_and_says_why():
    layers = [{"patch_mean": clusters()[0]}]
    split = np.where(np.arange(240) % 2, "test", "fit")
    result = probes.compute(pooled_dataset(layers, clusters()[1], split=split))
    assert "accuracy_gap" not in result
    assert absences(result)["accuracy_gap"].endswith("found patch_mean")


def test_per_image_results_carry_the_test_images():
    x, label = clusters(apart=1.5)
    result = probe(x, label)
    assert result["correct"].dtype == bool and result["correct"].dims == ("image",)
    assert result["image_id"].values.tolist() == [f"image-{i}" for i in range(1, 240, 2)]
    assert result["accuracy"] == result["correct"].mean()


def test_the_interval_is_that_of_a_share_of_images():
    x, label = clusters(images=2000, apart=1.5)
    result = probe(x, label, bootstrap_samples=1000, penalties=[1.0])
    share = float(result["accuracy"])
    error = np.sqrt(share * (1 - share) / 1000)
    assert result["accuracy_low"] == pytest.approx(share - 1.96 * error, abs=error / 4)
    assert result["accuracy_high"] == pytest.approx(share + 1.96 * error, abs=error / 4)
    assert result["accuracy_draws"].sizes == {"draw": 1000}


@SOLVER
def test_a_probe_that_did_not_converge_says_so(solver):
    x, label = clusters(apart=1.5)
    with pytest.warns(UserWarning, match="1 of 1 logistic probes did not converge") as caught:
        result = probe(x, label, max_iter=2, solver=solver)
    assert len(caught) == 1
    assert not result["converged"]
    assert result["gradient"] > result["converged"].attrs["tolerance"]
    assert probe(x, label, solver=solver)["converged"]


def several_taps(taps=3):
    """The pooled tier of taps of which the first [CLS] is one vector, fit and test in turn."""
    x, label = clusters(apart=1.5)
    layers = [
        {"cls": x * (i > 0) + 0.1 * i * x[::-1], "patch_mean": x[::-1] + i * x} for i in range(taps)
    ]
    split = np.where(np.arange(len(label)) % 2, "test", "fit")
    return pooled_dataset(layers, label, split=split)


@SOLVER
def test_chunks_laziness_and_jobs_change_nothing(solver):
    dataset = several_taps()
    settings = {"bootstrap_samples": 5, "penalties": [0.1, 1.0], "solver": solver}
    expected = probes.compute(dataset, **settings)
    lazy = dataset.chunk({"image": 50, "layer": 1})
    xr.testing.assert_identical(probes.compute(lazy, **settings), expected)
    xr.testing.assert_identical(probes.compute(dataset, jobs=2, **settings), expected)
    turned = dataset.transpose("channel", "feature", ...)
    xr.testing.assert_identical(probes.compute(turned, **settings), expected)


@pytest.mark.parametrize("taps_at_once", [1, 2, 3])
def test_each_tap_of_a_batch_is_read_as_if_alone(monkeypatch, taps_at_once):
    monkeypatch.setattr(batched_logistic, "taps_at_once", lambda *_: taps_at_once)
    settings = {"bootstrap_samples": 5, "penalties": [0.1, 1.0]}
    found, expected = (
        probes.compute(several_taps(), solver=solver, **settings).drop_vars("gradient")
        for solver in ("batched", "scikit-learn")
    )
    assert (found.attrs.pop("solver"), expected.attrs.pop("solver")) == ("batched", "scikit-learn")
    assert (found["correct"] == expected["correct"]).all() and found["converged"].all()
    assert np.unique(found["accuracy"]).size > 4
    xr.testing.assert_allclose(found, expected, atol=1e-5)


def test_without_an_accelerator_scikit_learn_is_the_solver(monkeypatch):
    monkeypatch.setattr("vitals.device.choose", lambda _: torch.device("cpu"))
    assert probe(*clusters(), penalties=[1.0]).attrs["solver"] == "scikit-learn"
    with pytest.raises(VitalsError, match="unknown solver 'batch': did you mean 'batched'"):
        probe(*clusters(), solver="batch")


def test_with_an_accelerator_taps_are_batched(monkeypatch):
    monkeypatch.setattr("vitals.device.choose", lambda _: torch.device("cuda"))
    assert probe_runs.chosen_solver("auto") == "batched"
    assert probe_runs.chosen_solver("scikit-learn") == "scikit-learn"
    monkeypatch.setattr("vitals.device.choose", lambda _: torch.device("mps"))  # has no float64
    assert probe_runs.chosen_solver("auto") == "scikit-learn"


def test_a_number_that_is_not_finite_is_named():
    dataset = several_taps()
    dataset["pooled"][1, 7, 0, 3] = np.nan
    with pytest.raises(VitalsError, match="position are not all finite: image image-7 "):
        probes.compute(dataset)


def test_a_number_of_a_class_has_no_part_in_what_is_measured():
    """Labels are rows of a classifier, and models number the same classes otherwise."""
    x, label = clusters(apart=1.5)
    plain = probe(x, label, penalties=[0.1, 1.0])
    for rows in ([3, 17, 500, 999], [999, 3, 500, 17]):
        renumbered = probe(x, np.array(rows)[label], penalties=[0.1, 1.0])
        # the solver sees the classes in the same order: that of the images
        for name in (*SCORES, "macro_f1", "nll", "penalty", "accuracy_draws"):
            np.testing.assert_array_equal(renumbered[name], plain[name])


def test_a_class_with_fewer_fit_images_than_folds_is_left_out_and_named():
    x, label = clusters(apart=40)
    split = np.where(np.arange(240) % 2, "test", "fit")
    of_three = np.flatnonzero((label == 3) & (split == "fit"))
    split[of_three[4:]] = "test"
    layers = [{"cls": x}]
    result = probes.compute(pooled_dataset(layers, label, split=split), bootstrap_samples=5)
    assert (result["accuracy"] == 1).all() and result.attrs["classes"] == 3
    tested = (split == "test") & (label != 3)
    assert result["image_id"].values.tolist() == [f"image-{i}" for i in np.flatnonzero(tested)]
    assert result["accuracy"].attrs["images"] == tested.sum()
    assert absences(result)["classes"] == (
        "left out: 3, with fewer than 5 images in the split 'fit'"
    )


def test_a_class_that_only_test_images_have_is_left_out_with_them():
    x, label = clusters(apart=40)
    split = np.where((np.arange(240) % 2 > 0) | (label == 3), "test", "fit")
    result = probe(x, label, split=split)
    assert result["accuracy"] == 1 and result.attrs["classes"] == 3
    assert result.sizes["image"] == ((split == "test") & (label != 3)).sum()
    assert absences(result)["classes"].startswith("left out: 3, with fewer than 5 images")


def test_a_class_without_a_test_image_is_still_one_that_may_be_named():
    x, label = clusters(apart=40)
    split = np.where((np.arange(240) % 2 > 0) & (label != 3), "test", "fit")
    result = probe(x, label, split=split)
    assert result["accuracy"] == 1 and result["macro_f1"] == 1 and result.attrs["classes"] == 4


@pytest.mark.parametrize(
    ("label", "split", "reason"),
    [
        ([7] * 240, ["fit", "test"] * 120, "only where there are 2, found 1"),
        (np.arange(240) % 4, ["fit"] * 12 + ["test"] * 228, "found 0; left out: 0, 1, 2, 3"),
        ([0] * 100 + [1] * 100 + [2] * 40, ["fit"] * 202 + ["test"] * 38, probes.NO_TEST),
    ],
)
def test_classes_that_cannot_be_probed_are_absent_with_the_reason(label, split, reason):
    layers = [{"cls": clusters()[0]}]
    result = probes.compute(pooled_dataset(layers, np.asarray(label), split=split))
    assert not result.data_vars
    assert reason in absences(result)["probes"]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (["fit"] * 240, "no image is in the split 'test'"),
        (["test"] * 240, "no image is in the split 'fit'"),
    ],
)
def test_a_split_that_cannot_be_probed_is_refused(split, message):
    with pytest.raises(VitalsError, match=message):
        probe(*clusters(), split=split)
