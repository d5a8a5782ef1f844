"""How many coordinates points need, from how much farther the second neighbour is than the first.

>>> import numpy as np
>>> line = np.random.default_rng(0).uniform(size=(2000, 1)) * np.ones(8)
>>> round(two_nn(neighbours(line).ratios), 1)
1.0
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

DISCARDED_SHARE = 0.1
# Points nearer than this share of the cloud's radius are copies: what is between them is rounding.
COPY = 1e-7
POINTS_PER_BLOCK = 512


@dataclass(frozen=True)
class Neighbours:
    """Of each point (point,): r₂/r₁, its distances to the two nearest others, and the nearest.

    The ratio is NaN for a copy of another point, whose r₁ is zero.
    """

    ratios: np.ndarray
    nearest: np.ndarray


def neighbours(points: np.ndarray) -> Neighbours:
    """The neighbours of points (point, channel), in float64; fewer than 3 have no ratio."""
    points = points.astype(np.float64)
    x = points - points.mean(axis=0)
    energy = np.square(x).sum(axis=1)
    if len(x) < 3 or energy.mean() <= COPY**2 * np.square(points).sum(axis=1).mean():
        return Neighbours(np.full(len(x), np.nan), np.arange(len(x)))
    ratios, nearest = [], []
    for first in range(0, len(x), POINTS_PER_BLOCK):
        block = slice(first, first + POINTS_PER_BLOCK)
        squared = energy[block, None] + energy - 2 * x[block] @ x.T  # (block, point)
        rows = np.arange(len(squared))
        squared[rows, first + rows] = np.inf
        two = np.argpartition(squared, 1, axis=1)[:, :2]
        # the difference itself, because that of the squares has no digits left for near points
        r1, r2 = np.square(x[block, None] - x[two]).sum(axis=2).T
        kept = r1 > COPY**2 * energy.mean()
        ratios.append(np.sqrt(np.divide(r2, r1, out=np.full_like(r1, np.nan), where=kept)))
        nearest.append(two[:, 0])
    return Neighbours(np.concatenate(ratios), np.concatenate(nearest))


def two_nn(ratios: np.ndarray, discarded_share: float = DISCARDED_SHARE) -> float:
    """The dimension d of −log(1 − F) = d·log(r₂/r₁): the least-squares line through 0.

    F = i/n at the i-th smallest of the n ratios (point,). The largest `discarded_share` of them,
    above 0, is left out of the fit; undefined ratios (NaN) are left out before. NaN without any.
    Source: Facco et al. 2017, Scientific Reports 7:12140, TWO-NN; they discard 0.1.
    """
    return _slope(np.sort(np.log(ratios[np.isfinite(ratios)])), discarded_share)


def resampled(
    found: Neighbours, counts: np.ndarray, discarded_share: float = DISCARDED_SHARE
) -> np.ndarray:
    """`two_nn` of each resample: (draw,). counts (draw, point): how often each point is drawn.

    It is the ratios that are drawn, each as it was among all points: a point drawn twice would be
    its own neighbour at distance 0. Points that are nearest neighbours share a distance, so those
    that hang together are drawn together, as often as the first of them; drawn one by one they gave
    intervals 0.7 times as wide as the estimate varies.
    """
    kept = np.isfinite(found.ratios)
    order = np.argsort(found.ratios[kept], kind="stable")
    logs = np.log(found.ratios[kept][order])
    drawn = counts[:, _firsts(found.nearest)][:, kept][:, order]
    return np.array([_slope(np.repeat(logs, count), discarded_share) for count in drawn])


def _firsts(nearest: np.ndarray) -> np.ndarray:
    """The first point of each point's group, in which all are linked through nearest neighbours."""
    points = np.arange(len(nearest))
    links = coo_array((np.ones(len(points)), (points, nearest)), shape=(len(points),) * 2)
    _, group = connected_components(links, directed=False)
    return np.unique(group, return_index=True)[1][group]


def _slope(logs: np.ndarray, discarded_share: float) -> float:
    """From sorted log(r₂/r₁)."""
    kept = min(int(len(logs) * (1 - discarded_share)), len(logs) - 1)  # at F = 1 is no logarithm
    x = logs[: max(kept, 0)]
    y = -np.log1p(-np.arange(1, len(x) + 1) / max(len(logs), 1))
    energy = x @ x
    return float(x @ y / energy) if energy > 0 else np.nan
