"""Multinomial logistic regression with its penalty chosen inside the fit split.

>>> import numpy as np
>>> fit, codes = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([0, 0, 1, 1])
>>> choice = choose_penalty(fit, codes, penalties=(0.1, 1.0), folds=2, seed=0, max_iter=100)
>>> choice, fitted(fit, codes, choice, max_iter=100).log_probabilities(fit).argmax(axis=1)
(0.1, array([0, 0, 1, 1]))
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

# Largest gradient of the mean loss at which the solver stops. On the way to a penalty, held-out
# accuracy is settled long before the weights are; the probe that is reported goes on.
SEARCH_TOLERANCE = 1e-4
FINAL_TOLERANCE = 1e-6


@dataclass(frozen=True)
class LogisticProbe:
    """weight (class, channel), intercept (class,), and whether the solver reached its tolerance."""

    weight: np.ndarray
    intercept: np.ndarray
    converged: bool

    def log_probabilities(self, x: np.ndarray) -> np.ndarray:
        """Of x (image, channel): (image, class)."""
        return log_softmax(x @ self.weight.T + self.intercept, axis=1)


def fitted(fit: np.ndarray, codes: np.ndarray, penalty: float, max_iter: int) -> LogisticProbe:
    """The minimum of Σ −log p(y) + ‖W‖²/(2·`penalty`); fit (image, channel), codes (image,)."""
    solver = LogisticRegression(C=penalty, tol=FINAL_TOLERANCE, max_iter=max_iter)
    converged = _solve(solver, fit, codes)
    weight, intercept = solver.coef_, solver.intercept_
    if len(weight) == 1:  # of two classes, scikit-learn gives the second's logit over the first's
        weight = np.concatenate([np.zeros_like(weight), weight])
        intercept = np.array([0.0, intercept[0]])
    return LogisticProbe(weight, intercept, converged)


def choose_penalty(
    fit: np.ndarray,
    codes: np.ndarray,
    penalties: Sequence[float],
    folds: int,
    seed: int,
    max_iter: int,
) -> float:
    """The penalty (scikit-learn's C) with most right held-out images; the smallest of several."""
    penalties = sorted(penalties)
    if len(penalties) == 1:
        return penalties[0]
    right = np.zeros(len(penalties), dtype=int)
    for kept, held_out in StratifiedKFold(folds, shuffle=True, random_state=seed).split(fit, codes):
        # Each penalty starts from the solution of the one before.
        solver = LogisticRegression(tol=SEARCH_TOLERANCE, max_iter=max_iter, warm_start=True)
        for index, penalty in enumerate(penalties):
            _solve(solver.set_params(C=penalty), fit[kept], codes[kept])
            predicted = solver.predict(fit[held_out])
            right[index] += np.count_nonzero(predicted == codes[held_out])
    return penalties[right.argmax()]


def _solve(solver: LogisticRegression, x: np.ndarray, codes: np.ndarray) -> bool:
    """Fit, and say whether the solver reached its tolerance in place of its warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        solver.fit(x, codes)
    others = [w for w in caught if not issubclass(w.category, ConvergenceWarning)]
    for warning in others:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return len(others) == len(caught)
