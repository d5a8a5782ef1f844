"""The stored activations of one model as labelled datasets, all shards as one."""

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from vitals.activations.integrity import ABSENT
from vitals.activations.shards import open_group, provenance, shards
from vitals.errors import VitalsError
from vitals.places import place

TOKENS, POOLED, GALLERY, MODEL = "tokens", "pooled", "gallery", "model"
ATTENTION_MEAN = "attention_mean"
NOT_PASSED = "not_passed"  # why a shard of a variant holds nothing


Paths = str | Path | Sequence[str | Path]


def open_tokens(path: Paths) -> xr.Dataset:
    """The residual stream and the head-mean attention of a model, lazily.

    path: a model's folder (`artifacts/{study}/{model}`), its `activations`, or some of its shards;
    each may be of an object storage (`s3://bucket/{study}/{model}`).
    `tokens` (layer, image, token, channel), `attention` (block, image, query, key), and what the
    store keeps of the weights. Raises VitalsError for a store that is missing, torn or incomplete.
    """
    return _open(path, TOKENS, _concatenated)


def open_variant(path: Paths) -> xr.Dataset:
    """The residual stream of a variant's passes; of a model that has none, only the reason.

    path: shards of the variant. Raises VitalsError as `open_tokens` does.
    """
    paths = [path] if isinstance(path, str | Path) else path
    reason = provenance(next(shard for one in paths for shard in shards(Path(one)))).get(NOT_PASSED)
    return open_tokens(path) if reason is None else xr.Dataset(attrs={ABSENT: {"tokens": reason}})


def open_pooled(path: Paths) -> xr.Dataset:
    """The features, logits and per-head attention summaries of a model over all images, lazily.

    path: as for `open_tokens`. `pooled` (layer, image, feature, channel), `logits` (image, class),
    `head_input` (image, channel), which is the feature that the model's own classifier reads,
    `attention_*` (block, image, head), `attention_mean` (block, head, query, key), and what the
    store keeps of the weights; attribute `published`: the accuracy that is published for them.
    Raises VitalsError as `open_tokens` does.
    """
    return _open(path, POOLED, _pooled)


def open_gallery(path: Paths) -> xr.Dataset:
    """The gallery: its images and their attention head by head, lazily.

    path: as for `open_tokens`. `images` (image, color, height, width), `attention_heads` (block,
    image, head, query, key). Raises VitalsError as `open_tokens` does.
    """
    return _open(path, GALLERY, _concatenated)


def _open(path: Paths, group: str, join: Callable[[list[xr.Dataset]], xr.Dataset]) -> xr.Dataset:
    paths = [path] if not isinstance(path, Sequence) or isinstance(path, str) else path
    found = [shard for one in paths for shard in shards(place(one))]
    _check_one_origin(found)
    opened = [dataset for shard in found if (dataset := open_group(shard, group)) is not None]
    # a shard may come after the last image of a tier
    present = [dataset for dataset in opened if dataset.sizes.get("image", 0)]
    if not present:
        raise VitalsError(f"no shard of {path} holds the tier '{group}'")
    weights = open_group(found[0], MODEL)
    of_model = [] if weights is None else [weights]
    joined = xr.merge([join(present), *of_model], join="exact", combine_attrs="drop")
    published = provenance(found[0]).get("published") if group == POOLED else None
    known = {"published": published} if published else {}
    return joined.assign_attrs({**_absences([*opened, *of_model]), **known})


def _absences(parts: list[xr.Dataset]) -> dict[str, dict[str, str]]:
    """What the parts say of variables that they have not, as one attribute; none, if nothing."""
    absent = {name: why for part in parts for name, why in part.attrs.get(ABSENT, {}).items()}
    return {ABSENT: absent} if absent else {}


def _check_one_origin(found: list[Path]) -> None:
    """Shards of other weights, settings or code, or with a gap, are not one model's activations."""
    origins = [provenance(shard) for shard in found]
    first = _origin(origins[0], found[0])
    for shard, made_from in zip(found, origins, strict=True):
        for key, value in _origin(made_from, shard).items():
            if value != first[key]:
                raise VitalsError(f"{shard} and {found[0]} differ in {key}: extract them again")
    for (before, earlier), (shard, later) in pairwise(zip(found, origins, strict=True)):
        if "stop" in earlier and "start" in later and earlier["stop"] != later["start"]:
            raise VitalsError(
                f"{shard} starts at image {later['start']} and {before} stops at "
                f"{earlier['stop']}: extract them again, or give them in order"
            )


def _origin(made_from: dict[str, Any], shard: Path) -> dict[str, Any]:
    """What shards of one model have in common."""
    try:
        settings = json.loads(made_from["spec"])["settings"]
        return {**{key: made_from[key] for key in ("weights_digest", "code")}, "settings": settings}
    except (KeyError, TypeError, ValueError) as error:
        raise VitalsError(
            f"{shard} does not say what it was made from ({error!r}): extract it again"
        ) from error


def _concatenated(parts: list[xr.Dataset]) -> xr.Dataset:
    if len(parts) == 1:
        return parts[0]
    return xr.concat(parts, "image", data_vars="minimal", coords="minimal", join="exact")


def _pooled(parts: list[xr.Dataset]) -> xr.Dataset:
    if len(parts) == 1 or ATTENTION_MEAN not in parts[0]:
        return _concatenated(parts)
    images = np.array([part.sizes["image"] for part in parts])
    joined = _concatenated([part.drop_vars(ATTENTION_MEAN) for part in parts])
    weighted = [
        part[ATTENTION_MEAN] * share
        for part, share in zip(parts, images / images.sum(), strict=True)
    ]
    return joined.assign({ATTENTION_MEAN: sum(weighted[1:], weighted[0])})
