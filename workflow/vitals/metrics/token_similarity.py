"""How alike the patch tokens of one image are at one tap."""

import numpy as np
import torch
import xarray as xr

from vitals.errors import VitalsError
from vitals.metrics import axes
from vitals.metrics.reducer import Reducer
from vitals.metrics.token_norms import median_and_limit

# A token counts as zero when its norm is below this share of the image's largest norm before
# centring: what is left of it is rounding, and has no direction.
ZERO_NORM = 1e-6


class TokenSimilarity(Reducer):
    """The variables of `token_similarity`, (layer, image), of the patch tokens."""

    def __init__(self, about: xr.Dataset, *, outlier_mads: float) -> None:
        super().__init__()
        self.taken, self.outlier_mads = axes.token_indices(about, "patch"), outlier_mads
        if self.taken.size < 2:
            raise VitalsError(f"similarity needs at least 2 patch tokens, found {self.taken.size}")
        self.attrs = {"patches": self.taken.size}

    def update_tokens(self, tap: str, x: torch.Tensor) -> None:
        self.keep("layer", tap, token_similarity(x, self.outlier_mads))


def token_similarity(x: torch.Tensor, outlier_mads: float) -> dict[str, torch.Tensor]:
    """The variables of each image from its patch tokens x (image, token, channel)."""
    norm = torch.linalg.vector_norm(x, dim=-1).double()  # (image, token)
    zero = ZERO_NORM * norm.amax(dim=1, keepdim=True)
    median, limit = median_and_limit(norm, outlier_mads)
    everything, usual = torch.ones_like(norm, dtype=torch.bool), norm <= limit
    mean = _mean(x, everything).double()

    raw = _Directions(x, everything, zero)
    centered = _Directions(_centered(x, everything), everything, zero)
    return {
        "cosine": raw.mean_cosine(),
        "centered_cosine": centered.mean_cosine(),
        "squared_cosine": centered.mean_squared_cosine(),
        "robust_centered_cosine": _robust_cosine(x, usual, zero, centered.mean_cosine()),
        "outlier_share": 1 - usual.double().mean(dim=1),
        "common_share": _ratio(mean.square().sum(dim=(1, 2)) * x.shape[1], norm.square().sum(1)),
        "norm_median": median[:, 0],
        "norm_max": norm.amax(dim=1),
        "zero_tokens": x.shape[1] - raw.count,
        "zero_centered_tokens": x.shape[1] - centered.count,
    }


def centered_cosine(x: torch.Tensor) -> torch.Tensor:
    """The variable of that name alone, of each image: x (image, token, channel) -> (image,)."""
    everything = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    norm = torch.linalg.vector_norm(x, dim=-1).double()
    zero = ZERO_NORM * norm.amax(dim=1, keepdim=True)
    return _Directions(_centered(x, everything), everything, zero).mean_cosine()


class _Directions:
    """The unit vectors of the kept tokens x (image, token, channel), those above a norm of `zero`.

    weight (image, token): 1/‖x_i‖, or 0 where a token is left out; count (image,): tokens that
    have a direction.
    """

    def __init__(self, x: torch.Tensor, kept: torch.Tensor, zero: torch.Tensor):
        norm = torch.linalg.vector_norm(x, dim=-1)
        kept = kept & (norm.double() > zero)
        self.x, self.weight = x, torch.where(kept, 1 / norm, 0)
        self.count = kept.sum(dim=1).double()

    def mean_cosine(self) -> torch.Tensor:
        unit_sum = (self.weight[:, None] @ self.x).double()  # (image, 1, channel)
        return self._over_pairs(unit_sum.square().sum(dim=(1, 2)))

    def mean_squared_cosine(self) -> torch.Tensor:
        unit = self.x * self.weight[..., None]
        # ‖UᵀU‖ = ‖UUᵀ‖: the smaller of (channel, channel) and (token, token) is formed
        if unit.shape[2] < unit.shape[1]:
            return self._over_pairs(_energy(_gram(unit.mT)))
        cosines = _gram(unit)
        cosines.diagonal(dim1=1, dim2=2).zero_()  # ones, beside which small cosines would round
        return _ratio(_energy(cosines), self.count * (self.count - 1))

    def _over_pairs(self, total: torch.Tensor) -> torch.Tensor:
        """The mean over pairs of two tokens, from the sum over all, with those of one alone."""
        return _ratio(total - self.count, self.count * (self.count - 1))


def _energy(x: torch.Tensor) -> torch.Tensor:
    """The sum of squares of each image's matrix: (image, row, column) -> (image,)."""
    return x.square().sum(dim=2).double().sum(dim=1)


def _gram(x: torch.Tensor) -> torch.Tensor:
    """XXᵀ of each image: (image, row, channel) -> (image, row, row)."""
    if x.device.type != "cpu":
        return x @ x.mT
    # numpy has BLAS form half of what is symmetric, and torch all of it
    return torch.from_numpy(np.stack([rows @ rows.T for rows in x.numpy()]))


def _robust_cosine(
    x: torch.Tensor, usual: torch.Tensor, zero: torch.Tensor, of_all: torch.Tensor
) -> torch.Tensor:
    """The centred cosine of the usual tokens; `of_all` where an image has no other."""
    some = ~usual.all(dim=1)
    if not some.any():
        return of_all
    few = _Directions(_centered(x[some], usual[some]), usual[some], zero[some])
    found = of_all.clone()
    found[some] = few.mean_cosine()
    return found


def _centered(x: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """x less the mean of its kept tokens, and less the rounding of that mean."""
    shifted = x - _mean(x, kept)
    return shifted.sub_(_mean(shifted, kept))


def _mean(x: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The mean of the kept tokens: (image, 1, channel)."""
    kept = kept.to(x.dtype)
    return (kept / kept.sum(dim=1, keepdim=True))[:, None] @ x


def _ratio(numerator: torch.Tensor, denominator: torch.Tensor) -> torch.Tensor:
    return torch.where(denominator > 0, numerator / denominator, torch.nan)
