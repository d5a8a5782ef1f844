"""The probes without an optimiser, beside what refitting without each image gives."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import KNeighborsClassifier

from probe_features import CLASSES, clusters, parts
from vitals.metrics import closed_form_probes, score_blocks
from vitals.metrics.closed_form_probes import ClassSums
from vitals.metrics.nearest_neighbours import nearest_neighbours

PENALTIES = [1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0]


def found_by(name, fit, codes, test, penalties):
    probe = getattr(closed_form_probes, name)
    return probe(ClassSums.of(fit, codes), fit, codes, test, penalties)


def plain_ridge(fit, codes, test, penalty):
    mean, one_hot = fit.mean(axis=0), np.eye(CLASSES)[codes]
    gram = (fit - mean).T @ (fit - mean) + np.eye(fit.shape[1]) / penalty
    weight = np.linalg.solve(gram, (fit - mean).T @ (one_hot - one_hot.mean(axis=0)))
    return ((test - mean) @ weight + one_hot.mean(axis=0)).argmax(axis=1)


def plain_discriminant(fit, codes, test, penalty):
    sizes = np.bincount(codes)
    means = np.stack([fit[codes == c].mean(axis=0) for c in range(CLASSES)])
    scatter = sum(np.cov(fit[codes == c].T, bias=True) * sizes[c] for c in range(CLASSES))
    covariance = (scatter + np.eye(fit.shape[1]) / penalty) / (len(fit) - CLASSES)
    away = test[:, None] - means  # (test image, class, channel)
    distance = np.einsum("tcd,de,tce->tc", away, np.linalg.inv(covariance), away)
    return (np.log(sizes / len(fit)) - distance / 2).argmax(axis=1)


@pytest.mark.parametrize("at_once", [2**22, 30])
@pytest.mark.parametrize("channels", [20, 100])  # fewer and more than images
@pytest.mark.parametrize(
    ("name", "plain"), [("ridge", plain_ridge), ("discriminant", plain_discriminant)]
)
def test_leave_one_out_is_what_leaving_out_gives(monkeypatch, name, plain, channels, at_once):
    monkeypatch.setattr(score_blocks, "SCORES_AT_ONCE", at_once)
    x, label = clusters(images=120, apart=1.2, channels=channels)
    fit, codes, test, _ = parts(x[:-9], label[:-9])  # classes of unlike size
    right = []
    for penalty in PENALTIES:
        left_out = []
        for image in range(len(fit)):
            kept = np.arange(len(fit)) != image
            left_out.append(plain(fit[kept], codes[kept], fit[[image]], penalty)[0])
        right.append(np.count_nonzero(np.array(left_out) == codes))
    chosen = PENALTIES[int(np.argmax(right))]
    found = found_by(name, fit, codes, test, PENALTIES)
    assert found.penalty == chosen
    assert (found.predicted == plain(fit, codes, test, chosen)).all()


@pytest.mark.parametrize("name", ["ridge", "discriminant"])
def test_more_channels_than_images_are_no_obstacle(name):
    fit, codes, test, asked = parts(*clusters(images=80, apart=8, channels=200))
    assert (found_by(name, fit, codes, test, PENALTIES).predicted == asked).mean() > 0.9


def test_the_linear_discriminant_is_that_of_scikit_learn():
    fit, codes, test, _ = parts(*clusters(apart=1.5))
    reference = LinearDiscriminantAnalysis(solver="eigen").fit(fit, codes)
    found = found_by("discriminant", fit, codes, test, [1e9])
    assert (found.predicted == reference.predict(test)).mean() > 0.99  # its divisor is n


def test_the_linear_discriminant_of_two_gaussians_is_as_right_as_can_be():
    generator = np.random.default_rng(0)
    mixing = generator.standard_normal((6, 6))
    x = generator.standard_normal((40_000, 6))
    label = np.arange(len(x)) // 2 % 2
    x[:, 0] += 2 * label  # a Mahalanobis distance of 2
    fit, codes, test, asked = parts(x @ mixing, label)
    found = found_by("discriminant", fit, codes, test, PENALTIES)
    assert (found.predicted == asked).mean() == pytest.approx(norm.cdf(1), abs=0.008)


def test_a_class_between_two_others_is_hidden_from_ridge_and_not_from_the_discriminant():
    generator = np.random.default_rng(0)
    label = np.arange(600) // 2 % 3
    x = 6.0 * label[:, None] + generator.standard_normal((600, 1))
    fit, codes, test, asked = parts(x, label)
    right = {
        name: (found_by(name, fit, codes, test, PENALTIES).predicted == asked).mean()
        for name in ("ridge", "discriminant")
    }
    assert right["ridge"] < 0.7 and right["discriminant"] > 0.99


def test_the_scatter_of_the_sums_is_that_about_the_class_means():
    fit, codes, *_ = parts(*clusters(apart=1.5))
    sums = ClassSums.of(fit, codes)
    away = fit - np.stack([fit[codes == c].mean(axis=0) for c in range(CLASSES)])[codes]
    np.testing.assert_allclose(sums.scatter, away.T @ away, atol=1e-9)
    assert sums.sizes.tolist() == np.bincount(codes).tolist()


@pytest.mark.parametrize("at_once", [2**22, 300])
def test_an_odd_vote_of_two_classes_is_that_of_scikit_learn(monkeypatch, at_once):
    monkeypatch.setattr(score_blocks, "SCORES_AT_ONCE", at_once)
    x, label = clusters(apart=1.0)
    fit, fit_label, test, _ = parts(x, label % 2)
    reference = KNeighborsClassifier(7, metric="cosine").fit(fit, fit_label)
    found = nearest_neighbours(fit, fit_label, test, 7)
    assert (found == reference.predict(test)).all()


def test_an_even_vote_goes_to_the_nearer_class():
    fit = np.array([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0], [-1.0, 0.1]])
    found = nearest_neighbours(
        fit, np.array([1, 0, 2, 2]), np.array([[1.0, 0.1], [0.5, 0.9]]), neighbours=2
    )
    assert found.tolist() == [1, 0]


def test_no_block_of_scores_is_more_than_asked_for():
    blocks = list(score_blocks.score_blocks(50_000, 40_000))
    assert blocks[0].start == 0 and blocks[-1].stop == 50_000
    assert all(a.stop == b.start for a, b in pairwise(blocks))
    assert max(b.stop - b.start for b in blocks) * 40_000 <= score_blocks.SCORES_AT_ONCE
