"""What pairs of class means are: their distances, their angles, and how near to a simplex.

The products of all means with all, C² of a draw, are never held: a tile of rows at a time.

>>> import numpy as np
>>> triangle = 2 * np.array([[[1, 0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]]])
>>> found = pair_statistics(Moments(triangle, np.ones((1, 3)), np.full(3, 9.0)))
>>> {name: values.round(6).tolist() for name, values in found.items()}
{'nc1_cdnv': [0.083333], 'nc2_equiangular': [0.0], 'nc2_etf_gap': [0.0]}
"""

import numpy as np

from vitals.metrics.class_arrays import Array, library, numbers, ratio
from vitals.metrics.class_statistics import Moments

TILE = 2**16  # products of class means held at once: half a megabyte, in a processor's cache


def pair_statistics(moments: Moments) -> dict[str, np.ndarray]:
    """`nc1_cdnv`, `nc2_equiangular` and `nc2_etf_gap` of each draw, (draw,).

    nc1_cdnv: mean over class pairs of (var_a + var_b) / (2 ‖m_a − m_b‖²), class-distance
    normalised variance (Galanti, György and Hutter 2022, definition 1); NaN where two coincide.
    nc2_equiangular: standard deviation of cos(m_a, m_b) over pairs of centred means. Their mean is
    −1/(C−1) whenever the norms are equal, and says nothing.
    nc2_etf_gap: ‖MMᵀ/‖MMᵀ‖ − P/√(C−1)‖ with P = I − 11ᵀ/C. Of t = tr MMᵀ/(C−1) and
    x = ‖MMᵀ − tP‖²/(t²(C−1)), in which nothing cancels, it is √(2 − 2/√(1 + x)).
    """
    draws, classes, _ = moments.means.shape
    step = max(1, TILE // classes**2)
    blocks = [slice(start, start + step) for start in range(0, draws, step)]
    found = [_of_draws(moments.centered_means[b], moments.variances[b]) for b in blocks]
    return {name: np.concatenate([numbers(part[name]) for part in found]) for name in found[0]}


def _of_draws(means: Array, variances: Array) -> dict[str, Array]:
    """Of centred means (draw, class, channel) and variances (draw, class)."""
    of, (draws, classes, _) = library(means), means.shape
    ordered = classes * (classes - 1)  # pairs
    squares = (means**2).sum(axis=2)  # (draw, class)
    inverse = ratio(1.0, squares**0.5)
    common = ((means * inverse[:, :, None]).sum(axis=1) ** 2).sum(axis=1)
    cosine = (common - classes) / ordered  # the mean over pairs, (draw,)
    scale = squares.sum(axis=1) / (classes - 1)  # t

    closeness = angles = off_simplex = 0.0
    step = max(1, TILE // (draws * classes))
    for start in range(0, classes, step):
        rows, rest = slice(start, start + step), slice(start, classes)
        products = means[:, rows] @ means[:, rest].mT  # (draw, row, class from the first row on)
        distances = squares[:, rows, None] + squares[:, None, rest]
        distances -= 2 * products
        closeness = closeness + _normalised(distances, variances[:, rows], variances[:, rest])
        cosines = products * inverse[:, rows, None]
        cosines *= inverse[:, None, rest]
        cosines -= cosine[:, None, None]
        _diagonal(cosines)[:] = 0
        angles = angles + _energy(cosines)
        products += (scale / classes)[:, None, None]
        _diagonal(products)[:] -= scale[:, None]
        off_simplex = off_simplex + _energy(products)
    relative = ratio(off_simplex, scale**2 * (classes - 1))  # x
    return {
        "nc1_cdnv": of.where(of.isfinite(closeness), closeness / ordered, np.nan),
        "nc2_equiangular": (angles / ordered) ** 0.5,
        "nc2_etf_gap": (-2 * of.expm1(-of.log1p(relative) / 2)) ** 0.5,
    }


def _normalised(distances: Array, rows: Array, rest: Array) -> Array:
    """The sum of (var_a + var_b)/‖m_a − m_b‖² over the pairs in a tile, (draw,).

    distances (draw, row, class from the first row on) of variances rows (draw, row) and rest;
    infinite where two means coincide.
    """
    _diagonal(distances)[:] = np.inf
    with np.errstate(divide="ignore"):
        closeness = 1 / distances.clip(0)
    among_rows = rows.shape[1]  # whose pairs the tile has in both orders
    total = (rows * closeness.sum(axis=2)).sum(axis=1)
    others = closeness[:, :, among_rows:] @ rest[:, among_rows:, None]
    return total + others.sum(axis=(1, 2))


def _energy(values: Array) -> Array:
    """The sum of squares over a symmetric matrix (draw,), of a tile from its diagonal on."""
    squares = library(values).einsum("dab,dab->da", values, values).sum(axis=1)
    block = values[:, :, : values.shape[1]]
    return 2 * squares - library(values).einsum("dab,dab->da", block, block).sum(axis=1)


def _diagonal(values: Array) -> Array:
    """A view of the pairs of each class with itself, (draw, row), in a tile from them on."""
    block = values[:, :, : values.shape[1]]
    if isinstance(values, np.ndarray):
        return np.einsum("daa->da", block)
    return block.diagonal(dim1=1, dim2=2)
