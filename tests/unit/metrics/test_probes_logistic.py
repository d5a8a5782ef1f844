"""The two solvers of the logistic probe, beside scikit-learn's minimum and beside each other."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from probe_features import clusters, parts
from vitals.metrics import batched_lbfgs, batched_logistic, logistic_probe
from vitals.metrics.logistic_probe import CONVERGED, LogisticProbe, Search

pytestmark = pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
SOLVER = pytest.mark.parametrize("solver", ["scikit-learn", "batched"])
# classes and channels; of 20 classes there are more than channels
PROBLEM = pytest.mark.parametrize(("classes", "channels"), [(2, 8), (4, 40), (20, 12)])


def search_of(penalties=PENALTIES, seed=0, max_iter=1000):
    return Search(tuple(penalties), folds=5, seed=seed, max_iter=max_iter)


def solved(solver, fit, codes, search):
    if solver == "scikit-learn":
        return logistic_probe.probe(fit, codes, search)
    return batched_logistic.probes([fit], codes, search, torch.device("cpu"))[0]


def minimum(fit, codes, penalty):
    """Scikit-learn's, as near as it comes."""
    found = LogisticRegression(C=penalty, tol=1e-9, max_iter=10_000).fit(fit, codes)
    weight, intercept = found.coef_, found.intercept_
    if len(weight) == 1:
        weight = np.concatenate([np.zeros_like(weight), weight])
        intercept = np.array([0, intercept[0]])
    return LogisticProbe(weight, intercept, penalty)


@SOLVER
@PROBLEM
@pytest.mark.parametrize("penalty", PENALTIES)
def test_both_solvers_come_to_the_minimum_of_scikit_learn(classes, channels, penalty, solver):
    fit, codes, test, asked = parts(*clusters(600, 2.5, classes=classes, channels=channels))
    expected = minimum(fit, codes, penalty)
    found = solved(solver, fit, codes, search_of([penalty]))
    assert found.penalty == penalty
    assert found.objective(fit, codes) == pytest.approx(expected.objective(fit, codes), rel=1e-4)
    right = [(of.predict(test, asked)[0] == asked).mean() for of in (found, expected)]
    assert right[0] == pytest.approx(right[1], abs=0.002)
    assert found.largest_gradient(fit, codes) < CONVERGED


@SOLVER
@PROBLEM
def test_the_penalty_is_that_of_a_cold_search_over_the_same_folds(classes, channels, solver):
    x, label = clusters(400, 1.5, classes=classes, channels=channels)
    fit, codes, *_ = parts(x, label)
    folds = StratifiedKFold(5, shuffle=True, random_state=3)
    right = {}
    for penalty in PENALTIES:
        cold = LogisticRegression(C=penalty, tol=1e-8, max_iter=10_000)
        right[penalty] = np.sum(cross_val_predict(cold, fit, codes, cv=folds) == codes)
    chosen = solved(solver, fit, codes, search_of(seed=3)).penalty
    assert right[chosen] >= max(right.values()) - 1
    assert max(right.values()) > min(right.values()) + 5


def test_a_tolerance_that_forgets_the_number_of_classes_stops_too_early():
    """Each gradient is a mean over all images, of which a class has few."""
    generator, codes = np.random.default_rng(0), np.repeat(np.arange(600), 4)
    x = 0.7 * generator.standard_normal((600, 64))[codes] + generator.standard_normal((2400, 64))
    fit = (x - x.mean(axis=0)) / x.std(axis=0)
    careless = LogisticRegression(C=10, tol=1e-4, max_iter=20).fit(fit, codes)
    stopped = LogisticProbe(careless.coef_, careless.intercept_, 10.0)
    found = logistic_probe.fitted(fit, codes, penalty=10.0, max_iter=20)
    assert careless.n_iter_ < 20
    assert stopped.objective(fit, codes) > 1.2 * found.objective(fit, codes)
    assert stopped.largest_gradient(fit, codes) > 100 * CONVERGED


@SOLVER
def test_a_gradient_says_where_a_solver_was_stopped(solver):
    fit, codes, *_ = parts(*clusters(apart=1.5))
    assert (
        solved(solver, fit, codes, search_of([1.0], max_iter=2)).largest_gradient(fit, codes)
        > 10 * CONVERGED
    )


