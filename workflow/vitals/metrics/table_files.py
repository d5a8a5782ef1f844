"""Tables as files, which know what they were made from."""

from collections.abc import Mapping
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
    digests = {place.name: short_digest(place.read_bytes()) for place in tables}
    with whole_file(next(iter(tables)).with_suffix(".json")) as partial:
        partial.write_text(canonical({**provenance, "files": digests}) + "\n")
