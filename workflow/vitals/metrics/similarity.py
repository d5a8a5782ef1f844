"""How alike are the patch tokens of one image, layer by layer?

>>> import numpy as np, xarray as xr
>>> one_hot = np.broadcast_to(np.eye(5), (1, 2, 5, 5))  # orthonormal tokens
>>> dataset = xr.Dataset(
...     {"tokens": (("layer", "image", "token", "channel"), one_hot)},
...     coords={"layer": ["embed"], "token_kind": ("token", ["patch"] * 5)},
... )
>>> result = compute(dataset, bootstrap_samples=10)
>>> result["cosine"].mean("image").item(), result["centered_cosine"].mean("image").item()
(0.0, -0.25)
"""

import numpy as np
import torch
import xarray as xr

from vitals.errors import VitalsError
from vitals.metrics import axes, bootstrap
from vitals.metrics.results import PAPER, PUBLISHED, RECONSTRUCTED, describe
from vitals.metrics.token_batches import batches
from vitals.metrics.token_norms import median_and_limit
from vitals.progress import progress

SOURCE = f"{PAPER}, token similarity; per-image centring inferred"
# A token counts as zero when its norm is below this share of the image's largest norm before
# centring: what is left of it is rounding, and has no direction.
ZERO_NORM = 1e-6

VARIABLES = {
    "cosine": ("mean cosine between patch tokens", "1", PUBLISHED),
    "centered_cosine": ("mean cosine between centred patch tokens", "1", PUBLISHED),
    "squared_cosine": ("mean squared cosine between centred patch tokens", "1", RECONSTRUCTED),
    "robust_centered_cosine": (
        "mean cosine between centred patch tokens without high-norm tokens",
        "1",
        RECONSTRUCTED,
    ),
    "outlier_share": ("share of patch tokens removed for a high norm", "1", RECONSTRUCTED),
    "common_share": ("share of the patch tokens' energy in their mean", "1", RECONSTRUCTED),
    "norm_median": ("median norm of the patch tokens", "activation", RECONSTRUCTED),
    "norm_max": ("largest norm of the patch tokens", "activation", RECONSTRUCTED),
    "zero_tokens": ("patch tokens left out for a norm of zero", "count", RECONSTRUCTED),
    "zero_centered_tokens": (
        "patch tokens left out for a norm of zero after centring",
        "count",
        RECONSTRUCTED,
    ),
}


def compute(
    dataset: xr.Dataset,
    *,
    outlier_mads: float = 5.0,
    bootstrap_samples: int = 1000,
    bootstrap_seed: int = 0,
) -> xr.Dataset:
    """Token similarity of each image at each tap, with a 95 % interval of the mean over images.

    For unit vectors u_i of the N patch tokens of an image, the mean over i≠j of cos(x_i, x_j) is
    (‖Σu_i‖² − N) / (N(N−1)), and of cos² it is (‖UᵀU‖² − N) / (N(N−1)). Centred variables first
    subtract the image's own mean patch token; their floor is −1/(N−1), the attribute `floor`.
    `robust_centered_cosine` leaves out tokens whose norm exceeds median + `outlier_mads`·MAD
    (a share `outlier_share`) before it centres. `common_share` is ‖mean‖²·N / Σ‖x_i‖².

    dataset: the token tier: `tokens` (layer, image, token, channel), coordinate `token_kind`.
    Returns the variables of `VARIABLES` over (layer, image), each with `_low` and `_high` over
    (layer). Tokens of zero norm are left out and counted; an image with fewer than two tokens left
    has no cosine (NaN) and takes no part in the mean. Products are in float32 (float64 where stored
    so), of tokens already centred, and what they add up to in float64; on the accelerator, if there
    is one, which agrees with the CPU to 1e-5.
    Raises VitalsError where there are fewer than two patch tokens or a number is not finite.
    Source: arXiv 2511.21635, token similarity; per-image centring inferred.
    """
    axes.require(dataset, "tokens")
    patches = axes.token_indices(dataset, "patch")
    if patches.size < 2:
        raise VitalsError(f"similarity needs at least 2 patch tokens, found {patches.size}")

    layers = range(dataset.sizes["layer"])
    values = np.stack(
        [
            _layer(dataset["tokens"].isel(layer=layer), patches, outlier_mads)
            for layer in progress(layers, "similarity")
        ]
    )  # (layer, variable, image)

    result = xr.Dataset(
        coords={**axes.layer_coordinates(dataset), **axes.image_coordinates(dataset)},
        attrs={"floor": -1 / (patches.size - 1), "patches": patches.size},
    )
    for index, (name, (long_name, units, status)) in enumerate(VARIABLES.items()):
        array = xr.DataArray(values[:, index], dims=("layer", "image"))
        result[name] = describe(array, long_name, units, status, SOURCE)
        draws = bootstrap.mean_draws(result[name], bootstrap_samples, bootstrap_seed)
        bootstrap.add_interval(result, name, draws)
    for name in ("centered_cosine", "robust_centered_cosine"):
        result[name].attrs["floor"] = result.attrs["floor"]
    return result


def _layer(tokens: xr.DataArray, patches: np.ndarray, outlier_mads: float) -> np.ndarray:
    """One tap's variables: (variable, image)."""
    found = [token_similarity(x, outlier_mads) for x in batches(tokens, patches)]
    return np.concatenate(
        [torch.stack([f[name].double() for name in VARIABLES]).cpu().numpy() for f in found], axis=1
    )


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
