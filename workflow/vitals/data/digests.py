"""Digests of the contents of images, and a record that spares computing them twice."""

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import pandas as pd

from vitals import stamps
from vitals.data.source import ImageSource
from vitals.progress import announce, progress
from vitals.provenance import digest_of
from vitals.whole import whole_file

UNREADABLE = ""
READERS = min(8, os.cpu_count() or 1)


def of_contents(source: ImageSource, rows: pd.DataFrame) -> list[str]:
    """The digest of each image's content, `UNREADABLE` for one that cannot be read."""

    def digest(path: str, index: int) -> str:
        try:
            return digest_of(source.read(path, index))
        except OSError:
            return UNREADABLE

    announce(f"images: reading {len(rows)} to know their content")
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(digest, rows["path"].tolist(), rows["index"].tolist())
        return list(progress(found, "images", len(rows)))


def remembered(source: ImageSource, rows: pd.DataFrame, record: Path) -> list[str]:
    """The same for images whose stamps are not those that were listed, read once for each stamp.

    A copy of a dataset has other stamps and the same content. The record, a file beside the list,
    keeps what was found, so that this is not found out again each time that the workflow starts.
    """
    known = _recorded(record)
    keys = (rows["image_id"] + "\n" + rows["stamp"]).tolist()
    new = [key not in known for key in keys]
    if any(new):
        fresh = of_contents(source, rows[new])
        known |= zip(
            [key for key, is_new in zip(keys, new, strict=True) if is_new], fresh, strict=True
        )
        _record({key: known[key] for key in keys}, record)
    return [known[key] for key in keys]


def of_file(path: Path, record: Path) -> str:
    """The digest of a file, which is read once for each size and time of its last change."""
    found = path.stat()
    key = f"{path}\n{found.st_size}-{found.st_mtime_ns}"
    if not stamps.is_settled(found):
        return _of_bytes(path)
    known = _recorded(record)
    if key not in known:
        known[key] = _of_stamped(path, key)
        _record(known, record)
    return known[key]


@lru_cache
def _of_stamped(path: Path, stamp: str) -> str:
    return _of_bytes(path)


def _of_bytes(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _recorded(record: Path) -> dict[str, str]:
    try:
        return json.loads(record.read_text())
    except (OSError, ValueError):  # none yet, or torn: it only saves time
        return {}


def _record(known: Mapping[str, str], record: Path) -> None:
    try:
        with whole_file(record) as partial:
            partial.write_text(json.dumps(known))
    except OSError:  # a folder that may not be written to: the next start reads them again
        pass
