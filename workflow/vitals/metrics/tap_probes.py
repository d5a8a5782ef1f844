"""All probes of one tap and feature, fitted on the fit images and asked about the test images.

>>> import numpy as np
>>> standardised(np.array([[1.0, 7.0], [3.0, 7.0]]), np.array([[4.0, 8.0]]))
(array([[-1.,  0.],
       [ 1.,  0.]]), array([[2., 0.]]))
"""

from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from vitals.metrics import closed_form_probes, logistic_probe
from vitals.metrics.class_split import ClassSplit, without_offset

# A channel that varies by less than this share of its own size varies by rounding.
CONSTANT = 1e-10


@dataclass(frozen=True)
class ProbeSettings:
    """penalties ascending; the rest as `probes.compute` has them."""

    penalties: tuple[float, ...]
    folds: int
    seed: int
    neighbours: int
    max_iter: int


@dataclass(frozen=True)
class TapProbes:
    """What the probes say of the test images: predicted classes and −log p(y), (test image,)."""

    predicted: np.ndarray
    nll: np.ndarray
    ridge: np.ndarray
    neighbours: np.ndarray
    penalty: float
    ridge_penalty: float
    converged: bool


def probe_tap(
    fit: np.ndarray, test: np.ndarray, images: ClassSplit, settings: ProbeSettings
) -> TapProbes:
    """From the features fit (image, channel) and test (test image, channel), as stored."""
    fit, test = standardised(fit, test)
    if not fit.any():
        return _most_frequent(images, settings.penalties[0])
    with threadpool_limits(1):  # the same sums in the same order, however many processes there are
        return _fitted(fit, test, images, settings)


def standardised(fit: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both less the mean of fit, over its deviation, by channel, in float64.

    A channel that does not vary in fit is zero in both.
    """
    first, size = fit[0], np.abs(fit.astype(np.float64)).max(axis=0)
    fit, test = without_offset(fit, first), without_offset(test, first)
    mean, deviation = fit.mean(axis=0), fit.std(axis=0)
    varies = deviation > CONSTANT * size
    scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=varies)
    return (fit - mean) * scale, (test - mean) * scale


def _most_frequent(images: ClassSplit, penalty: float) -> TapProbes:
    """Of features that are the same for every image, which leave the class frequencies alone."""
    majority = np.full(images.test.size, images.sizes.argmax())
    nll = -np.log(images.sizes / images.sizes.sum())[images.test_codes]
    return TapProbes(majority, nll, majority, majority, penalty, penalty, True)


def _fitted(
    fit: np.ndarray, test: np.ndarray, images: ClassSplit, settings: ProbeSettings
) -> TapProbes:
    codes, penalties = images.fit_codes, settings.penalties
    penalty = logistic_probe.choose_penalty(
        fit, codes, penalties, settings.folds, settings.seed, settings.max_iter
    )
    logistic = logistic_probe.fitted(fit, codes, penalty, settings.max_iter)
    log_probabilities = logistic.log_probabilities(test)
    ridge = closed_form_probes.ridge(fit, codes, test, penalties)
    return TapProbes(
        predicted=log_probabilities.argmax(axis=1),
        nll=-np.take_along_axis(log_probabilities, images.test_codes[:, None], axis=1)[:, 0],
        ridge=ridge.predicted,
        neighbours=closed_form_probes.nearest_neighbours(fit, codes, test, settings.neighbours),
        penalty=penalty,
        ridge_penalty=ridge.penalty,
        converged=logistic.converged,
    )
