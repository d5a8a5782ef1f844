"""The known answers of the probes, their references, and their traps."""

import warnings

import numpy as np
import pytest
import xarray as xr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from activation_datasets import pooled_dataset
from vitals.errors import VitalsError
from vitals.metrics import closed_form_probes, logistic_probe, probes
from vitals.metrics.results import absences

CLASSES, CHANNELS = 4, 8
PENALTIES = [1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0]
SCORES = ("accuracy", "ridge_accuracy", "knn_accuracy")
STORAGE = pytest.mark.parametrize("storage", [np.float32, np.float16])


def clusters(images=240, apart=4.0, seed=0, channels=CHANNELS):
    """Features (image, channel) about a centre for each class, and shuffled labels."""
    generator = np.random.default_rng(seed)
    label = generator.permutation(np.arange(images) % CLASSES)
    centres = apart * np.linalg.qr(generator.standard_normal((channels, channels)))[0][label]
    return centres + generator.standard_normal((images, channels)), label


def probe(x, label, storage=np.float64, split=None, **params):
    layers = [{"cls": np.asarray(x).astype(storage)}]
    split = np.where(np.arange(len(label)) % 2, "test", "fit") if split is None else split
    dataset = pooled_dataset(layers, label, split=split)
    return probes.compute(dataset, **{"bootstrap_samples": 20, **params}).isel(layer=0, feature=0)


def parts(x, label):
    """Standardised fit features, fit labels, test features, test labels, as the probes see them."""
    scaler = StandardScaler().fit(x[::2])
    return scaler.transform(x[::2]), label[::2], scaler.transform(x[1::2]), label[1::2]


@STORAGE
def test_separable_clusters_are_read_without_error(storage):
    result = probe(*clusters(apart=40), storage)
    for name in (*SCORES, "macro_f1"):
        assert result[name] == 1 and result[f"{name}_low"] == 1
    assert result["correct"].all() and result["converged"]


def test_shuffled_labels_are_read_by_chance():
    x, label = clusters(images=2000)
    result = probe(x, np.random.default_rng(1).permutation(label))
    chance, error = 1 / CLASSES, np.sqrt(1 / CLASSES * (1 - 1 / CLASSES) / 1000)
    for name in SCORES:
        assert result[name] == pytest.approx(chance, abs=4 * error)
    assert result["nll"] == pytest.approx(np.log(CLASSES), abs=0.05)


@pytest.mark.parametrize("offset", [1.0, 1000.0])
def test_a_constant_added_to_the_features_changes_nothing(offset):
    x, label = clusters(apart=1.5)
    plain = probe(x, label)
    shifted = probe(x + offset * np.random.default_rng(1).standard_normal(CHANNELS), label)
    assert 0.5 < plain["accuracy"] < 0.95
    assert (shifted["correct"] == plain["correct"]).all()
    for name in (*SCORES, "penalty", "ridge_penalty"):
        assert shifted[name] == plain[name]
    assert shifted["nll"] == pytest.approx(float(plain["nll"]), abs=1e-6)


@STORAGE
@pytest.mark.parametrize("shares", [(0.4, 0.3, 0.2, 0.1), (0.25, 0.25, 0.25, 0.25)])
def test_one_vector_for_every_image_gives_exactly_the_majority_class(shares, storage):
    """As [CLS] at the embedding and after positions."""
    generator = np.random.default_rng(0)
    label = generator.choice(CLASSES, 300, p=shares)
    result = probe(np.tile(generator.standard_normal(CHANNELS), (300, 1)), label, storage)
    fit, test = label[::2], label[1::2]
    expected = np.mean(test == np.bincount(fit).argmax())
    assert result.attrs["majority_accuracy"] == expected
    for name in SCORES:
        assert result[name] == expected
    assert result["nll"] == pytest.approx(-np.log(np.bincount(fit) / len(fit))[test].mean())


def test_equally_frequent_classes_give_the_first():
    label = np.arange(80) // 2 % CLASSES
    result = probe(np.ones((80, CHANNELS)), label)
    assert (result["correct"] == (label[1::2] == 0)).all()


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


def test_two_classes_are_two_logits():
    x, label = clusters(apart=1.5)
    fit, fit_label, test, test_label = parts(x, label % 2)
    reference = LogisticRegression(tol=1e-10, max_iter=10_000).fit(fit, fit_label)
    result = probe(x, label % 2, penalties=[1.0])
    expected = log_loss(test_label, reference.predict_proba(test))
    assert result["nll"] == pytest.approx(expected, abs=1e-4)


def test_the_penalty_is_the_smallest_of_those_with_most_right_images():
    x, label = clusters(apart=40)
    assert probe(x, label, penalties=[10, 1, 0.1])["penalty"] == 0.1  # all are right with each