def test_the_gradient_is_that_of_the_objective():
    fit, codes, *_ = parts(*clusters(60, 1.5, channels=3, classes=3))
    generator = np.random.default_rng(0)
    weight, intercept = generator.standard_normal((3, 3)), generator.standard_normal(3)

    def objective(at):
        return LogisticProbe(at[:, :-1], at[:, -1], 0.1).objective(fit, codes)

    at = np.concatenate([weight, intercept[:, None]], axis=1)
    step = 1e-6 * np.eye(at.size).reshape(at.size, *at.shape)
    slopes = [(objective(at + s) - objective(at - s)) / 2e-6 for s in step]
    found = LogisticProbe(weight, intercept, 0.1).largest_gradient(fit, codes)
    assert found == pytest.approx(3 * np.abs(slopes).max(), rel=1e-6)


def test_the_batched_loss_and_its_gradient_are_those_of_autograd():
    generator = torch.Generator().manual_seed(0)
    x, weight = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((2, 30, 5), (2, 5, 3, 4))
    )
    codes = torch.arange(30) % 4
    share = torch.rand(30, 3, generator=generator, dtype=torch.float64)
    decay = torch.rand(2, 3, generator=generator, dtype=torch.float64)
    value, gradient = batched_logistic.MultinomialLoss(x, codes, share, decay).at(weight)
    weight.requires_grad_()
    log_p = torch.einsum("tid,tdpc->tipc", x, weight).log_softmax(dim=3)
    expected = -(share * log_p[:, torch.arange(30), :, codes].transpose(0, 1)).sum(dim=1)
    expected = expected + decay / 2 * weight[:, :-1].square().sum(dim=(1, 3))
    expected.sum().backward()
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, weight.grad)


@pytest.mark.parametrize("numbers", [1, 2**29])
@pytest.mark.parametrize("scores", [1, 2**25])
def test_taps_are_solved_together_as_they_are_alone(monkeypatch, numbers, scores):
    monkeypatch.setattr(batched_logistic, "NUMBERS", numbers)  # all problems at once, or each alone
    monkeypatch.setattr(batched_logistic, "SCORES_AT_ONCE", scores)
    fit, codes, *_ = parts(*clusters(120, 1.5))
    noise = np.random.default_rng(1).standard_normal(fit.shape)
    taps = [fit, noise, fit + 0.5 * noise]
    together = batched_logistic.probes(taps, codes, search_of(), torch.device("cpu"))
    assert together[0].penalty != together[1].penalty
    for tap, found in zip(taps, together, strict=True):
        alone = logistic_probe.probe(tap, codes, search_of())
        assert found.penalty == alone.penalty
        np.testing.assert_allclose(found.weight, alone.weight, atol=1e-3)


def test_a_batch_is_as_many_taps_as_the_device_holds():
    small = batched_logistic.taps_at_once(1200, 48, 10, search_of())
    large = batched_logistic.taps_at_once(40_000, 2048, 1000, search_of())
    assert small > 26 * 3 and large == 1


class Quadratics:
    """½ Σ curvature (x − target)², from problems whose curvature is 1 to one that is 10⁶."""

    def __init__(self, curvature, target):
        self.curvature, self.target = curvature, target

    def at(self, x):
        away = x - self.target
        return (self.curvature * away**2 / 2).sum(dim=(1, 3)), self.curvature * away

    def of(self, taps, problems):
        return Quadratics(*(t[taps][:, :, problems] for t in (self.curvature, self.target)))


def test_problems_of_unlike_difficulty_all_come_to_their_minimum():
    generator = torch.Generator().manual_seed(0)
    shape = (3, 6, 4, 2)
    spread = torch.linspace(0, 6, 12).reshape(3, 1, 4, 1)  # tap and problem
    curvature = 10 ** (spread * torch.rand(shape, generator=generator)).double()
    target = torch.randn(shape, generator=generator, dtype=torch.float64)
    start = torch.zeros_like(target)
    found = batched_lbfgs.minimise(Quadratics(curvature, target), start, 1e-8, 5000)
    torch.testing.assert_close(found, target, rtol=0, atol=1e-6)
    assert not start.any()
    few = batched_lbfgs.minimise(Quadratics(curvature, target), start, 1e-8, 3)
    torch.testing.assert_close(few[0, :, 0], target[0, :, 0])  # curvature 1: at once
    assert (few[-1, :, -1] - target[-1, :, -1]).abs().max() > 1e-3
