"""One set of formulas for two libraries: numpy, faster on a CPU, and torch on an accelerator.

>>> import numpy as np
>>> ratio(np.array([1.0, 1.0]), np.array([2.0, 0.0]))
array([0.5, nan])
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from vitals import device

if TYPE_CHECKING:
    import torch

Array = "np.ndarray | torch.Tensor"


def accelerator() -> "torch.device | None":
    """The accelerator, where there is one that has float64; None is the CPU, by numpy."""
    if not device.accelerators():
        return None
    found = device.choose("auto")
    return found if found.type == "cuda" else None


def placed(values: np.ndarray, where: "torch.device | None") -> Array:
    """The values as an array of the library of that device."""
    if where is None:
        return values
    import torch

    return torch.from_numpy(values).to(where)


def library(values: Array) -> ModuleType:
    """The library that computes with these values."""
    return np if isinstance(values, np.ndarray | np.generic) else sys.modules["torch"]


def typed(values: Array, like: Array) -> Array:
    """The values in the precision of others, of the same library."""
    if isinstance(values, np.ndarray):
        return values.astype(like.dtype, copy=False)
    return values.to(like.dtype)


def numbers(values: Array) -> np.ndarray:
    """The values in numpy."""
    return values if isinstance(values, np.ndarray) else values.cpu().numpy()


def ratio(numerator: Array, denominator: Array) -> Array:
    """Their quotient where the denominator is above zero, NaN elsewhere."""
    of = library(denominator)
    above = denominator > 0
    return of.where(above, numerator / of.where(above, denominator, 1.0), np.nan)
