"""How deep to go, a line a model and feature: the depth to choose, what it keeps, what it saves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from vitals.metrics import files, table_files
from vitals.metrics.results import absences

BOUNDED = ("useful_depth", "accuracy_kept", "extra_isi", "extra_r2_all")
NAMES = (
    "blocks", "recommended_depth", "accuracy_kept", "compute_saved", "useful_depth", "extra_isi",
    "extra_r2_all",
)  # fmt: skip
COLUMNS = [
    "study",
    "model",
    "feature",
    *(
        f"{name}{end}"
        for name in NAMES
        for end in ("", "_low", "_high")
        if not end or name in BOUNDED
    ),
    "note",
]


def write(
    results: Sequence[Path], spec: Mapping[str, Any], provenance: Mapping[str, Any], path: Path
) -> int:
    """Write the table at `path`, and what it was made from beside it; of how many models it is.

    results: files {model}/metrics/depth.nc.
    """
    models = {m: found["depth"] for m, found in files.read_by_model(results).items()}
    table_files.write({path: table(models, **spec)}, provenance)
    return len(models)


def table(results: Mapping[str, xr.Dataset], *, study: str) -> pd.DataFrame:
    """The depth results of models by name: the columns `COLUMNS`, in their order.

    A model without such a result has one row, with the reason in `note`.
    """
    frames = [_of_model(result).assign(study=study, model=m) for m, result in results.items()]
    if not frames:
        return pd.DataFrame(columns=COLUMNS)
    return pd.concat(frames, ignore_index=True).reindex(columns=COLUMNS)


def _of_model(result: xr.Dataset) -> pd.DataFrame:
    reasons = absences(result)
    if "recommended_depth" not in result:
        return pd.DataFrame({"feature": [""], "note": ["; ".join(reasons.values())]})
    features = result["feature"].values
    columns = {
        name: np.broadcast_to(result[name].values, features.shape)
        for name in COLUMNS
        if name in result.data_vars
    }
    said = [f"no {name}: {reason}" for name, reason in reasons.items() if name in COLUMNS]
    return pd.DataFrame({"feature": features, **columns, "note": "; ".join(said)})
