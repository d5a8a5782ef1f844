"""The gallery of a model, small enough to carry along: images, attention maps, and every patch.

>>> import numpy as np, xarray as xr
>>> heads = xr.DataArray(
...     np.full((1, 2, 1, 3, 3), 1 / 3), dims=("block", "image", "head", "query", "key")
... )
>>> maps = attention_maps(heads, np.array(["cls", "patch", "patch"]))
>>> round(float(maps.max()) ** 2 * maps.attrs["scale"], 6)
0.333333
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from vitals.activations.reader import open_gallery, open_tokens
from vitals.activations.shards import open_group, shards
from vitals.metrics import patch_quantities
from vitals.metrics.results import absences, describe, mark_absent

GALLERY = "gallery"
MOST_MAP_BYTES = 2**20  # of the attention maps of a model
WITHOUT_GALLERY = 16  # test images of a model that has no gallery of its own
LEVELS = 255
PATCHES = "patches"  # the query that is the mean over all patches
UNSEEN = "the study keeps no attention of single images"


def compute(tokens: xr.Dataset, gallery: xr.Dataset | None) -> xr.Dataset:
    """Images, their attention head by head, and what each patch is like at each tap.

    tokens: the token tier; gallery: the tier of that name, None where the model has none: then the
    first test images are taken, and attention is absent with its reason.
    `images` (image, color, height, width) as bytes; `attention` (block, mapped, head, query, key)
    as bytes: byte² · `scale`, an attribute, is the probability, so that small ones are resolved
    too; `query` names tokens. Where all queries of a model would be more than 1 MiB, there are the
    prefix tokens and "patches", the mean over all patch queries, and of no more images than that
    holds: `mapped` are the first of `image`. And the quantities of `patch_quantities.compute`.
    Raises VitalsError as that does.
    """
    places, shown = _images(tokens, gallery)
    result = patch_quantities.compute(tokens, places)
    kinds = tokens["token_kind"].values.astype(str)
    if gallery is None:
        mark_absent(result, "attention", absences(tokens).get("attention", UNSEEN))
        return result
    gallery = gallery.isel(image=shown)
    pixels = np.clip(np.rint(gallery["images"].values * LEVELS), 0, LEVELS).astype(np.uint8)
    pictures = xr.DataArray(pixels, dims=gallery["images"].dims)
    result["images"] = describe(pictures, "pixels of the image", "1/255", "published", "the study")
    maps = attention_maps(gallery["attention_heads"], kinds)
    attention = maps.rename(image="mapped")  # images beyond these keep all the rest
    scale = maps.attrs["scale"]
    attention = describe(
        attention, "square root of attention probability", "√scale", "published", "softmax"
    )
    result["attention"] = attention.assign_attrs(scale=scale)
    return result


def of_shards(paths: Sequence[Path]) -> xr.Dataset:
    """The gallery of the shards of a model."""
    found = [shard for path in paths for shard in shards(path)]
    there = any(open_group(shard, GALLERY) is not None for shard in found)
    return compute(open_tokens(paths), open_gallery(paths) if there else None)


def _images(tokens: xr.Dataset, gallery: xr.Dataset | None) -> tuple[np.ndarray, np.ndarray]:
    """Places of the images along both tiers: of the gallery, those whose tokens are there."""
    if gallery is None:
        test = np.flatnonzero(tokens["split"].values == "test")[:WITHOUT_GALLERY]
        return test, np.arange(0)
    place = {image: i for i, image in enumerate(tokens["image_id"].values.tolist())}
    shown = [i for i, image in enumerate(gallery["image_id"].values.tolist()) if image in place]
    ids = gallery["image_id"].values[shown].tolist()
    return np.array([place[image] for image in ids], dtype=int), np.array(shown, dtype=int)


def attention_maps(heads: xr.DataArray, kinds: np.ndarray) -> xr.DataArray:
    """Attention as bytes, of all queries where they fit, else of prefix tokens and mean patch."""
    heads = heads.transpose("block", "image", "head", "query", "key")
    images = heads.sizes["image"]
    if heads.size <= MOST_MAP_BYTES:
        values, queries = heads.values.astype(np.float64), _token_names(kinds)
    else:
        prefix = np.flatnonzero(kinds != "patch")
        size = (prefix.size + 1) * heads.size // (heads.sizes["query"] * images)  # of one image
        heads = heads.isel(image=slice(max(1, MOST_MAP_BYTES // size)))
        values = np.stack([_few_queries(block.values, kinds) for block in heads])
        queries = [*_token_names(kinds)[: prefix.size], PATCHES]
    roots = np.sqrt(values.clip(min=0))
    scale = float(roots.max()) / LEVELS or 1.0
    coords = {"query": queries}
    return xr.DataArray(
        np.rint(roots / scale).astype(np.uint8), coords, heads.dims, attrs={"scale": scale**2}
    )


def _few_queries(heads: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """(image, head, query, key) -> the prefix queries, then the mean patch query."""
    heads, is_patch = heads.astype(np.float64), kinds == "patch"
    mean = heads[:, :, is_patch].mean(axis=2, keepdims=True)
    return np.concatenate([heads[:, :, ~is_patch], mean], axis=2)


def _token_names(kinds: np.ndarray) -> list[str]:
    """Each token by its kind, with its number among those of its kind where there are several."""
    counts = {kind: int((kinds == kind).sum()) for kind in set(kinds.tolist())}
    seen: dict[str, int] = {}
    names = []
    for kind in kinds.tolist():
        number = seen.setdefault(kind, 0)
        seen[kind] += 1
        names.append(f"{kind} {number}" if counts[kind] > 1 else kind)
    return names
