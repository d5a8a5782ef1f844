"""Neural collapse of one tap and feature: of the images as they are, then of resamples of them.

>>> import numpy as np
>>> weight = np.array([[1.0, 0.0], [0.0, 1.0]])
>>> margin(np.array([[3.0, 1.0]]), np.array([0]), weight).round(6)  # 2 / √2
array([1.414214])
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vitals.metrics import class_geometry
from vitals.metrics.class_geometry import ratio
from vitals.metrics.class_split import ClassSplit, without_offset
from vitals.metrics.class_statistics import Deviations, Moments
from vitals.metrics.classifier_lens import Classifier

Statistics = dict[str, np.ndarray]
# Class means that differ by less than this share of the features differ by rounding.
COINCIDE = 1e-10


@dataclass(frozen=True)
class TapFeature:
    """One vector an image: the fit images about their class means, and the test images.

    Statistics of the fit images are (1 + draw,): the estimate, then its resamples by counts
    (draw, image). Those of the test images are (test image,), absent where there is none.
    """

    images: ClassSplit
    values: np.ndarray  # (image, channel), as given
    groups: Deviations
    nearest: np.ndarray  # class mean of each test image

    @classmethod
    def of(cls, values: np.ndarray, images: ClassSplit) -> "TapFeature":
        """From the values (image, channel) of all images of the dataset."""
        first = values[images.fit[0]]
        groups = Deviations.of(without_offset(values[images.fit], first), images.sizes)
        nearest = nearest_mean(without_offset(values[images.test], first), groups.means)
        return cls(images, values, groups, nearest)

    @property
    def coincides(self) -> bool:
        """Whether all class means are the same vector."""
        largest = np.abs(self.values[self.images.fit]).max()
        return bool(np.ptp(self.groups.means, axis=0).max() <= COINCIDE * largest)

    def scatter(self, counts: np.ndarray, tolerance: float, pinv_samples: int) -> Statistics:
        """NC1 and NC2; "within" and "between" are the two sides of the quotient.

        `nc1_pinv` decomposes Σ_B anew in each draw, so only the first `pinv_samples` are taken; the
        rest is NaN.
        """
        means = self.groups.moments().centered_means[0]
        pinv = np.full(1 + len(counts), np.nan)
        pinv[0] = class_geometry.pinv_quotient(self.groups, means, tolerance)
        pinv[1 : 1 + pinv_samples] = self._pinv_draws(counts[:pinv_samples], tolerance)
        return {**self._each(_scatter, counts), "nc1_pinv": pinv}

    def duality(self, counts: np.ndarray, classifier: Classifier) -> Statistics:
        """NC3; the values are what the classifier sees."""
        weight = classifier.centered_weight
        return self._each(lambda moments: _duality(moments, weight), counts)

    def accuracy(self) -> Statistics:
        """Whether the nearest class mean is that of the label."""
        if not self.nearest.size:
            return {}
        return {"ncc_accuracy": (self.nearest == self.images.test_codes).astype(np.float64)}

    def agreement(self, classifier: Classifier, logits: np.ndarray | None) -> Statistics:
        """NC4, by the model's own logits (image, class) or else those of the classifier here."""
        if not self.nearest.size or (logits is None and classifier.bias is None):
            return {}
        test = self.images.test
        logits = classifier.logits(self.values[test]) if logits is None else logits[test]
        return {
            "nc4_agreement": (self.nearest == logits.argmax(axis=1)).astype(np.float64),
            "nc4_margin": margin(logits, self.images.test_codes, classifier.weight),
        }

    def _each(self, statistics: Callable[[Moments], Statistics], counts: np.ndarray) -> Statistics:
        blocks = [statistics(self.groups.moments())]
        blocks += [statistics(moments) for moments, _ in self.groups.resampled(counts)]
        return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}

    def _pinv_draws(self, counts: np.ndarray, tolerance: float) -> list[float]:
        weights = iter(counts)
        return [
            class_geometry.pinv_quotient(self.groups, means, tolerance, next(weights), shift)
            for moments, moved in self.groups.resampled(counts)
            for means, shift in zip(moments.centered_means, moved, strict=True)
        ]


def nearest_mean(x: np.ndarray, means: np.ndarray) -> np.ndarray:
    """The class whose mean (class, channel) is nearest to each x (image, channel): (image,)."""
    # ‖x − m‖² less ‖x‖², which is the same for every class
    return (np.square(means).sum(axis=1) - 2 * x @ means.T).argmin(axis=1)


def margin(logits: np.ndarray, codes: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(z_y − max z_other) / ‖w_y − w_other‖ of each image: its distance inside the boundary.

    logits (image, class), codes (image,) the label's class, weight (class, channel).
    """
    image = np.arange(len(codes))
    others = logits.copy()
    others[image, codes] = -np.inf
    best = others.argmax(axis=1)
    apart = np.linalg.norm(weight[codes] - weight[best], axis=1)
    return ratio(logits[image, codes] - logits[image, best], apart)


def _scatter(moments: Moments) -> Statistics:
    means = moments.centered_means
    return {
        "within": moments.within,
        "between": class_geometry.between(moments),
        "nc1_cdnv": class_geometry.distance_variance(moments),
        "nc2_equinorm": class_geometry.equinorm(means),
        "nc2_equiangular": class_geometry.equiangular(means),
        "nc2_etf_gap": class_geometry.gap(means),
    }


def _duality(moments: Moments, weight: np.ndarray) -> Statistics:
    means = moments.centered_means
    return {
        "nc3_alignment": class_geometry.alignment(means, weight),
        "nc3_distance": class_geometry.duality_distance(means, weight),
    }
