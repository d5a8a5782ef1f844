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
    has no cosine (NaN) and takes no part in the mean.
    Raises VitalsError where there are fewer than two patch tokens.
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
    blocks = [
        token_similarity(torch.from_numpy(block[:, patches]).double(), outlier_mads)
        for _, block in axes.image_blocks(tokens.transpose("image", "token", "channel"))
    ]
    return np.concatenate(
        [np.stack([b[name].numpy() for name in VARIABLES]) for b in blocks], axis=1
    )


def token_similarity(x: torch.Tensor, outlier_mads: float) -> dict[str, torch.Tensor]:
    """The variables of each image from its patch tokens x (image, token, channel)."""
    norm = x.norm(dim=-1)  # (image, token)
    mean = x.mean(dim=1)
    energy = norm.square().sum(dim=1)
    everything = torch.ones_like(norm, dtype=torch.bool)
    threshold = ZERO_NORM * norm.amax(dim=1, keepdim=True)

    median, limit = median_and_limit(norm, outlier_mads)
    usual = norm <= limit

    raw = _directions(x, everything, threshold)
    centered = _directions(_centered(x, everything), everything, threshold)
    robust = _directions(_centered(x, usual), usual, threshold)
    return {
        "cosine": _mean_cosine(*raw),
        "centered_cosine": _mean_cosine(*centered),
        "squared_cosine": _mean_squared_cosine(*centered),
        "robust_centered_cosine": _mean_cosine(*robust),
        "outlier_share": 1 - usual.double().mean(dim=1),
        "common_share": _ratio(mean.square().sum(dim=-1) * x.shape[1], energy),
        "norm_median": median[:, 0],
        "norm_max": norm.amax(dim=1),
        "zero_tokens": x.shape[1] - raw[1],
        "zero_centered_tokens": x.shape[1] - centered[1],
    }


def _centered(x: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    weight = kept.to(x.dtype)[..., None]
    return x - (x * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True)


def _directions(
    x: torch.Tensor, kept: torch.Tensor, threshold: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors (zero where left out) and how many of an image's tokens have one."""
    norm = x.norm(dim=-1)
    kept = kept & (norm > threshold)
    unit = torch.where(kept[..., None], x / norm.where(kept, 1.0)[..., None], 0.0)
    return unit, kept.sum(dim=1).to(x.dtype)


def _mean_cosine(unit: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    return _ratio(unit.sum(dim=1).square().sum(dim=-1) - count, count * (count - 1))


def _mean_squared_cosine(unit: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    # ‖UᵀU‖ = ‖UUᵀ‖: the smaller of (channel, channel) and (token, token) is formed
    wide = unit.shape[2] > unit.shape[1]
    gram = unit @ unit.mT if wide else unit.mT @ unit
    return _ratio(gram.square().sum(dim=(1, 2)) - count, count * (count - 1))


def _ratio(numerator: torch.Tensor, denominator: torch.Tensor) -> torch.Tensor:
    return torch.where(denominator > 0, numerator / denominator, torch.nan)
