"""What a metric of stored activations is called with."""

from collections.abc import Sequence
from pathlib import Path

import xarray as xr

from vitals.activations.reader import open_pooled, open_tokens

OPEN = {"tokens": open_tokens, "pooled": open_pooled}


def of_activations(shards: Sequence[Path], tiers: Sequence[str]) -> dict[str, xr.Dataset]:
    """The tiers of a model, the first as `dataset`, any other under its own name."""
    first, *others = tiers
    return {"dataset": OPEN[first](shards), **{tier: OPEN[tier](shards) for tier in others}}
