"""Multinomial logistic regression with its penalty chosen inside the fit split.

>>> import numpy as np
>>> fit, codes = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([0, 0, 1, 1])
>>> found = probe(fit, codes, Search(penalties=(0.1, 1.0), folds=2, seed=0, max_iter=100))
>>> found.penalty, found.predict(fit, codes)[0], found.largest_gradient(fit, codes) < 1e-6
(0.1, array([0, 0, 1, 1]), True)
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from vitals.metrics.score_blocks import score_blocks


@dataclass(frozen=True)
class Search:
    """penalties ascending, and the stratified folds of the fit images that choose among them."""

    penalties: tuple[float, ...]
    folds: int
    seed: int
    max_iter: int


@dataclass(frozen=True)
class LogisticProbe:
    """The minimum of Σ −log p(y) + ‖W‖²/(2·penalty): weight (class, channel), intercept (class,).

    Of two classes the first has the logit 0, so that W is the weight of the second alone.
    """

    weight: np.ndarray
    intercept: np.ndarray
    penalty: float

    def predict(self, x: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Classes that x (image, channel) are taken for, and −log p(codes): both (image,)."""
        predicted, nll = np.empty(len(x), dtype=codes.dtype), np.empty(len(x))
        for block in score_blocks(len(x), len(self.weight)):
            log_p = self._log_probabilities(x[block])
            predicted[block] = log_p.argmax(axis=1)
            nll[block] = -_own(log_p, codes[block])
        return predicted, nll

    def objective(self, x: np.ndarray, codes: np.ndarray) -> float:
        """What is minimised, over the number of images: of x (image, channel), codes (image,)."""
        decay = np.square(self.weight).sum() / (2 * self.penalty * len(x))
        return float(self.predict(x, codes)[1].mean() + decay)

    def largest_gradient(self, x: np.ndarray, codes: np.ndarray) -> float:
        """Largest entry of the gradient of the objective, times the number of classes.

        An entry is a mean over images to which each class adds its share: the product does not
        shrink with the number of classes.
        """
        classes = len(self.weight)
        gradient = self.weight / self.penalty
        intercept = np.zeros(classes)
        for block in score_blocks(len(x), classes):
            residual = np.exp(self._log_probabilities(x[block]))  # (image, class)
            residual[np.arange(len(residual)), codes[block]] -= 1
            gradient += residual.T @ x[block]
            intercept += residual.sum(axis=0)
        free = slice(1, None) if classes == 2 else slice(None)
        largest = max(np.abs(gradient[free]).max(), np.abs(intercept).max())
        return float(largest * classes / len(x))

    def _log_probabilities(self, x: np.ndarray) -> np.ndarray:
        return log_softmax(x @ self.weight.T + self.intercept, axis=1)


def _own(scores: np.ndarray, codes: np.ndarray) -> np.ndarray:
    return np.take_along_axis(scores, codes[:, None], axis=1)[:, 0]


# Largest gradient, times the number of classes, at which a solver stops. On the way to a penalty,
# held-out accuracy is settled long before the weights are: those fits are in float32, and stop
# early. The probe that is reported is in float64, and has converged where its gradient, taken
# anew, is no larger than CONVERGED.
SEARCH_TOLERANCE = 1e-3
FINAL_TOLERANCE = 1e-5
CONVERGED = 1e-4


def held_out_folds(codes: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The stratified fold that holds each image out: (image,), from 0 to `folds` − 1."""
    found = np.empty(len(codes), dtype=np.int64)
    split = StratifiedKFold(folds, shuffle=True, random_state=seed).split(codes[:, None], codes)
    for fold, (_, held_out) in enumerate(split):
        found[held_out] = fold
    return found


def probe(fit: np.ndarray, codes: np.ndarray, search: Search) -> LogisticProbe:
    """By scikit-learn, at the penalty of the search; fit (image, channel), codes (image,)."""
    return fitted(fit, codes, choose_penalty(fit, codes, search), search.max_iter)


def fitted(fit: np.ndarray, codes: np.ndarray, penalty: float, max_iter: int) -> LogisticProbe:
    """By scikit-learn, at one penalty (its C); fit (image, channel), codes (image,)."""
    tolerance = FINAL_TOLERANCE / (codes.max() + 1)
    solver = LogisticRegression(C=penalty, tol=tolerance, max_iter=max_iter).fit(fit, codes)
    weight, intercept = solver.coef_, solver.intercept_
    if len(weight) == 1:  # of two classes, the second's logit over the first's
        weight = np.concatenate([np.zeros_like(weight), weight])
        intercept = np.array([0.0, intercept[0]])
    return LogisticProbe(weight, intercept, penalty)


def choose_penalty(fit: np.ndarray, codes: np.ndarray, search: Search) -> float:
    """The penalty (scikit-learn's C) with most right held-out images; the smallest of several."""
    if len(search.penalties) == 1:
        return search.penalties[0]
    fit, tolerance = fit.astype(np.float32), SEARCH_TOLERANCE / (codes.max() + 1)
    fold_of = held_out_folds(codes, search.folds, search.seed)
    right = np.zeros(len(search.penalties), dtype=int)
    for fold in range(search.folds):
        held_out = fold_of == fold
        kept, kept_codes = fit[~held_out], codes[~held_out]
        # Each penalty starts from the solution of the one before.
        solver = LogisticRegression(tol=tolerance, max_iter=search.max_iter, warm_start=True)
        for index, penalty in enumerate(search.penalties):
            solver.set_params(C=penalty).fit(kept, kept_codes)
            predicted = solver.predict(fit[held_out])
            right[index] += np.count_nonzero(predicted == codes[held_out])
    return search.penalties[right.argmax()]
