"""ViTals: the vital signs of Vision Transformers, layer by layer."""

from importlib import import_module
from typing import Any

READERS = ("open_gallery", "open_pooled", "open_tokens")
__all__ = ["open_gallery", "open_pooled", "open_tokens"]


def __getattr__(name: str) -> Any:
    # The readers need xarray and Zarr, which a look at the settings alone should not wait for.
    if name in READERS:
        return getattr(import_module("vitals.activations.reader"), name)
    raise AttributeError(f"module 'vitals' has no attribute '{name}'")
