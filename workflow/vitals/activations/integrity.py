"""What was written and what is there: digests of a shard's files, and what differs from them.

A chunk ends with the CRC-32C of the bytes before it. The root records the SHA-256 of each other
zarr.json and, for each array, that of the list of its chunks: their names, lengths and checksums.
So a digest costs four bytes a chunk, and verifying recomputes each checksum from the bytes.
"""

import json
import os
from collections.abc import Iterable, Iterator
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
    return _recorded(shard, root_attributes(shard), attribute)


def _recorded(shard: Path, attributes: dict[str, Any], attribute: str) -> dict[str, Any]:
    if attribute not in attributes:
        raise VitalsError(f"{shard} is not a shard of ViTals: its root has no {attribute}")
    return attributes[attribute]


def root_attributes(shard: Path) -> dict[str, Any]:
    """All attributes of a whole shard's root; VitalsError for a folder that is none."""
    file = shard / ROOT_FILE
    if not file.is_file():
        raise VitalsError(f"{shard} is not a whole shard: it has no {ROOT_FILE}")
    return _json(file, file.read_bytes()).get("attributes", {})


def digests(shard: Path, attributes: dict[str, Any]) -> dict[str, str]:
    """What the root records of a shard's other files, by their path, and of its attributes."""
    found = {ATTRIBUTES: attributes_digest(attributes)}
    for file in sorted(shard.glob(f"*/**/{ROOT_FILE}")):
        content = file.read_bytes()
        found[str(file.relative_to(shard))] = digest_of(content)
        if _is_array(_json(file, content)):
            name = str((file.parent / CHUNKS).relative_to(shard))
            keys = _present_chunks(file.parent)
            found[name] = _chunks_digest(_end_of(file.parent, key) for key in keys)
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
        name, content = str(file.relative_to(shard)), file.read_bytes()
        if digest_of(content) != files[name]:
            raise VitalsError(f"{shard}: {name} is not what was written")
        absent = _expected_chunks(_json(file, content)) - _present_chunks(file.parent)
        if absent:
            first = file.parent.relative_to(shard) / min(absent)
            raise VitalsError(f"{shard} lacks {first}, and {len(absent) - 1} chunks more of it")
    return bool(files)


def torn_arrays(shard: Path) -> list[str]:
    """The files of a shard that are not what was written, each as "file: what is wrong".

    Reads every byte, once. Raises VitalsError for a folder that is not a whole shard.
    """
    attributes = root_attributes(shard)
    written = _recorded(shard, attributes, DIGESTS)
    there = set(files_below(shard))
    found = list(_strangers(there, written))
    if attributes_digest(attributes) != written.get(ATTRIBUTES):
        found.append(f"{ROOT_FILE}: the attributes were altered")
    for name in (name for name in written if name.endswith(ROOT_FILE)):
        folder = f"{name.removesuffix(ROOT_FILE)}{CHUNKS}"
        present = {file for file in there if file.startswith(f"{folder}/")}
        # the names that there should be are known from metadata that can be trusted
        expected, content = present, (shard / name).read_bytes() if name in there else b""
        if digest_of(content) == written[name]:
            keys = _expected_chunks(_json(shard / name, content))
            expected = {f"{folder.removesuffix(CHUNKS)}{key}" for key in keys}
        else:
            found.append(f"{name}: {'altered' if name in there else 'missing'}")
        if folder in written:
            found += _torn_chunks(shard, folder, expected, present, written[folder])
    return sorted(found)


def _torn_chunks(
    shard: Path, folder: str, expected: set[str], present: set[str], digest: str
) -> list[str]:
    """What is wrong with the chunks of one array, which are named by their paths in the shard."""
    torn = [f"{chunk}: missing" for chunk in expected - present]
    torn += [f"{chunk}: not a chunk of this array" for chunk in present - expected]
    ends = []
    for chunk in sorted(expected & present):
        content = (shard / chunk).read_bytes()
        if not is_whole_chunk(np.frombuffer(content, np.uint8)):
            torn.append(f"{chunk}: its bytes do not give its checksum")
        key = chunk.removeprefix(folder.removesuffix(CHUNKS))
        ends.append((key, len(content), content[-TRAILER_BYTES:]))
    if not torn and _chunks_digest(ends) != digest:
        torn.append(f"{folder}: a chunk is whole, and not the one that was written")
    return torn


def _strangers(there: set[str], written: dict[str, str]) -> Iterator[str]:
    """Files that are neither metadata nor in the folder of an array's chunks."""
    for name in there:
        in_chunks = any(str(folder) in written for folder in PurePosixPath(name).parents)
        if not (in_chunks or name in written or name == ROOT_FILE):
            yield f"{name}: not a file of the shard"


def _is_array(metadata: dict[str, Any]) -> bool:
    return metadata["node_type"] == "array"


def _expected_chunks(metadata: dict[str, Any]) -> set[str]:
    """The chunks of a node, as "c/0/0": none for a group."""
    if not _is_array(metadata):
        return set()
    chunk = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    counts = [-(-size // step) for size, step in zip(metadata["shape"], chunk, strict=True)]
    return {"/".join([CHUNKS, *map(str, place)]) for place in product(*map(range, counts))}


def _present_chunks(node: Path) -> set[str]:
    return {f"{CHUNKS}/{name}" for name in files_below(node / CHUNKS)}


def _end_of(node: Path, key: str) -> tuple[str, int, bytes]:
    """A chunk's name, length and last four bytes."""
    with (node / key).open("rb") as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(max(0, length - TRAILER_BYTES))
        return key, length, file.read()


def _chunks_digest(ends: Iterable[tuple[str, int, bytes]]) -> str:
    """SHA-256 over a line a chunk, in order of their names: name, length, last four bytes."""
    lines = (f"{key} {length} {last.hex()}\n" for key, length, last in sorted(ends))
    return digest_of("".join(lines).encode())


def _json(file: Path, content: bytes) -> dict[str, Any]:
    try:
        return json.loads(content)
    except ValueError as error:
        raise VitalsError(f"{file} is not JSON: {error}") from error
