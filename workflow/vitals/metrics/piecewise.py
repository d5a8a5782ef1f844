"""The continuous piecewise-linear fit of many curves at once, its knots searched on a grid.

>>> import numpy as np
>>> t = np.arange(9.0)
>>> bend = fit(t, np.maximum(t - 3, 0)[None], knot_grid(t, 0.25)[:, None])
>>> bend.knots.tolist(), bend.slopes.round(6).tolist()
([[3.0]], [[0.0, 1.0]])
"""

from dataclasses import dataclass

import numpy as np

# Knots whose fits differ by less than this share of a curve's sum of squares fit it equally well.
TIE = 1e-10
# Residuals below this share of a curve's root mean square are rounding, and count as this much.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Fit:
    """The least-squares fit of each curve over the candidates for its knots."""

    knots: np.ndarray  # (curve, knot)
    slopes: np.ndarray  # (curve, piece)
    fitted: np.ndarray  # (curve, tap)
    residual: np.ndarray  # (curve,), the sum of squares


def knot_grid(t: np.ndarray, step: float) -> np.ndarray:
    """Where a knot can be told apart: from the second tap to the last but one.

    A first (or last) piece that holds a single tap fits it exactly wherever its knot is, so a knot
    nearer to an end would fit the same curves.
    """
    return np.arange(t[1], t[-2] + step / 2, step)


def fit(t: np.ndarray, curves: np.ndarray, candidates: np.ndarray) -> Fit:
    """min over knots k and coefficients of Σ_t (s(t) − a − b·t − Σ_j c_j·(t − k_j)₊)².

    t (tap,); curves (curve, tap); candidates (candidate, knot), of which the first wins a tie.
    """
    mean = curves.mean(axis=1, keepdims=True)
    centered = curves - mean  # a constant is in every basis: without it less cancels
    orthonormal, triangle = np.linalg.qr(_basis(t, candidates))  # (candidate, tap, 2 + knot)

    chosen = _best(orthonormal, centered)  # (curve,)
    projection = np.einsum("ctp,ct->cp", orthonormal[chosen], centered)
    coefficients = np.linalg.solve(triangle[chosen], projection[..., None])[..., 0]
    fitted = np.einsum("ctp,cp->ct", orthonormal[chosen], projection)
    return Fit(
        knots=candidates[chosen],
        slopes=np.cumsum(coefficients[:, 1:], axis=1),
        fitted=fitted + mean,
        residual=np.square(centered - fitted).sum(axis=1),
    )


def bic(curves: np.ndarray, residual: np.ndarray, parameters: int) -> np.ndarray:
    """n·log(RSS/n) + p·log n of each curve; an exact fit counts as one to rounding, not −∞."""
    taps = curves.shape[1]
    floor = np.square(ROUNDING * curves).mean(axis=1)
    variance = np.maximum(residual / taps, floor)
    return taps * np.log(np.maximum(variance, np.finfo(float).tiny)) + parameters * np.log(taps)


def _basis(t: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """1, t, (t − k_1)₊, ...: (candidate, tap, 2 + knot)."""
    line = np.broadcast_to(np.stack([np.ones_like(t), t], axis=1), (len(candidates), t.size, 2))
    hinges = np.maximum(t[None, :, None] - candidates[:, None, :], 0)
    return np.concatenate([line, hinges], axis=2)


def _best(orthonormal: np.ndarray, curves: np.ndarray) -> np.ndarray:
    """Which candidate leaves each curve the least: (curve,)."""
    candidates, taps, parameters = orthonormal.shape
    flat = orthonormal.transpose(0, 2, 1).reshape(-1, taps)
    projections = (flat @ curves.T).reshape(candidates, parameters, -1)
    total = np.square(curves).sum(axis=1)
    residual = total - np.square(projections).sum(axis=1)  # (candidate, curve)
    return (residual <= residual.min(axis=0) + TIE * total).argmax(axis=0)