def test_the_penalty_is_that_of_a_cold_search_over_the_same_folds():
    x, label = clusters(images=400, apart=1.5, channels=40)
    fit, codes, *_ = parts(x, label)
    folds = StratifiedKFold(5, shuffle=True, random_state=3)
    right = {}
    for penalty in PENALTIES:
        solver = LogisticRegression(C=penalty, tol=1e-8, max_iter=10_000)
        right[penalty] = np.sum(cross_val_predict(solver, fit, codes, cv=folds) == codes)
    chosen = logistic_probe.choose_penalty(fit, codes, PENALTIES, folds=5, seed=3, max_iter=1000)
    assert right[chosen] >= max(right.values()) - 1
    assert right[chosen] > min(right.values()) + 10


def test_the_penalty_knows_nothing_of_the_test_labels():
    x, label = clusters(apart=1.5)
    spoiled = np.where(np.arange(len(label)) % 2, (label + 1) % CLASSES, label)
    result, other = probe(x, label), probe(x, spoiled)
    for name in ("penalty", "ridge_penalty"):
        assert result[name] == other[name]
    assert result["accuracy"] > 0.5 > other["accuracy"]


def test_leave_one_out_of_the_ridge_probe_is_what_leaving_out_gives():
    x, label = clusters(images=80, apart=1.0, channels=20)
    fit, codes, test, _ = parts(x, label)
    right = []
    for penalty in PENALTIES:
        left_out = []
        for image in range(len(fit)):
            kept = np.arange(len(fit)) != image
            left_out.append(plain_ridge(fit[kept], codes[kept], fit[[image]], penalty)[0])
        right.append(np.count_nonzero(np.array(left_out) == codes))
    chosen = PENALTIES[int(np.argmax(right))]
    found = closed_form_probes.ridge(fit, codes, test, PENALTIES)
    assert found.penalty == chosen
    assert (found.predicted == plain_ridge(fit, codes, test, chosen)).all()


def plain_ridge(fit, codes, test, penalty):
    mean, one_hot = fit.mean(axis=0), np.eye(CLASSES)[codes]
    gram = (fit - mean).T @ (fit - mean) + np.eye(fit.shape[1]) / penalty
    weight = np.linalg.solve(gram, (fit - mean).T @ (one_hot - one_hot.mean(axis=0)))
    return ((test - mean) @ weight + one_hot.mean(axis=0)).argmax(axis=1)


def test_the_ridge_probe_takes_more_channels_than_images():
    x, label = clusters(images=80, apart=8, channels=200)
    assert probe(x, label)["ridge_accuracy"] > 0.9


def test_an_odd_vote_of_two_classes_is_that_of_scikit_learn():
    x, label = clusters(apart=1.0)
    fit, fit_label, test, _ = parts(x, label % 2)
    reference = KNeighborsClassifier(7, metric="cosine").fit(fit, fit_label)
    found = closed_form_probes.nearest_neighbours(fit, fit_label, test, 7)
    assert (found == reference.predict(test)).all()


def test_an_even_vote_goes_to_the_nearer_class():
    fit = np.array([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0], [-1.0, 0.1]])
    found = closed_form_probes.nearest_neighbours(
        fit, np.array([1, 0, 2, 2]), np.array([[1.0, 0.1], [0.5, 0.9]]), neighbours=2
    )
    assert found.tolist() == [1, 0]


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


def test_macro_f1_of_a_resample_is_that_of_the_resampled_images():
    generator = np.random.default_rng(0)
    codes, predicted = generator.integers(0, 5, (2, 30))
    counts = generator.multinomial(30, np.full(30, 1 / 30), size=20)
    found = probes.macro_f1(predicted, codes, 5, counts.astype(float))
    for drawn, weights in zip(found, counts, strict=True):
        images = np.repeat(np.arange(30), weights)
        assert drawn == pytest.approx(f1_score(codes[images], predicted[images], average="macro"))


def test_a_probe_that_did_not_converge_says_so():
    x, label = clusters(apart=1.5)
    with pytest.warns(UserWarning, match="1 of 1 logistic probes did not converge"):
        result = probe(x, label, max_iter=2)
    assert not result["converged"]


def test_other_warnings_of_the_solver_are_passed_on():
    class Solver:
        def fit(self, x, codes):
            warnings.warn("something else", FutureWarning, stacklevel=1)

    with pytest.warns(FutureWarning, match="something else"):
        assert logistic_probe._solve(Solver(), None, None)


def test_chunks_laziness_and_jobs_change_nothing():
    x, label = clusters(apart=1.5)
    split = np.where(np.arange(len(label)) % 2, "test", "fit")
    layers = [{"cls": x, "patch_mean": x[::-1] * (1 + i)} for i in range(2)]
    dataset = pooled_dataset(layers, label, split=split)
    settings = {"bootstrap_samples": 5, "penalties": [0.1, 1.0]}
    expected = probes.compute(dataset, **settings)
    lazy = dataset.chunk({"image": 50, "layer": 1})
    xr.testing.assert_identical(probes.compute(lazy, **settings), expected)
    xr.testing.assert_identical(probes.compute(dataset, jobs=2, **settings), expected)


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
