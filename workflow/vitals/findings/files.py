"""Findings on disk: the table, made of that of all numbers, and what it was made from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from vitals.findings.table import table
from vitals.metrics import table_files

NUMBERS = ("depth", "relative_depth", "value", "low", "high")


def write(
    summary: Path, output: Path, *, origin: Mapping[str, Any], **settings: Any
) -> dict[str, int]:
    """Write the findings of a summary and, beside them, a JSON file of their origin.

    settings: as for `vitals.findings.table.table`. Returns how many verdicts there are of each
    kind.
    """
    found = table(read(summary), **settings)
    table_files.write({output: found}, origin)
    return found.drop_duplicates(["statement", "subject"])["verdict"].value_counts().to_dict()


def read(path: Path) -> pd.DataFrame:
    """A table of a study: numbers as such, all else as text, and no text as none."""
    found = pd.read_csv(path, dtype=str, keep_default_na=False)
    return found.assign(**{name: pd.to_numeric(found[name]) for name in NUMBERS if name in found})
