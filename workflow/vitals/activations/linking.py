"""A shard that was extracted elsewhere from the same things, put in place without a pass.

Its files are linked, not copied: both shards have them, and each stays whole when the other goes.
The root file alone is written anew. It says where the shard was taken from, and it has a time of
its own, which is what the workflow goes by.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitals.activations import store
from vitals.activations.integrity import (
    ATTRIBUTES,
    CHUNKS,
    DIGESTS,
    ROOT_FILE,
    attributes_digest,
    digests,
    root_attributes,
)
from vitals.errors import VitalsError
from vitals.reuse import FINGERPRINT, TAKEN_FROM, elsewhere

# another disk; one without links, or full of them; files of another user
WITHOUT_LINKS = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)
OF_THE_PASS = ("versions", "device")  # what made the values, wherever they are taken to


def link(shard: Path, provenance: dict[str, Any], studies: Path) -> Path | None:
    """Put a whole shard of the same fingerprint in place; where it lay, None if there is none.

    provenance: what the shard at this place is made from, its fingerprint among it; studies: the
    folder of all studies. A candidate is whole when it has all its files, with the lengths and
    checksums that its root records; that the bytes give their checksums is seen when they are read.
    Raises VitalsError where another run is writing the shard, and where it would have to be copied
    and the disk has too little room.
    """
    shard.parent.mkdir(parents=True, exist_ok=True)
    for root in elsewhere(shard / ROOT_FILE, studies):
        twin = root.parent
        try:
            attributes = root_attributes(twin)
        except VitalsError:
            continue
        made_from = attributes.get("provenance", {})
        if made_from.get(FINGERPRINT) == provenance[FINGERPRINT] and _put(
            twin, attributes, shard, provenance
        ):
            return twin
    return None


def _put(twin: Path, attributes: dict[str, Any], shard: Path, provenance: dict[str, Any]) -> bool:
    """Whether the twin was whole to the end, and now is the shard as well."""
    made_from = attributes["provenance"]
    own = {
        **attributes,
        "provenance": {
            **made_from,
            **provenance,
            **{name: made_from[name] for name in OF_THE_PASS},
            TAKEN_FROM: str(twin),
        },
    }
    own[DIGESTS] = {**attributes[DIGESTS], ATTRIBUTES: attributes_digest(own)}
    try:
        with store.placed(shard, _bytes_to_copy(twin, shard.parent)) as partial:
            for name in _files(twin, attributes[DIGESTS]):
                _link_or_copy(twin / name, partial / name)
            # of what is here now: the twin may have been replaced meanwhile
            if not _is_whole(partial, attributes):
                raise _NotWholeError
            root = json.loads((twin / ROOT_FILE).read_bytes())
            (partial / ROOT_FILE).write_text(json.dumps({**root, "attributes": own}, indent=2))
    except (OSError, _NotWholeError):
        return False
    return True


class _NotWholeError(Exception):
    pass


def _is_whole(partial: Path, attributes: dict[str, Any]) -> bool:
    try:
        return digests(partial, attributes) == attributes[DIGESTS]
    except (VitalsError, KeyError):  # metadata that is none
        return False


def _files(shard: Path, written: dict[str, str]) -> Iterator[Path]:
    """The files that a shard's digests are of, by their path in it."""
    for name in written:
        if name.endswith(ROOT_FILE):
            yield Path(name)
        elif name.split("/")[-1] == CHUNKS:
            for folder, _, chunks in os.walk(shard / name):
                yield from (Path(folder, chunk).relative_to(shard) for chunk in chunks)


def _link_or_copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in WITHOUT_LINKS:
            raise
        shutil.copyfile(source, target)


def _bytes_to_copy(twin: Path, folder: Path) -> int:
    """What the disk of a folder must have room for: nothing where the twin lies on it."""
    if twin.stat().st_dev == folder.stat().st_dev:
        return 0
    return sum(file.stat().st_size for file in twin.rglob("*") if file.is_file())
