"""Neural collapse of one tap and feature: of the images as they are, then of resamples of them.

>>> import numpy as np
>>> weight = np.array([[1.0, 0.0], [0.0, 1.0]])
>>> margin(np.array([[3.0, 1.0]]), np.array([0]), weight).round(6)  # 2 / √2
array([1.414214])
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vitals.metrics import class_geometry, class_spectrum
from vitals.metrics.class_arrays import Array, numbers, placed, ratio
from vitals.metrics.class_pairs import pair_statistics
from vitals.metrics.class_split import ClassSplit
from vitals.metrics.class_statistics import Deviations, Moments, Seen, blocks

if TYPE_CHECKING:
    import torch

Statistics = dict[str, np.ndarray]
# What a classifier sees (image, channel) of which images (image,) -> (image, class).
Logits = Callable[[np.ndarray, np.ndarray], np.ndarray]
# Class means that differ by less than this share of the features differ by rounding.
COINCIDE = 1e-10


@dataclass(frozen=True)
class Resampling:
    """How often the fit images are resampled, how often for `nc1_pinv`, and from which seed."""

    samples: int
    pinv_samples: int
    seed: int


@dataclass(frozen=True)
class TapFeature:
    """One vector an image: the fit images about their class means, and the test images.

    features (image, channel), as stored, of all images of the dataset; `seen` is what they are
    measured as. Statistics of the fit images are (1 + draw,): the estimate, then its resamples.
    Those of the test images are (test image,), absent where there is none.
    """

    images: ClassSplit
    features: np.ndarray
    seen: Seen
    groups: Deviations

    @classmethod
    def of(
        cls,
        features: np.ndarray,
        images: ClassSplit,
        seen: Seen = np.float64,
        where: "torch.device | None" = None,
    ) -> "TapFeature":
        """The same, with the class means of the fit images; where: the device that computes."""
        groups = Deviations.of(features, images.fit, images.sizes, seen, where)
        return cls(images, features, seen, groups)

    @property
    def coincides(self) -> bool:
        """Whether all class means are the same vector."""
        means = numbers(self.groups.means)
        return bool(np.ptp(means, axis=0).max() <= COINCIDE * self.groups.largest)

    def scatter(self, resampling: Resampling, tolerance: float) -> Statistics:
        """NC1 and NC2; "within" and "between" are the two sides of the quotient.

        `nc1_pinv` decomposes Σ_B anew in each draw, so only the first are taken; the rest is NaN.
        """
        found = [_scatter(self.groups.moments())]
        pinv = [np.array([class_spectrum.pinv_quotient(self.groups, tolerance)])]
        for drawn in self.groups.resampled(resampling.samples, resampling.seed):
            found.append(_scatter(drawn.moments))
            pinv.append(
                class_spectrum.pinv_draws(self.groups, drawn, tolerance, resampling.pinv_samples)
            )
        return {**_joined(found), "nc1_pinv": np.concatenate(pinv)}

    def duality(self, resampling: Resampling, weight: np.ndarray) -> Statistics:
        """NC3, of features as the classifier sees them and its weight (class, channel), centred."""
        weight = placed(weight, self.groups.where)
        found = [_duality(self.groups.moments(), weight)]
        for drawn in self.groups.resampled(resampling.samples, resampling.seed):
            found.append(_duality(drawn.moments, weight))
        return _joined(found)

    def accuracy(self) -> Statistics:
        """Whether the nearest class mean is that of the label."""
        return self._of_test_images(
            lambda x, rows: {"ncc_accuracy": self._nearest(x) == self.images.test_codes[rows]}
        )

    def agreement(self, logits: Logits, weight: np.ndarray) -> Statistics:
        """NC4, by the logits of the classifier that has this weight (class, channel)."""

        def of_block(x: np.ndarray, rows: slice) -> Statistics:
            said = logits(x, self.images.test[rows])
            return {
                "nc4_agreement": self._nearest(x) == said.argmax(axis=1),
                "nc4_margin": margin(said, self.images.test_codes[rows], weight),
            }

        return self._of_test_images(of_block)

    def _of_test_images(self, statistics: Callable[[np.ndarray, slice], Statistics]) -> Statistics:
        test = self.images.test
        found = [statistics(self.seen(self.features[test[b]]), b) for b in blocks(test.size)]
        return {name: values.astype(np.float64) for name, values in _joined(found).items()}

    def _nearest(self, x: np.ndarray) -> np.ndarray:
        return nearest_mean(x - self.groups.reference, numbers(self.groups.means))


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
    each_mean = {
        "within": moments.within,
        "between": class_geometry.between(moments),
        "nc2_equinorm": class_geometry.equinorm(moments.centered_means),
    }
    return {name: numbers(values) for name, values in each_mean.items()} | pair_statistics(moments)


def _duality(moments: Moments, weight: Array) -> Statistics:
    means = moments.centered_means
    found = {
        "nc3_alignment": class_geometry.alignment(means, weight),
        "nc3_distance": class_geometry.duality_distance(means, weight),
    }
    return {name: numbers(values) for name, values in found.items()}


def _joined(parts: list[Statistics]) -> Statistics:
    """Parts of the same statistics, one after the other."""
    return (
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
    )
