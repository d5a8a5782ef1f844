"""Findings on disk: the table, made of that of all numbers, and what it was made from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from vitals.findings.table import table
from vitals.provenance import canonical, short_digest
from vitals.whole import whole_file

NUMBERS = ("depth", "relative_depth", "value", "low", "high")


def write(
    summary: Path, output: Path, *, origin: Mapping[str, Any], **settings: Any
) -> dict[str, int]:
    """Write the findings of a summary and, beside them, a JSON file of their origin.

    settings: as for `vitals.findings.table.table`. Returns how many verdicts there are of each
    kind.
    """
    found = table(read(summary), **settings)
    with whole_file(output) as partial:
        found.to_csv(partial, index=False)
    digests = {output.name: short_digest(output.read_bytes())}
    with whole_file(output.with_suffix(".json")) as partial:
        partial.write_text(canonical({**origin, "files": digests}) + "\n")
    return found.drop_duplicates(["statement", "subject"])["verdict"].value_counts().to_dict()


def read(path: Path) -> pd.DataFrame:
    """A table of a study: numbers as such, all else as text, and no text as none."""
    found = pd.read_csv(path, dtype=str, keep_default_na=False)
    return found.assign(**{name: pd.to_numeric(found[name]) for name in NUMBERS if name in found})
