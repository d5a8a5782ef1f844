"""How large is what positions add, next to the patches that it is added to?

>>> import numpy as np, xarray as xr
>>> patches = np.broadcast_to(2 * np.eye(4), (1, 3, 4, 4))  # four tokens of norm 2
>>> dataset = xr.Dataset(
...     {
...         "tokens": (("layer", "image", "token", "channel"), patches),
...         "position_embedding": (("token", "channel"), np.eye(4)),
...     },
...     coords={"layer": ["embed"], "token_kind": ("token", ["patch"] * 4)},
... )
>>> result = compute(dataset, bootstrap_samples=10)
>>> [round(result[name].item(), 6) for name in ("dominance", "dominance_centered")]
[0.5, 0.5]
"""

import numpy as np
import torch
import xarray as xr

from vitals.metrics import axes, bootstrap
from vitals.metrics.results import PAPER, PUBLISHED, absences, describe, mark_absent
from vitals.metrics.token_batches import batches

SOURCE = f"{PAPER}, positional dominance ratio; the protocol is ours"
# Where positions have been added: before the norm that follows them, where a model has one.
POSITIONED = ("norm_pre", "position")
# Of the mean norm of a token: more than storage at a few bits rounds.
ROUNDING = 0.05
VARIABLES = {
    "dominance": "mean norm of the position embedding over that of the patch embeddings",
    "dominance_centered": "the same, both centred over the patch tokens",
}


def compute(
    dataset: xr.Dataset, *, bootstrap_samples: int = 1000, bootstrap_seed: int = 0
) -> xr.Dataset:
    """How the position embedding compares in size with the patch embeddings.

    `dominance` = mean_i ‖pe_i‖ / mean ‖z_i‖ over patch tokens i (and images, below), and
    `dominance_centered` the same after pe, and z of each image, are centred over their patch
    tokens: only that part can change how alike centred tokens are. Token norms on both sides. z is
    tap "embed", and z + pe must be the state where positions have been added: tap "norm_pre" where
    the model has one, else "position".

    dataset: the token tier: `tokens` (layer, image, token, channel) with a layer "embed",
    `position_embedding` (token, channel), coordinate `token_kind`.
    Returns both as scalars with `_low`, `_high` and `_draws` (draw) from a bootstrap over images.
    Both are absent where the dataset has no `position_embedding`, and where the state with
    positions is not z + pe; a ratio is absent where it would divide by zero.
    Raises VitalsError where the layer "embed" or a second patch token is missing.
    Source: arXiv 2511.21635, positional dominance ratio; the protocol is ours.
    """
    if "position_embedding" not in dataset:
        none = "the model adds no position embedding to its tokens"
        return _without(absences(dataset).get("position_embedding", none))

    tokens, patches = axes.patch_embedding(dataset, "position")
    position = dataset["position_embedding"].transpose("token", "channel").isel(token=patches)
    position = position.values.astype(np.float64)
    if reason := _not_added(dataset, tokens, patches, position):
        return _without(reason)

    position_norms = _mean_norms(torch.from_numpy(position[None]))  # (variable, 1)
    every = np.arange(patches.size)
    norms = np.concatenate([_mean_norms(x) for x in batches(tokens, every)], axis=1)
    norms = xr.DataArray(norms, dims=("variable", "image"))

    result = xr.Dataset()
    draws = bootstrap.mean_draws(norms, bootstrap_samples, bootstrap_seed)
    for index, (name, long_name) in enumerate(VARIABLES.items()):
        mean = norms[index].mean()
        if not mean > 0:
            mark_absent(result, name, "the patch embeddings have a norm of zero")
            continue
        numerator = position_norms[index, 0]
        result[name] = describe(numerator / mean, long_name, "1", PUBLISHED, SOURCE)
        bootstrap.add_draws(result, name, numerator / draws[index])
    return result


def _without(reason: str) -> xr.Dataset:
    """The result of a model that has no such ratio."""
    result = xr.Dataset()
    for name in VARIABLES:
        mark_absent(result, name, reason)
    return result


def _not_added(
    dataset: xr.Dataset, tokens: xr.DataArray, patches: np.ndarray, position: np.ndarray
) -> str | None:
    """How the position embedding fails to lead from "embed" to the state with positions, if so.

    Of the first images alone: what the model does to one it does to all.
    """
    layers = dataset["layer"].values.tolist()
    taps = [tap for tap in POSITIONED if tap in layers]
    if not taps:
        return None
    state = dataset["tokens"].isel(layer=layers.index(taps[0]), token=patches)
    before, after = (
        next(axes.image_blocks(array.transpose("image", "token", "channel")))[1].astype(np.float64)
        for array in (tokens, state)
    )
    missed, size, own = (
        np.linalg.norm(x, axis=2).mean() for x in (after - before - position, after, before)
    )
    if missed <= ROUNDING * max(size, own):
        return None
    return (
        f"tap '{taps[0]}' is not tap 'embed' plus the position embedding: they differ by "
        f"{missed:.3g} a token, whose norm is {size:.3g}"
    )


def _mean_norms(x: torch.Tensor) -> np.ndarray:
    """Mean token norm of each image, as it is and centred: (variable, image).

    x (image, token, channel), in float64, or centring would leave rounding of what tokens share.
    """
    x = x.double()
    centred = x - x.mean(dim=1, keepdim=True)
    norms = [torch.linalg.vector_norm(v, dim=2).mean(dim=1) for v in (x, centred)]
    return torch.stack(norms).cpu().numpy()
