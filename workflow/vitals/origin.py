"""What a result was made from: what is written into it, read back from it, and compared.

Each kind of file keeps it in its own way (attributes, metadata, a file beside it), always under
the same names. Nothing that a stage runs imports this module, so an edit here makes nothing stale.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from html import unescape
from pathlib import Path
from typing import Any

from vitals import stamps
from vitals.errors import VitalsError
from vitals.provenance import canonical, short_digest

LARGE = 2**24  # bytes; of a larger file the size and the time are kept too, which spare reading it
# what a model's report says of how it was made, and not of the model
MAKING = (
    *("spec", "code", "modules", "inputs", "versions", "device"),
    *("fingerprint", "taken_from"),
)
HEADER_LENGTH = 8  # bytes before the header of a safetensors file


@dataclass(frozen=True)
class Origin:
    """What a result says that it was made from.

    spec, code: the settings and the digest of the code; modules: a digest of each module and the
    version of each package behind `code`; inputs: the identity of each file that was read, by its
    path from the result's folder; files: the identity of what was made with it, by name.
    """

    spec: str
    code: str
    modules: Mapping[str, str]
    inputs: Mapping[str, str]
    files: Mapping[str, str] = field(default_factory=dict)


def identities(inputs: Mapping[str, Path]) -> dict[str, str]:
    """The identity of each file that a stage reads, by the name that it has there."""
    return {name: identity(path) for name, path in inputs.items()}


def names(inputs: Iterable[Path], output: Path) -> dict[str, Path]:
    """Inputs by their paths from the folder of an output, the same wherever the study lies."""
    folder = output if output.suffix == ".zarr" else output.parent
    return {os.path.relpath(path, folder): path for path in inputs}


def identity(path: Path) -> str:
    """What tells a file from any other of its name, without its place, and cheap where it can be.

    Of weights that a stage wrote it is the digest in their header, of a model's report the digest
    of what describes the model, of any other file the digest of its bytes.
    """
    found = path.stat()
    find = _identity if stamps.is_settled(found) else _identity.__wrapped__  # which remembers none
    return find(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=4096)
def _identity(path: Path, size: int, mtime_ns: int) -> str:
    try:
        if path.suffix == ".safetensors":
            return _weights_digest(path)[:16]
        if path.name == "model.json":
            return short_digest(canonical(_without_making(path)).encode())
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # another's, or damaged: what is left is its bytes
    content = short_digest(path.read_bytes())
    return content if size < LARGE else f"{content} {size} {mtime_ns}"


def is_same(path: Path, recorded: str) -> bool:
    """Whether a file is the one of a recorded identity."""
    content, *seen = recorded.split()
    if seen:
        found = path.stat()
        if [str(found.st_size), str(found.st_mtime_ns)] == seen:
            return True
        if str(found.st_size) != seen[0]:
            return False
    return identity(path).split()[0] == content


def read(path: Path) -> Origin | None:
    """What a result was made from; None where it is damaged, or does not say.

    path: images.parquet, model.json, the root file of a shard, .nc, .svg, .html, or the .json of a
    table.
    """
    try:
        return _origin(READERS[path.suffix](path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, VitalsError):
        return None


def _origin(said: Mapping[str, Any]) -> Origin:
    parts = {
        name: json.loads(said[name]) if isinstance(said[name], str) else said[name]
        for name in ("modules", "inputs")
    }
    files = said.get("files", {})
    if "weights_digest" in said and "built" in said:
        files = {"model.safetensors": said["weights_digest"][:16]}
    return Origin(said["spec"], said["code"], parts["modules"], parts["inputs"], files)


def _of_json(path: Path) -> dict[str, Any]:
    said = json.loads(path.read_bytes())
    return said["attributes"]["provenance"] if path.name == "zarr.json" else said


def _of_parquet(path: Path) -> dict[str, Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        return json.loads(pyarrow.parquet.read_schema(path).metadata[b"vitals"])
    except pyarrow.ArrowException as error:
        raise VitalsError(f"{path} is damaged: {error}") from error


def _of_netcdf(path: Path) -> dict[str, Any]:
    import h5py

    with h5py.File(path) as file:
        return dict(file.attrs)


def _of_svg(path: Path) -> dict[str, Any]:
    said = re.search(rb"<dc:description>(.*?)</dc:description>", path.read_bytes(), re.DOTALL)
    return json.loads(unescape(said[1].decode()))


def _of_html(path: Path) -> dict[str, Any]:
    said = re.search(rb'id="origin">(.*?)</script>', path.read_bytes(), re.DOTALL)
    return json.loads(said[1])


READERS = {
    ".json": _of_json,
    ".parquet": _of_parquet,
    ".nc": _of_netcdf,
    ".svg": _of_svg,
    ".html": _of_html,
}


def _without_making(path: Path) -> dict[str, Any]:
    said = json.loads(path.read_bytes())
    return {name: value for name, value in said.items() if name not in MAKING}


def _weights_digest(path: Path) -> str:
    """What the header of a safetensors file says of its weights, if a stage here wrote it."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(HEADER_LENGTH), "little")
        if length > path.stat().st_size:
            raise ValueError(f"{path} is no safetensors file")
        return json.loads(file.read(length))["__metadata__"]["weights_digest"]
