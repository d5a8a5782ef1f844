"""The formulas of neural collapse, on class means and scatter with a leading axis of draws.

>>> import numpy as np
>>> triangle = 2 * np.array([[[1, 0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]]])
>>> gap(triangle).round(6), etf_floor(384, 1000).round(4)
(array([0.]), np.float64(0.8718))
"""

import numpy as np

from vitals.metrics.class_statistics import Deviations, Moments

# How many times random class means may inflate tr(Σ_W Σ_B⁺) before a result warns.
INFLATION = 2


def between(moments: Moments) -> np.ndarray:
    """tr Σ_B − tr Σ_W / n, (draw,): the spread of class means less that of their own noise.

    Σ_B = Σ_c (m_c − m̄)(m_c − m̄)ᵀ / C with m̄ the mean of the class means; n is the harmonic mean
    of the class sizes, so that tr Σ_W / n = Σ_c tr Σ_W / n_c / C, the mean noise of a class mean.
    """
    spread = np.square(moments.centered_means).sum(axis=2).mean(axis=1)
    return spread - moments.within * np.mean(1 / moments.sizes)


def distance_variance(moments: Moments) -> np.ndarray:
    """Mean over class pairs of (var_a + var_b) / (2 ‖m_a − m_b‖²), (draw,).

    Class-distance normalised variance: Galanti, György and Hutter (2022), definition 1.
    """
    means = moments.centered_means
    gram = means @ means.mT  # (draw, class, class)
    squares = np.einsum("scc->sc", gram)
    apart = squares[:, :, None] + squares[:, None] - 2 * gram
    variance = (moments.variances[:, :, None] + moments.variances[:, None]) / 2
    return _pairs(ratio(variance, apart)).mean(axis=1)


def equinorm(means: np.ndarray) -> np.ndarray:
    """Standard deviation over mean of ‖m_c‖, for centred means (draw, class, channel)."""
    norms = np.linalg.norm(means, axis=2)
    return ratio(norms.std(axis=1), norms.mean(axis=1))


def equiangular(means: np.ndarray) -> np.ndarray:
    """Standard deviation of cos(m_a, m_b) over class pairs, for centred means.

    Their mean is −1/(C−1) whenever the norms are equal, and says nothing.
    """
    unit = ratio(means, np.linalg.norm(means, axis=2, keepdims=True))
    return _pairs(unit @ unit.mT).std(axis=1)


def gap(means: np.ndarray) -> np.ndarray:
    """‖MMᵀ/‖MMᵀ‖ − (I − 11ᵀ/C)/√(C−1)‖ for centred means M, (draw,)."""
    classes = means.shape[1]
    gram = means @ means.mT
    unit = ratio(gram, np.linalg.norm(gram, axis=(1, 2), keepdims=True))
    simplex = (np.eye(classes) - 1 / classes) / np.sqrt(classes - 1)
    return np.linalg.norm(unit - simplex, axis=(1, 2))


def etf_floor(channels: int, classes: int) -> float:
    """The least `gap` of `classes` means in `channels` dimensions: 0 where a simplex fits."""
    rank = min(channels, classes - 1)
    return np.sqrt(2 - 2 * np.sqrt(rank / (classes - 1)))


def pinv_quotient(
    groups: Deviations,
    means: np.ndarray,
    tolerance: float,
    weights: np.ndarray | None = None,
    moved: np.ndarray | None = None,
) -> float:
    """tr(Σ_W Σ_B⁺)/C = Σ_k v_kᵀ Σ_W v_k / λ_k / C over the eigenpairs of Σ_B that are kept.

    means: centred, (class, channel); of a resample with `weights` (image,) that moved the class
    means by `moved` (class, channel). NaN where no eigenpair is above zero.
    """
    vectors, eigenvalues = between_eigenpairs(means, tolerance)
    if not eigenvalues.size:
        return np.nan
    whiten = vectors / np.sqrt(eigenvalues)  # (channel, kept)
    scatter = np.square(groups.deviations @ whiten).sum(axis=1)  # (image,)
    total = scatter.sum() if weights is None else weights @ scatter
    if moved is not None:
        total -= groups.sizes @ np.square(moved @ whiten).sum(axis=1)
    return total / (groups.sizes - 1).sum() / len(means)


def between_eigenpairs(means: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvectors (channel, kept) and eigenvalues of Σ_B = MᵀM/C for centred means M.

    At most min(C−1, D) are kept, and only those above `tolerance` times the largest: Σ_B has no
    more, and the inverse of a rounding error is no measurement.
    """
    classes, channels = means.shape
    # The smaller of (class, class) and (channel, channel) is decomposed: same eigenvalues.
    small = means @ means.T if classes <= channels else means.T @ means
    eigenvalues, vectors = np.linalg.eigh(small / classes)  # ascending
    most = min(classes - 1, channels)
    eigenvalues, vectors = eigenvalues[-most:], vectors[:, -most:]
    kept = eigenvalues > tolerance * max(eigenvalues[-1], 0)
    eigenvalues, vectors = eigenvalues[kept], vectors[:, kept]
    if classes <= channels:
        vectors = means.T @ vectors / np.sqrt(classes * eigenvalues)
    return vectors, eigenvalues


def regime_warning(channels: int, classes: int) -> str:
    """What the width D and the number of classes C alone do to NC1 and NC2; "" where little.

    For random class means the mean inverse eigenvalue of Σ_B grows as 1/|1 − D/(C−1)|.

    >>> regime_warning(768, 1000)[:62]
    'at D = 768 and C = 1000, nc1_pinv is inflated about 4 times by'
    >>> regime_warning(48, 10)
    ''
    """
    distance = abs(1 - channels / (classes - 1))
    said = []
    if distance * INFLATION < 1:
        times = f"about {1 / distance:.0f} times" if distance else "without bound"
        said.append(f"nc1_pinv is inflated {times} by D being near C−1")
    if channels < classes - 1:
        floor = etf_floor(channels, classes)
        said.append(f"nc2_etf_gap cannot be below {floor:.4f}, read nc2_etf_excess")
    return f"at D = {channels} and C = {classes}, {' and '.join(said)}" if said else ""


def alignment(means: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Mean over classes of cos(w_c, m_c), both centred over classes, (draw,)."""
    scale = np.linalg.norm(means, axis=2) * np.linalg.norm(weight, axis=1)
    return ratio((means * weight).sum(axis=2), scale).mean(axis=1)


def duality_distance(means: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """‖W/‖W‖ − M/‖M‖‖, both centred over classes, Frobenius norms, (draw,)."""
    norm = np.linalg.norm(means, axis=(1, 2), keepdims=True)
    difference = ratio(weight, np.linalg.norm(weight)) - ratio(means, norm)
    return np.linalg.norm(difference, axis=(1, 2))


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Their quotient where the denominator is above zero, NaN elsewhere."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    out = np.full(numerator.shape, np.nan)
    return np.divide(numerator, denominator, out=out, where=denominator > 0)


def _pairs(square: np.ndarray) -> np.ndarray:
    """The off-diagonal values of (draw, class, class): (draw, pair)."""
    return square[:, ~np.eye(square.shape[1], dtype=bool)]
