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

import xarray as xr

from vitals.metrics import axes, bootstrap
from vitals.metrics.reducer import over_tokens
from vitals.metrics.results import PAPER, PUBLISHED, RECONSTRUCTED, describe
from vitals.metrics.token_similarity import TokenSimilarity

SOURCE = f"{PAPER}, token similarity; per-image centring inferred"

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
    reducer = TokenSimilarity(dataset, outlier_mads=outlier_mads)
    over_tokens(reducer, dataset["tokens"], "similarity")
    return finish(
        reducer.finish(dataset), bootstrap_samples=bootstrap_samples, bootstrap_seed=bootstrap_seed
    )


def finish(
    values: xr.Dataset, *, bootstrap_samples: int = 1000, bootstrap_seed: int = 0
) -> xr.Dataset:
    """The result of `compute` from the values of each image that a `TokenSimilarity` has found."""
    patches = values.attrs["patches"]
    result = xr.Dataset(
        coords={**axes.layer_coordinates(values), **axes.image_coordinates(values)},
        attrs={"floor": -1 / (patches - 1), "patches": patches},
    )
    for name, (long_name, units, status) in VARIABLES.items():
        array = xr.DataArray(values[name].values, dims=("layer", "image"))
        result[name] = describe(array, long_name, units, status, SOURCE)
        draws = bootstrap.mean_draws(result[name], bootstrap_samples, bootstrap_seed)
        bootstrap.add_interval(result, name, draws)
    for name in ("centered_cosine", "robust_centered_cosine"):
        result[name].attrs["floor"] = result.attrs["floor"]
    return result
