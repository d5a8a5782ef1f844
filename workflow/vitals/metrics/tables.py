"""The tables of a study as files: its numbers, its differences, and what both were made from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitals.metrics import files, summary
from vitals.provenance import canonical, short_digest
from vitals.whole import whole_file


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
    for place, table in tables.items():
        with whole_file(place) as partial:
            table.to_csv(partial, index=False)
    digests = {place.name: short_digest(place.read_bytes()) for place in tables}
    with whole_file(path.with_suffix(".json")) as partial:
        partial.write_text(canonical({**provenance, "files": digests}) + "\n")
    return len(numbers)
