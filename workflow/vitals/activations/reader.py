"""The stored activations of one model as labelled datasets, all shards as one."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from vitals.activations import store
from vitals.errors import VitalsError

TOKENS, POOLED, GALLERY, MODEL = "tokens", "pooled", "gallery", "model"
ATTENTION_MEAN = "attention_mean"


Paths = str | Path | Sequence[str | Path]


def open_tokens(path: Paths) -> xr.Dataset:
    """The residual stream and the head-mean attention of a model, lazily.

    path: a model's folder (`artifacts/{study}/{model}`), its `activations`, or some of its shards.
    `tokens` (layer, image, token, channel), `attention` (block, image, query, key), and what the
    store keeps of the weights. Raises VitalsError for a store that is missing, torn or incomplete.
    """
    return _open(path, TOKENS, _concatenated)


def open_pooled(path: Paths) -> xr.Dataset:
    """The features, logits and per-head attention summaries of a model over all images, lazily.

    path: as for `open_tokens`. `pooled` (layer, image, feature, channel), `logits` (image, class),
    `attention_*` (block, image, head), `attention_mean` (block, head, query, key), and what the
    store keeps of the weights. Raises VitalsError as `open_tokens` does.
    """
    return _open(path, POOLED, _pooled)


def open_gallery(path: Paths) -> xr.Dataset:
    """The gallery: its images and their attention head by head, lazily.

    path: as for `open_tokens`. `images` (image, color, height, width), `attention_heads` (block,
    image, head, query, key). Raises VitalsError as `open_tokens` does.
    """
    return _open(path, GALLERY, _concatenated)


def _open(path: Paths, group: str, join: Callable[[list[xr.Dataset]], xr.Dataset]) -> xr.Dataset:
    paths = [path] if isinstance(path, str | Path) else path
    shards = [shard for one in paths for shard in store.shards(Path(one))]
    _check_one_origin(shards)
    opened = [store.open_group(shard, group) for shard in shards]
    present = [dataset for dataset in opened if dataset is not None]
    if not present:
        raise VitalsError(f"no shard of {path} holds the tier '{group}'")
    weights = store.open_group(shards[0], MODEL) or xr.Dataset()
    return xr.merge([join(present), weights], join="exact", combine_attrs="drop_conflicts")


def _check_one_origin(shards: list[Path]) -> None:
    """Shards of other weights, settings, images or code are not one model's activations."""
    origins = [store.provenance(shard) for shard in shards]
    for shard, origin in zip(shards, origins, strict=True):
        for key in ("weights_digest", "spec", "images_digest", "code"):
            if origin.get(key) != origins[0].get(key):
                raise VitalsError(f"{shard} and {shards[0]} differ in {key}: extract them again")


def _concatenated(parts: list[xr.Dataset]) -> xr.Dataset:
    if len(parts) == 1:
        return parts[0]
    return xr.concat(parts, "image", data_vars="minimal", coords="minimal", join="exact")


def _pooled(parts: list[xr.Dataset]) -> xr.Dataset:
    if len(parts) == 1:
        return parts[0]
    images = np.array([part.sizes["image"] for part in parts])
    joined = _concatenated([part.drop_vars(ATTENTION_MEAN) for part in parts])
    weighted = [
        part[ATTENTION_MEAN] * share
        for part, share in zip(parts, images / images.sum(), strict=True)
    ]
    return joined.assign({ATTENTION_MEAN: sum(weighted[1:], weighted[0])})
