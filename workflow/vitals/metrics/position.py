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
from vitals.metrics.embedding_norms import EMBED, EmbeddingNorms, mean_norms
from vitals.metrics.reducer import over_tokens
from vitals.metrics.results import PAPER, PUBLISHED, absences, describe, mark_absent

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
        return finish(xr.Dataset(), tokens=dataset)
    axes.patch_embedding(dataset, "position")
    reducer = EmbeddingNorms(dataset)
    embed = dataset["layer"].values.tolist().index(EMBED)
    over_tokens(reducer, dataset["tokens"].isel(layer=[embed]), "position")
    return finish(
        reducer.finish(dataset),
        tokens=dataset,
        bootstrap_samples=bootstrap_samples,
        bootstrap_seed=bootstrap_seed,
    )


def finish(
    values: xr.Dataset,
    *,
    tokens: xr.Dataset,
    bootstrap_samples: int = 1000,
    bootstrap_seed: int = 0,
) -> xr.Dataset:
    """The result of `compute` from the values of each image that an `EmbeddingNorms` has found.

    tokens: the token tier, of these images or others: the position embedding, and whether it is
    what is added.
    """
    if "position_embedding" not in tokens:
        none = "the model adds no position embedding to its tokens"
        return _without(absences(tokens).get("position_embedding", none))

    embedding, patches = axes.patch_embedding(tokens, "position")
    position = tokens["position_embedding"].transpose("token", "channel").isel(token=patches)
    position = position.values.astype(np.float64)
    if reason := _not_added(tokens, embedding, patches, position):
        return _without(reason)

    position_norms = mean_norms(torch.from_numpy(position[None])).numpy()  # (variable, 1)
    norms = np.stack([values[name].values for name in ("norm", "centred_norm")])
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
