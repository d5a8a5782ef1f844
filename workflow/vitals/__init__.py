"""ViTals: the vital signs of Vision Transformers, layer by layer.

`vitals.open_tokens(path)` and `vitals.open_pooled(path)` open what a study stored of a model, and
`vitals.metrics.similarity.compute(dataset)` measures it.
"""

from importlib import import_module
from typing import Any

READERS = ("open_gallery", "open_pooled", "open_tokens")
ROOMS = ("activations", "data", "figures", "metrics", "models")
__all__ = ["open_gallery", "open_pooled", "open_tokens"]


def __getattr__(name: str) -> Any:
    # They need xarray, Zarr or torch, which a look at the settings should not wait for.
    if name in READERS:
        return getattr(import_module("vitals.activations.reader"), name)
    if name in ROOMS:
        return import_module(f"vitals.{name}")
    raise AttributeError(f"module 'vitals' has no attribute '{name}'")
