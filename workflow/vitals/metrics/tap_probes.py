"""All probes of one tap and feature, fitted on the fit images and asked about the test images.

>>> import numpy as np
>>> standardised(np.array([[1.0, 7.0], [3.0, 7.0]]), np.array([[4.0, 8.0]]))
(array([[-1.,  0.],
       [ 1.,  0.]]), array([[2., 0.]]))
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from vitals.metrics import axes, closed_form_probes
from vitals.metrics.class_split import ClassSplit, without_offset
from vitals.metrics.closed_form_probes import ClassSums
from vitals.metrics.logistic_probe import LogisticProbe, Search
from vitals.metrics.nearest_neighbours import nearest_neighbours

# A channel that varies by less than this share of its own size varies by rounding.
CONSTANT = 1e-10


@dataclass(frozen=True)
class ProbeSettings:
    """How a penalty is searched for, and how many neighbours vote."""

    search: Search
    neighbours: int


@dataclass(frozen=True)
class Features:
    """Standardised features fit (image, channel) and test (test image, channel)."""

    fit: np.ndarray
    test: np.ndarray

    @property
    def vary(self) -> bool:
        """Whether the fit images differ at all."""
        return bool(self.fit.any())


@dataclass(frozen=True)
class Tap:
    """One tap and feature in the dataset: `parts` are features that stand side by side."""

    pooled: xr.DataArray
    layer: int
    parts: Sequence[str]
    images: ClassSplit

    @property
    def channels(self) -> int:
        """Of all parts together."""
        return len(self.parts) * self.pooled.sizes["channel"]

    def read(self) -> Features:
        """Raises VitalsError where a number is not finite."""
        found = [self._part(part) for part in self.parts]
        if len(found) == 1:
            return Features(*found[0])
        return Features(*(np.concatenate(side, axis=1) for side in zip(*found, strict=True)))

    def _part(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        array = self.pooled.isel(layer=self.layer).sel(feature=part).transpose("image", "channel")
        values = array.values
        axes.require_finite(array, values)
        return standardised(values[self.images.fit], values[self.images.test])


def standardised(fit: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both less the mean of fit, over its deviation, by channel, in float64.

    A channel that does not vary in fit is zero in both.
    """
    first, size = fit[0], np.abs(fit).max(axis=0).astype(np.float64)
    fit, test = without_offset(fit, first), without_offset(test, first)
    mean = fit.mean(axis=0)
    fit -= mean
    deviation = np.sqrt(np.einsum("ic,ic->c", fit, fit) / len(fit))
    varies = deviation > CONSTANT * size
    scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=varies)
    fit *= scale
    test -= mean
    test *= scale
    return fit, test


@dataclass(frozen=True)
class TapProbes:
    """What the probes say of the test images: predicted classes and −log p(y), (test image,)."""

    predicted: np.ndarray
    nll: np.ndarray
    ridge: np.ndarray
    discriminant: np.ndarray
    neighbours: np.ndarray
    penalty: float
    ridge_penalty: float
    discriminant_penalty: float
    gradient: float


def _most_frequent(images: ClassSplit, penalty: float) -> TapProbes:
    """Of features that are the same for every image, which leave the class frequencies alone."""
    majority = np.full(images.test.size, images.majority)
    nll = -np.log(images.sizes / images.sizes.sum())[images.test_codes]
    return TapProbes(majority, nll, *[majority] * 3, *[penalty] * 3, gradient=0.0)


def all_probes(
    features: Features, logistic: LogisticProbe | None, images: ClassSplit, settings: ProbeSettings
) -> TapProbes:
    """The logistic probe that was fitted, and the others beside it; None where nothing varies."""
    if logistic is None:
        return _most_frequent(images, settings.search.penalties[0])
    fit, codes, test = features.fit, images.fit_codes, features.test
    predicted, nll = logistic.predict(test, images.test_codes)
    sums, penalties = ClassSums.of(fit, codes), settings.search.penalties
    ridge = closed_form_probes.ridge(sums, fit, codes, test, penalties)
    discriminant = closed_form_probes.discriminant(sums, fit, codes, test, penalties)
    return TapProbes(
        predicted=predicted,
        nll=nll,
        ridge=ridge.predicted,
        discriminant=discriminant.predicted,
        neighbours=nearest_neighbours(fit, codes, test, settings.neighbours),
        penalty=logistic.penalty,
        ridge_penalty=ridge.penalty,
        discriminant_penalty=discriminant.penalty,
        gradient=logistic.largest_gradient(fit, codes),
    )
