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
import xarray as xr

from vitals.metrics import axes, bootstrap
from vitals.metrics.results import PAPER, PUBLISHED, describe, mark_absent

SOURCE = f"{PAPER}, positional dominance ratio; the protocol is ours"
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
    tokens: only that part can change how alike centred tokens are. Token norms on both sides.

    dataset: the token tier: `tokens` (layer, image, token, channel) with a layer "embed",
    `position_embedding` (token, channel), coordinate `token_kind`.
    Returns both as scalars with `_low`, `_high` and `_draws` (draw) from a bootstrap over images.
    Both are absent where the dataset has no `position_embedding`, and a ratio is where it would
    divide by zero.
    Raises VitalsError where the layer "embed" or a second patch token is missing.
    Source: arXiv 2511.21635, positional dominance ratio; the protocol is ours.
    """
    result = xr.Dataset()
    if "position_embedding" not in dataset:
        for name in VARIABLES:
            mark_absent(result, name, "the model adds no position embedding to its tokens")
        return result

    tokens, patches = axes.patch_embedding(dataset, "position")
    position = dataset["position_embedding"].transpose("token", "channel").isel(token=patches)
    position_norms = _mean_norms(position.values.astype(np.float64)[None])  # (variable, 1)
    blocks = axes.image_blocks(tokens.transpose("image", "token", "channel"))
    norms = [_mean_norms(block.astype(np.float64)) for _, block in blocks]
    norms = xr.DataArray(np.concatenate(norms, axis=1), dims=("variable", "image"))

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


def _mean_norms(x: np.ndarray) -> np.ndarray:
    """Mean token norm of each image, as it is and centred: (variable, image)."""
    centred = x - x.mean(axis=1, keepdims=True)
    return np.stack([np.linalg.norm(v, axis=2).mean(axis=1) for v in (x, centred)])
