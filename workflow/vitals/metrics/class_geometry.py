"""The formulas of neural collapse that read each class mean once, with a leading axis of draws.

>>> import numpy as np
>>> means = np.array([[[3.0, 0.0], [-1.0, 0.0], [-2.0, 0.0]]])
>>> alignment(means, 2 * means[0]).round(6), equinorm(means).round(6)
(array([1.]), array([0.408248]))
"""

from vitals.metrics.class_arrays import Array, ratio
from vitals.metrics.class_statistics import Moments


def between(moments: Moments) -> Array:
    """tr Σ_B − tr Σ_W / n, (draw,): the spread of class means less that of their own noise.

    Σ_B = Σ_c (m_c − m̄)(m_c − m̄)ᵀ / C with m̄ the mean of the class means; n is the harmonic mean
    of the class sizes, so that tr Σ_W / n = Σ_c tr Σ_W / n_c / C, the mean noise of a class mean.
    """
    spread = (moments.centered_means**2).sum(axis=2).mean(axis=1)
    return spread - moments.within * (1 / moments.sizes).mean()


def equinorm(means: Array) -> Array:
    """Standard deviation over mean of ‖m_c‖, for centred means (draw, class, channel)."""
    norms = (means**2).sum(axis=2) ** 0.5
    mean = norms.mean(axis=1)
    return ratio(((norms - mean[:, None]) ** 2).mean(axis=1) ** 0.5, mean)


def alignment(means: Array, weight: Array) -> Array:
    """Mean over classes of cos(w_c, m_c), both centred over classes, (draw,)."""
    scale = ((means**2).sum(axis=2) * (weight**2).sum(axis=1)) ** 0.5
    return ratio((means * weight).sum(axis=2), scale).mean(axis=1)


def duality_distance(means: Array, weight: Array) -> Array:
    """‖W/‖W‖ − M/‖M‖‖, both centred over classes, Frobenius norms, (draw,)."""
    norm = (means**2).sum(axis=2).sum(axis=1) ** 0.5
    difference = ratio(weight, (weight**2).sum() ** 0.5) - ratio(means, norm[:, None, None])
    return (difference**2).sum(axis=2).sum(axis=1) ** 0.5
