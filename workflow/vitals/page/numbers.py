"""Arrays and tables as the page holds them: small, and read by a browser without a library.

>>> packed(np.array([[1.0, 2.0]]))
{'type': 'float32', 'shape': [1, 2], 'data': 'AACAPwAAAEA='}
>>> columns(pd.DataFrame({"model": ["a", "a"], "value": [0.123456789, np.nan]}))
{'model': {'names': ['a'], 'codes': [0, 0]}, 'value': [0.123457, None]}
"""

import base64
from typing import Any

import numpy as np
import pandas as pd

DIGITS = 6  # of a number in a table


def packed(array: np.ndarray) -> dict[str, Any]:
    """An array in little-endian bytes, as base64: float32, or uint8 as it is."""
    kind = "uint8" if array.dtype == np.uint8 else "float32"
    data = np.ascontiguousarray(array, dtype=np.dtype(kind).newbyteorder("<")).tobytes()
    return {"type": kind, "shape": list(array.shape), "data": base64.b64encode(data).decode()}


def columns(table: pd.DataFrame) -> dict[str, Any]:
    """A table by column: numbers with six digits, None for none, and texts by their place in a list
    of all that there are."""
    return {str(name): _column(table[name]) for name in table}


def _column(column: pd.Series) -> Any:
    if column.dtype.kind == "f":
        return [number(value) for value in column]
    codes, names = pd.factorize(column.astype(str))
    return {"names": names.tolist(), "codes": codes.tolist()}


def number(value: float) -> float | None:
    """A number with six digits; None for what is no number, which JSON cannot hold."""
    return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None
