"""The results of a study taken to an object storage, and back: each whole, or not there.

An object is there whole or not at all, but a shard is many objects. So its root, which says that it
is whole, is taken last, and where another is in its place, that one's root goes first.
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from vitals.activations import store
from vitals.activations.integrity import ROOT_FILE
from vitals.errors import VitalsError
from vitals.places import files_below, is_local, place
from vitals.progress import progress
from vitals.whole import whole_file

SHARD = ".zarr"
# an object that was sent at once has the MD5 of its content as its ETag
AT_ONCE = 2**23  # bytes
COPIES_AT_ONCE = 16


def push(study: Path, url: str) -> str:
    """Take what a study's folder holds to an object storage; says how much was taken.

    What is there already, alike, is not taken again. Raises VitalsError for a folder without
    results, and for a shard that is not what was written.
    """
    return _take(study, _remote(url))


def pull(url: str, study: Path) -> str:
    """Take a study's results from an object storage into its folder; says how much was taken."""
    return _take(_remote(url), study)


def _remote(url: str) -> Path:
    if is_local(found := place(url)):
        raise VitalsError(f"{url} is no object storage: expected s3://bucket/folder")
    return found


def _take(source: Path, target: Path) -> str:
    names = sorted(name for name in files_below(source) if not _is_hidden(name))
    if not names:
        raise VitalsError(f"{source} holds no results")
    shards = sorted({shard for name in names if (shard := _shard_of(name)) is not None})
    taken = 0
    for shard in progress(shards, f"shards to {target}"):
        taken += _take_shard(source / shard, target / shard)
    others = [name for name in names if _shard_of(name) is None]
    for name in progress(others, f"results to {target}"):
        taken += _take_file(source / name, target / name)
    return f"{taken} of {len(shards) + len(others)} shards and files taken to {target}"


def _is_hidden(name: str) -> bool:
    """What is being written, and what is this machine's."""
    return any(part.startswith(".") for part in name.split("/"))


def _shard_of(name: str) -> str | None:
    """The shard that a file is of, by its path."""
    before, found, _ = name.partition(f"{SHARD}/")
    return before + SHARD if found else None


def _take_shard(source: Path, target: Path) -> bool:
    """Whether the shard was not there already."""
    root = (source / ROOT_FILE).read_bytes()
    there = target / ROOT_FILE
    if there.is_file() and there.read_bytes() == root:
        return False
    names = [name for name in files_below(source) if name != ROOT_FILE]
    if is_local(source):
        _check(source)
    with _emptied(target) as folder, ThreadPoolExecutor(COPIES_AT_ONCE) as pool:
        for _ in pool.map(lambda name: _copy(source / name, folder / name), names):
            pass
        # last: it has digests of all others, and says that they are there
        _write(folder / ROOT_FILE, root)
        if is_local(folder):
            _check(folder)
    return True


def _check(shard: Path) -> None:
    """Raises VitalsError where a shard on this machine is not what was written."""
    if torn := store.torn_arrays(shard):
        raise VitalsError(f"{shard} is not what was written: {', '.join(torn)}")


@contextmanager
def _emptied(shard: Path) -> Iterator[Path]:
    """A folder to fill: beside the shard, or the shard itself where there is no rename."""
    if is_local(shard):
        with store.placed(shard, 0) as partial:
            partial.mkdir()
            yield partial
        return
    if shard.exists():
        (shard / ROOT_FILE).unlink(missing_ok=True)
        shard.fs.rm(shard.path, recursive=True)
    yield shard


def _take_file(source: Path, target: Path) -> bool:
    """Whether the file was not there already, alike."""
    if target.is_file() and _is_same(source, target):
        return False
    _copy(source, target)
    return True


def _is_same(one: Path, other: Path) -> bool:
    here, there = (one, other) if is_local(one) else (other, one)
    if here.stat().st_size != there.stat().st_size:
        return False
    content = here.read_bytes()
    if len(content) < AT_ONCE:
        tag = str(there.fs.info(there.path).get("ETag", "")).strip('"')
        if tag == hashlib.md5(content, usedforsecurity=False).hexdigest():
            return True
    return there.read_bytes() == content


def _copy(source: Path, target: Path) -> None:
    _write(target, source.read_bytes())


def _write(target: Path, content: bytes) -> None:
    if not is_local(target):
        target.write_bytes(content)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as partial:
        partial.write_bytes(content)
