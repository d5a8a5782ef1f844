"""The tables of a study as files: its numbers, its differences, and what both were made from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitals.metrics import files, summary, table_files


def write(
    results: Sequence[Path], spec: Mapping[str, Any], provenance: Mapping[str, Any], path: Path
) -> int:
    """Write `path` and, beside it, differences.csv and a JSON file of their origin and digests.

    results: files {model}/metrics/{metric}.nc and compare/{metric}.nc. Each file is whole or not
    there. Returns how many numbers the table at `path` has.
    """
    read = files.read_by_model(results)
    of_models = {(model, name): r for model, found in read.items() for name, r in found.items()}
    numbers = summary.table(of_models, **spec)
    differences = summary.differences(read.get("compare", {}), **spec)
    tables = {path: numbers, path.with_name("differences.csv"): differences}
    table_files.write(tables, provenance)
    return len(numbers)
