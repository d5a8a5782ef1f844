"""What a metric of stored activations is called with."""

from collections.abc import Sequence
from pathlib import Path

import xarray as xr

from vitals.activations.reader import open_pooled, open_tokens, open_variant
from vitals.activations.shards import shards

OPEN = {"tokens": open_tokens, "pooled": open_pooled}


def of_activations(paths: Sequence[Path], tiers: Sequence[str]) -> dict[str, xr.Dataset]:
    """The tiers of a model, the first as `dataset`, any other under its own name."""
    first, *others = tiers
    return {"dataset": OPEN[first](paths), **of_tiers(paths, others)}


def of_tiers(paths: Sequence[Path], tiers: Sequence[str]) -> dict[str, xr.Dataset]:
    """The tiers of a model, each under its own name."""
    return {tier: OPEN[tier](paths) for tier in tiers}


def of_variants(paths: Sequence[Path]) -> dict[str, xr.Dataset]:
    """The token tier of each variant, by name; paths: variants/{variant}/{shard}.zarr, of all."""
    by_variant: dict[str, list[Path]] = {}
    for path in (shard for given in paths for shard in shards(given)):
        by_variant.setdefault(path.parent.name, []).append(path)
    return {variant: open_variant(found) for variant, found in by_variant.items()}


def of_models(paths: Sequence[Path]) -> dict[str, xr.Dataset]:
    """The pooled tier of each model, by name; paths: {model}/activations/{shard}.zarr, of all."""
    by_model: dict[str, list[Path]] = {}
    for path in (shard for given in paths for shard in shards(given)):
        by_model.setdefault(path.parents[1].name, []).append(path)
    return {model: open_pooled(found) for model, found in by_model.items()}
