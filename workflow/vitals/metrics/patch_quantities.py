"""What single patches of single images are like at each tap: how large, how typical, how much kept.

>>> import numpy as np, xarray as xr
>>> tokens = np.random.default_rng(0).standard_normal((1, 60, 4, 3))  # tap "embed" alone
>>> dataset = xr.Dataset(
...     {"tokens": (("layer", "image", "token", "channel"), tokens)},
...     coords={
...         "layer": ["embed"],
...         "token_kind": ("token", ["patch"] * 4),
...         "split": ("image", ["fit"] * 50 + ["test"] * 10),
...     },
... )
>>> compute(dataset, np.array([50]))["recoverability"].values.round(6)
array([[[1., 1., 1., 1.]]])
"""

import numpy as np
import scipy.linalg
import xarray as xr

from vitals.metrics import axes
from vitals.metrics.results import RECONSTRUCTED, describe

COLLINEAR = 1e-12  # of the largest eigenvalue: below it a direction of channels is linear in others
DESCRIBED = {
    "norm": ("norm of the patch token", "activation", "Euclidean norm"),
    "similarity_to_mean": (
        "cosine between a patch token and the mean patch token of its image",
        "1",
        "cosine similarity",
    ),
    "recoverability": (
        "share of the patch embedding that a linear map gives back from the same token",
        "1",
        "one map for all positions; its mean over test patches is an r2_self",
    ),
}


def compute(dataset: xr.Dataset, images: np.ndarray) -> xr.Dataset:
    """Of some images, each patch at each tap: (layer, image, patch).

    `norm` ‖x‖; `similarity_to_mean` cos(x, mean patch of the image); `recoverability` 1 − ‖z − ẑ‖²
    / mean ‖z − z̄‖², ẑ = z̄ + (x − x̄)W the patch embedding rebuilt from the same token, W and the
    means per position fitted on the split "fit", and the mean below over the patches of the split
    "test". 1 is all, 0 no more than the mean image has, less than 0 worse.

    dataset: the token tier: `tokens` (layer, image, token, channel) with a layer "embed",
    coordinates `token_kind` and `split`; images: their places along `image`.
    A zero token has no `similarity_to_mean`: NaN. All is in float64.
    Raises VitalsError where the layer "embed", a split or a second patch token are missing, and
    for tokens that are not finite.
    """
    embedding, patches = axes.patch_embedding(dataset, "the gallery")
    fit, test = (axes.split_indices(dataset, split) for split in ("fit", "test"))
    z = _values(embedding, images)
    z_mean, spread = _mean(embedding, fit), 0.0
    for block, values in axes.image_blocks(embedding):
        spread += np.square(values[_within(block, test)] - z_mean).sum()
    spread /= test.size * patches.size

    found: dict[str, list[np.ndarray]] = {name: [] for name in DESCRIBED}
    for layer in range(dataset.sizes["layer"]):
        tokens = dataset["tokens"].isel(layer=layer, token=patches)
        x, x_mean = _values(tokens, images), _mean(tokens, fit)
        rebuilt = z_mean + (x - x_mean) @ _map(tokens, embedding, x_mean, z_mean, fit)
        found["norm"].append(np.linalg.norm(x, axis=-1))
        found["similarity_to_mean"].append(_cosine(x, x.mean(axis=1, keepdims=True)))
        found["recoverability"].append(1 - np.square(z - rebuilt).sum(axis=-1) / spread)

    result = xr.Dataset(coords=axes.layer_coordinates(dataset))
    result = result.assign_coords(axes.image_coordinates(dataset.isel(image=images)))
    places = {name: ("patch", dataset[name].values[patches]) for name in ("row", "column")
              if name in dataset.coords}  # fmt: skip
    for name, (long_name, units, source) in DESCRIBED.items():
        array = xr.DataArray(np.array(found[name]), dims=("layer", "image", "patch"))
        result[name] = describe(array, long_name, units, RECONSTRUCTED, source)
    return result.assign_coords(places)


def _values(tokens: xr.DataArray, images: np.ndarray) -> np.ndarray:
    """(image, patch, channel)"""
    ordered = tokens.isel(image=images).transpose("image", "token", "channel")
    return ordered.values.astype(np.float64)


def _within(block: slice, images: np.ndarray) -> np.ndarray:
    """Which of a block's images are among these, by their place in it."""
    return images[(images >= block.start) & (images < block.stop)] - block.start


def _mean(tokens: xr.DataArray, images: np.ndarray) -> np.ndarray:
    """The mean of each position over some images: (patch, channel)."""
    blocks = axes.image_blocks(tokens.transpose("image", "token", "channel"))
    sums = [values[_within(b, images)].sum(axis=0, dtype=np.float64) for b, values in blocks]
    return np.sum(sums, axis=0) / images.size


def _map(
    tokens: xr.DataArray,
    embedding: xr.DataArray,
    x_mean: np.ndarray,
    z_mean: np.ndarray,
    fit: np.ndarray,
) -> np.ndarray:
    """W, the least-squares map of channels from a tap to the embedding: (channel, channel)."""
    gram, cross = 0.0, 0.0
    pairs = zip(axes.image_blocks(tokens), axes.image_blocks(embedding), strict=True)
    for (block, x), (_, z) in pairs:
        chosen = _within(block, fit)
        x = (x[chosen] - x_mean).reshape(-1, x.shape[-1])
        z = (z[chosen] - z_mean).reshape(-1, z.shape[-1])
        gram, cross = gram + x.T @ x, cross + x.T @ z
    return scipy.linalg.pinvh(gram, rtol=COLLINEAR) @ cross


def _cosine(x: np.ndarray, mean: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(x, axis=-1) * np.linalg.norm(mean, axis=-1)
    products = (x * mean).sum(axis=-1)
    return np.divide(products, norms, out=np.full_like(products, np.nan), where=norms > 0)
