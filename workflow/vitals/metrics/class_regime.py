"""Where the width D, the number of classes C or the images of a class alone rule a variable.

>>> for warned in warnings_of(768, np.full(1000, 50)):
...     print(*warned.names, warned.why)
nc1_pinv inflated about 4 times, as D = 768 is near C − 1 = 999
nc2_equiangular at least 0.0174 for means of equal norm, as D = 768 < C − 1 = 999
nc2_etf_gap at least 0.4964, as D = 768 < C − 1 = 999: read nc2_etf_excess
>>> warnings_of(48, np.full(10, 50))
[]
"""

from dataclasses import dataclass

import numpy as np

# How many times random class means may inflate tr(Σ_W Σ_B⁺) before a result warns.
INFLATION = 2
# The mean of fewer images than this still holds over a fifth of the energy of one image's noise.
FEW = 5
SHAPE = ("nc2_equinorm", "nc2_equiangular", "nc2_etf_gap", "nc2_etf_excess")
NOT_DEBIASED = ("nc1_cdnv", "nc1_pinv", *SHAPE, "nc3_alignment", "nc3_distance")


@dataclass(frozen=True)
class Warned:
    """Variables that the numbers rule, and how."""

    names: tuple[str, ...]
    why: str


def warnings_of(channels: int, sizes: np.ndarray) -> list[Warned]:
    """What the numbers alone do; sizes (class,): fit images of each class."""
    classes = sizes.size
    trivial = [Warned(SHAPE, "0 whatever the features, as C = 2")]
    found = _of_width(channels, classes) if classes > 2 else trivial
    images = classes / np.sum(1 / sizes)  # harmonic mean
    if round(images, 1) < FEW:
        why = f"of class means of {images:.1f} images each, whose noise they take for signal"
        found.append(Warned(NOT_DEBIASED, why))
    return found


def in_words(found: list[Warned]) -> str:
    """All that is warned of, in one line."""
    return "; ".join(f"{', '.join(warned.names)} {warned.why}" for warned in found)


def note(found: list[Warned], name: str) -> str:
    """What is warned of one variable."""
    return "; ".join(warned.why for warned in found if name in warned.names)


def _of_width(channels: int, classes: int) -> list[Warned]:
    found = []
    # Of random means, that of the inverse eigenvalues of Σ_B grows as 1/|1 − D/(C−1)|.
    distance = abs(1 - channels / (classes - 1))
    if distance * INFLATION < 1:
        times = f"about {1 / distance:.0f} times" if distance else "without bound"
        why = f"inflated {times}, as D = {channels} is near C − 1 = {classes - 1}"
        found.append(Warned(("nc1_pinv",), why))
    if channels < classes - 1:
        narrow = f"as D = {channels} < C − 1 = {classes - 1}"
        least = equiangular_floor(channels, classes)
        why = f"at least {least:.4f} for means of equal norm, {narrow}"
        found.append(Warned(("nc2_equiangular",), why))
        why = f"at least {etf_floor(channels, classes):.4f}, {narrow}: read nc2_etf_excess"
        found.append(Warned(("nc2_etf_gap",), why))
    return found


def etf_floor(channels: int, classes: int) -> np.float64:
    """The least gap of `classes` means in `channels` dimensions: 0 where a simplex fits."""
    rank = min(channels, classes - 1)
    return np.sqrt(2 - 2 * np.sqrt(rank / (classes - 1)))


def equiangular_floor(channels: int, classes: int) -> np.float64:
    """The least deviation of the cosines of centred means of equal norm (Welch 1974).

    The cosines of C vectors have a mean square of at least (C−D)/(D(C−1)) over pairs, and the
    mean −1/(C−1).
    """
    missing = max(classes - 1 - channels, 0)
    return np.sqrt(classes * missing / channels) / (classes - 1)
