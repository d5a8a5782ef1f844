"""How well can tokens be rebuilt by any linear map at all? The exact answer, for few images.

No form is asked of the map from all tokens, (token·channel, token·channel): it is dual (kernel)
ridge regression, in (image, image) memory. What is rebuilt from the same token alone has a map of
its own at each position. Both are what families of fewer parameters can be held against.

>>> import numpy as np
>>> z = np.random.default_rng(0).standard_normal((60, 4, 3))
>>> moved = np.roll(z, 1, axis=1)  # each token lies where its neighbour was
>>> parts = (moved[:40], z[:40], moved[40:], z[40:])
>>> recover(*parts, "all").r2.round(3).item(), recover(*parts, "same").r2 < 0.1
(1.0, np.True_)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vitals.errors import VitalsError, unknown

TOKENS = ("all", "same")
PENALTIES = tuple(10.0**power for power in range(-8, 3))
TIE = 1e-12  # of the error of the mean


@dataclass(frozen=True)
class Recovery:
    """What the map gives back of images that it was not fitted on.

    error, total (test image,): Σ‖z − ẑ‖² and Σ‖z − z̄‖² of each, z̄ the fit images' mean at each
    position; penalty: the one chosen, infinite where nothing is better than the mean.
    """

    error: np.ndarray
    total: np.ndarray
    penalty: float

    @property
    def r2(self) -> float:
        """1 − Σ error / Σ total, the share recovered."""
        return 1 - self.error.sum() / self.total.sum()


def recover(
    x_fit: np.ndarray,
    z_fit: np.ndarray,
    x_test: np.ndarray,
    z_test: np.ndarray,
    tokens: str,
    *,
    penalties: Sequence[float] = PENALTIES,
    folds: int = 5,
    seed: int = 0,
) -> Recovery:
    """Ridge regression of the tokens z on x, from all tokens of the image or from the same one.

    ẑ = z̄ + k (K + λI)⁻¹ Z, with K = XXᵀ over the fit images, of all tokens flattened (tokens "all")
    or of one position at a time ("same"), both centred there, and k the test images' rows. λ is a
    penalty times the mean eigenvalue of K, the same for all positions; `folds`-fold
    cross-validation over fit images, dealt out by `seed`, chooses it from `penalties` and infinity.

    x, z: (image, token, channel), of any two numbers of channels. In float64; memory is that of the
    inputs and of (image, image) matrices, one for each position.
    Raises VitalsError for penalties that are not positive and finite, and for too few images.
    Source: kernel ridge regression (Saunders et al. 1998).
    """
    if tokens not in TOKENS:
        raise unknown("kind of tokens", tokens, TOKENS)
    if not len(penalties) or not all(0 < penalty < np.inf for penalty in penalties):
        raise VitalsError(f"penalties must be positive and finite, found {penalties}")
    if folds < 2 or len(x_fit) < 2 * folds:
        raise VitalsError(
            f"{folds} folds need at least {2 * folds} fit images, and there must be at least two "
            f"folds; found {len(x_fit)} images"
        )
    problems = [_Problem(*parts) for parts in _parts(x_fit, z_fit, x_test, z_test, tokens)]
    shuffled = np.random.default_rng(seed).permutation(len(x_fit))
    left_out = np.array_split(shuffled, folds)
    grid = [*penalties, np.inf]
    errors = [sum(p.cross_validated(penalty, left_out) for p in problems) for penalty in grid]
    # of penalties that do equally well, the one that trusts the images least
    limit = min(errors) + TIE * errors[-1]
    best = max(i for i, error in enumerate(errors) if error <= limit)
    error = sum(problem.error(grid[best]) for problem in problems)
    return Recovery(error, sum(problem.total for problem in problems), grid[best])


def _parts(*arrays_and_tokens: object) -> Iterator[tuple[np.ndarray, ...]]:
    """The arrays as (image, feature) of all tokens at once, or token by token."""
    *arrays, tokens = arrays_and_tokens
    if tokens == "all":
        yield tuple(array.reshape(len(array), -1).astype(np.float64) for array in arrays)
        return
    for token in range(arrays[0].shape[1]):
        yield tuple(array[:, token].astype(np.float64) for array in arrays)


class _Problem:
    """One regression, of which (image, image) matrices are all that is kept.

    With Q = B − B11ᵀB / 1ᵀB1, B = (K + λI)⁻¹, which takes the mean out as well, the residuals of
    images F by a fit without them are Q_FF⁻¹ (QZ)_F: all penalties and folds follow from one
    decomposition of K.
    """

    def __init__(self, x: np.ndarray, z: np.ndarray, x_test: np.ndarray, z_test: np.ndarray):
        x_mean, z_mean = x.mean(axis=0), z.mean(axis=0)
        x, z, x_test, z_test = x - x_mean, z - z_mean, x_test - x_mean, z_test - z_mean
        self.total = np.square(z_test).sum(axis=1)  # (test,)
        eigenvalues, vectors = np.linalg.eigh(x @ x.T)
        self.eigenvalues = eigenvalues.clip(min=0)
        self.vectors = vectors - vectors.mean(axis=0)  # K, of centred x, has no part along 1
        # all else in the basis of the eigenvectors
        self.turned_targets = self.vectors.T @ (z @ z.T) @ self.vectors
        self.cross = (z_test @ z.T) @ self.vectors  # (test, fit)
        self.kernel = (x_test @ x.T) @ self.vectors
        self.scale = self.eigenvalues.mean() or 1.0

    def _inverse(self, penalty: float) -> np.ndarray:
        """1 / (s + λ), times λ where that is infinite: Q is wanted up to a factor."""
        if np.isinf(penalty):
            return np.ones_like(self.eigenvalues)
        return 1 / (self.eigenvalues + penalty * self.scale)

    def cross_validated(self, penalty: float, left_out: Sequence[np.ndarray]) -> float:
        """Σ‖z − ẑ‖² of the fit images, each by the fit without its fold."""
        inverse, total = self._inverse(penalty), 0.0
        for fold in left_out:
            rows = self.vectors[fold] * inverse
            own = rows @ self.vectors[fold].T  # Q_FF
            residuals = rows @ self.turned_targets @ rows.T  # (QZ)_F (QZ)_Fᵀ
            half = np.linalg.solve(own, residuals)
            total += np.trace(np.linalg.solve(own, half.T))
        return total

    def error(self, penalty: float) -> np.ndarray:
        """Σ‖z − ẑ‖² of each test image."""
        if np.isinf(penalty):
            return self.total
        weights = self.kernel * self._inverse(penalty)  # (test, fit)
        rebuilt = ((weights @ self.turned_targets) * weights).sum(axis=1)
        return self.total - 2 * (self.cross * weights).sum(axis=1) + rebuilt
