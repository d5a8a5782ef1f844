"""Metrics: datasets -> xarray.Dataset, one module a question, each with one pure `compute`."""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    # `vitals.metrics.probes` without an import of its own, and without importing all the others
    if name.startswith("_") or find_spec(f"{__name__}.{name}") is None:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return import_module(f"{__name__}.{name}")
