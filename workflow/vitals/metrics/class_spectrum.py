"""Within-class scatter over each direction between classes: tr(Σ_W Σ_B⁺)/C.

Of random class means, alike in all directions, and noise q times as strong, it is about
qD/(C−2−D) where D < C−1 and q(C−1)/(D−C) where D > C−1: the mean inverse of a Wishart matrix.
Beside D = C−1 it has no mean. So the width alone moves it, whatever the features.

>>> vectors, eigenvalues = between_eigenpairs(np.array([[2.0, 0.0], [-2.0, 0.0]]), 1e-6)
>>> eigenvalues.round(6), vectors.shape
(array([4.]), (2, 1))
"""

import numpy as np

from vitals.metrics.class_arrays import Array, library, typed
from vitals.metrics.class_statistics import Deviations, Resamples, blocks


def pinv_quotient(groups: Deviations, tolerance: float) -> float:
    """tr(Σ_W Σ_B⁺)/C = Σ_k v_kᵀ Σ_W v_k / λ_k / C over the eigenpairs of Σ_B that are kept.

    NaN where no eigenpair is above zero.
    """
    whiten = _whiten(groups.moments().centered_means[0], tolerance)
    if not whiten.shape[1]:
        return np.nan
    total = _scatter(groups, whiten).sum()
    return float(total) / (groups.sizes - 1).sum() / groups.sizes.size


def pinv_draws(groups: Deviations, resamples: Resamples, tolerance: float, most: int) -> np.ndarray:
    """The same of each draw, (draw,), which decomposes its own Σ_B; NaN from draw `most` on."""
    found = np.full(len(resamples.draws), np.nan)
    for row in range(min(found.size, max(0, most - resamples.draws.start))):
        whiten = _whiten(resamples.moments.centered_means[row], tolerance)
        if not whiten.shape[1]:
            continue
        total = resamples.weights[row] @ _scatter(groups, whiten)
        moved = ((resamples.moved[row] @ whiten) ** 2).sum(axis=1)
        total = total - resamples.moments.sizes @ moved
        found[row] = float(total) / (groups.sizes - 1).sum() / groups.sizes.size
    return found


def between_eigenpairs(means: Array, tolerance: float) -> tuple[Array, Array]:
    """Eigenvectors (channel, kept) and eigenvalues of Σ_B = MᵀM/C for centred means M.

    At most min(C−1, D) are kept, and only those above `tolerance` times the largest: Σ_B has no
    more, and the inverse of a rounding error is no measurement.
    """
    classes, channels = means.shape
    # The smaller of (class, class) and (channel, channel) is decomposed: same eigenvalues.
    small = means @ means.mT if classes <= channels else means.mT @ means
    eigenvalues, vectors = library(means).linalg.eigh(small / classes)  # ascending
    most = min(classes - 1, channels)
    eigenvalues, vectors = eigenvalues[-most:], vectors[:, -most:]
    kept = eigenvalues > tolerance * eigenvalues[-1].clip(0)
    eigenvalues, vectors = eigenvalues[kept], vectors[:, kept]
    if classes <= channels:
        vectors = means.mT @ vectors / (classes * eigenvalues) ** 0.5
    return vectors, eigenvalues


def _whiten(means: Array, tolerance: float) -> Array:
    """Of centred means: v_k/√λ_k, (channel, kept)."""
    vectors, eigenvalues = between_eigenpairs(means, tolerance)
    return vectors / eigenvalues**0.5


def _scatter(groups: Deviations, whiten: Array) -> Array:
    """Σ_k (v_kᵀ(x − m_c))²/λ_k of each image: (image,)."""
    factors = typed(whiten, groups.values)
    parts = [
        ((groups.values[block] @ factors) ** 2).sum(axis=1) for block in blocks(len(groups.values))
    ]
    return library(whiten).concatenate([typed(part, whiten) for part in parts])
