"""What was written and what is there: digests of a shard's files, and what differs from them.

A chunk ends with the CRC-32C of the bytes before it. The root records the SHA-256 of each other
zarr.json and, for each array, that of the list of its chunks: their names, lengths and checksums.
So a digest costs four bytes a chunk, and verifying recomputes each checksum from the bytes.
"""

import json
import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

import google_crc32c
import numpy as np

from vitals.errors import VitalsError
from vitals.places import files_below
from vitals.provenance import canonical, digest_of

ROOT_FILE = "zarr.json"
CHUNKS = "c"
TRAILER_BYTES = 4
DIGESTS = "digests"
ABSENT = "absent"  # attribute of a group: the reason for each variable that it has not
ATTRIBUTES = "attributes"  # the digest of the root's own attributes, but for the digests


def recorded(shard: Path, attribute: str) -> dict[str, Any]:
    """An attribute of a whole shard's root: "provenance", "encoding" or "digests".

    Raises VitalsError for a folder that is not a whole shard.
    """
    attributes = root_attributes(shard)
    if attribute not in attributes:
        raise VitalsError(f"{shard} is not a shard of ViTals: its root has no {attribute}")
    return attributes[attribute]


def root_attributes(shard: Path) -> dict[str, Any]:
    """All attributes of a whole shard's root; VitalsError for a folder that is none."""
    file = shard / ROOT_FILE
    if not file.is_file():
        raise VitalsError(f"{shard} is not a whole shard: it has no {ROOT_FILE}")
    return _json(file).get("attributes", {})


def digests(shard: Path, attributes: dict[str, Any]) -> dict[str, str]:
    """What the root records of a shard's other files, by their path, and of its attributes."""
    found = {ATTRIBUTES: attributes_digest(attributes)}
    for file in sorted(shard.glob(f"*/**/{ROOT_FILE}")):
        found[str(file.relative_to(shard))] = digest_of(file.read_bytes())
        if _is_array(file):
            name = str((file.parent / CHUNKS).relative_to(shard))
            found[name] = _chunks_digest(file.parent)
    return found


def attributes_digest(attributes: dict[str, Any]) -> str:
    """What the root records of its own attributes: the digest of all but the digests."""
    others = {name: value for name, value in attributes.items() if name != DIGESTS}
    return digest_of(canonical(others).encode())


def is_whole_chunk(content: np.ndarray) -> bool:
    """Whether the bytes of a chunk (byte,) uint8 give the checksum at their end."""
    if content.size < TRAILER_BYTES:
        return False
    checksum = int.from_bytes(content[-TRAILER_BYTES:].tobytes(), "little")
    return google_crc32c.value(content[:-TRAILER_BYTES]) == checksum


def check_files(shard: Path, group: str) -> bool:
    """Whether a whole shard has a tier; reads its metadata and the names of its chunks.

    Raises VitalsError for a zarr.json that is missing or was altered, and for a missing chunk.
    """
    files = {n: d for n, d in recorded(shard, DIGESTS).items() if n.split("/")[0] == group}
    metadata = [shard / name for name in files if name.endswith(ROOT_FILE)]
    missing = [str(file.parent.relative_to(shard)) for file in metadata if not file.is_file()]
    if missing:
        raise VitalsError(f"{shard} lacks {', '.join(missing)}")
    for file in metadata:
        name = str(file.relative_to(shard))
        if digest_of(file.read_bytes()) != files[name]:
            raise VitalsError(f"{shard}: {name} is not what was written")
        absent = _expected_chunks(file) - _present_chunks(file.parent)
        if absent:
            first = file.parent.relative_to(shard) / min(absent)
            raise VitalsError(f"{shard} lacks {first}, and {len(absent) - 1} chunks more of it")
    return bool(files)


def torn_arrays(shard: Path) -> list[str]:
    """The files of a shard that are not what was written, each as "file: what is wrong".

    Reads every byte. Raises VitalsError for a folder that is not a whole shard.
    """
    written = recorded(shard, DIGESTS)
    found = list(_altered_metadata(shard, written))
    arrays = [shard / name for name in written if name.split("/")[-1] == CHUNKS]
    for folder in arrays:
        file = folder.with_name(ROOT_FILE)
        name = str(folder.relative_to(shard))
        torn = list(_torn_chunks(shard, file, written))
        if not torn and _chunks_digest(file.parent) != written[name]:
            torn = [f"{name}: a chunk is whole, and not the one that was written"]
        found += torn
    return sorted([*found, *_strangers(shard, written)])


def _altered_metadata(shard: Path, written: dict[str, str]) -> Iterator[str]:
    if attributes_digest(root_attributes(shard)) != written.get(ATTRIBUTES):
        yield f"{ROOT_FILE}: the attributes were altered"
    for name, digest in written.items():
        if not name.endswith(ROOT_FILE):
            continue
        if not (shard / name).is_file():
            yield f"{name}: missing"
        elif digest_of((shard / name).read_bytes()) != digest:
            yield f"{name}: altered"


def _torn_chunks(shard: Path, file: Path, written: dict[str, str]) -> Iterator[str]:
    """What is wrong with single chunks of the array whose metadata this file is."""
    node, name = file.parent, str(file.relative_to(shard))
    present = _present_chunks(node)
    # the names that there should be are known from metadata that can be trusted
    trusted = file.is_file() and digest_of(file.read_bytes()) == written.get(name)
    expected = _expected_chunks(file) if trusted else present
    for key in sorted(expected | present):
        chunk = (node / key).relative_to(shard)
        if key not in present:
            yield f"{chunk}: missing"
        elif key not in expected:
            yield f"{chunk}: not a chunk of this array"
        elif not is_whole_chunk(np.frombuffer((node / key).read_bytes(), np.uint8)):
            yield f"{chunk}: its bytes do not give its checksum"


def _strangers(shard: Path, written: dict[str, str]) -> Iterator[str]:
    """Files that are neither metadata nor in the folder of an array's chunks."""
    for name in files_below(shard):
        in_chunks = any(str(folder) in written for folder in PurePosixPath(name).parents)
        if not (in_chunks or name in written or name == ROOT_FILE):
            yield f"{name}: not a file of the shard"


def _is_array(file: Path) -> bool:
    return _json(file)["node_type"] == "array"


def _expected_chunks(file: Path) -> set[str]:
    """The chunks of a node, as "c/0/0": none for a group."""
    if not _is_array(file):
        return set()
    metadata = _json(file)
    chunk = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    counts = [-(-size // step) for size, step in zip(metadata["shape"], chunk, strict=True)]
    return {"/".join([CHUNKS, *map(str, place)]) for place in product(*map(range, counts))}


def _present_chunks(node: Path) -> set[str]:
    return {f"{CHUNKS}/{name}" for name in files_below(node / CHUNKS)}


def _chunks_digest(node: Path) -> str:
    """SHA-256 over a line a chunk, in order of their names: name, length, last four bytes."""
    lines = []
    for key in sorted(_present_chunks(node)):
        with (node / key).open("rb") as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(max(0, length - TRAILER_BYTES))
            lines.append(f"{key} {length} {file.read().hex()}\n")
    return digest_of("".join(lines).encode())


def _json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_bytes())
    except ValueError as error:
        raise VitalsError(f"{file} is not JSON: {error}") from error
