"""Tables and texts as files, which know what they were made from."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from vitals.provenance import canonical, short_digest
from vitals.whole import whole_file


def write(tables: Mapping[Path, pd.DataFrame], provenance: Mapping[str, Any]) -> None:
    """Write each table and, beside the first, a JSON file of their origin and digests.

    Each file is whole or not there.
    """
    for place, table in tables.items():
        with whole_file(place) as partial:
            table.to_csv(partial, index=False)
    write_origin(next(iter(tables)).with_suffix(".json"), list(tables), provenance)


def write_origin(place: Path, made: Iterable[Path], provenance: Mapping[str, Any]) -> None:
    """Write what files were made from, with a digest of each, as JSON."""
    digests = {path.name: short_digest(path.read_bytes()) for path in made}
    with whole_file(place) as partial:
        partial.write_text(canonical({**provenance, "files": digests}) + "\n")
