"""What no study needs any more: found, said with what its removal frees, and removed."""

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from shutil import rmtree

import yaml

from vitals.activations.claim import claimed, is_held, lock_of
from vitals.catalogue import CAPTIONED, FIGURES, INTERVENE, METRICS
from vitals.errors import VitalsError
from vitals.study import Study

ARTIFACTS = Path("artifacts")
PASSED = f"{INTERVENE}.nc"
OF_ANY_MODEL = {
    "model.safetensors",
    "model.json",
    "activations",
    "metrics",
    "streamed",
    "variants",
    "logs",
    PASSED,
}
OF_A_STUDY = {"figures", "captions", "compare", "logs", "decoded"}
FIGURE_FILES = (".svg", ".png", ".pdf", ".csv")
PARTIAL = ".partial"
AT_WORK = 3600  # seconds since its last change in which a partial file may still be written
DEPTHS = ("", "*/", "*/*/", "*/*/*/")  # at which jobs write, below the folder of a study
BLOCK = 512  # bytes of a block of `st_blocks`


@dataclass(frozen=True)
class Unneeded:
    """A file or folder that no study needs, and why."""

    path: Path
    reason: str


def in_reach(files: Sequence[Path] = ()) -> dict[str, list[Study]]:
    """The studies of these files by name, or of config.yaml and studies/*.yaml.

    A name of several files has several studies. Of those that were not named, one that cannot be
    made here (its images lie on another machine) is said and left out, with all of its name.
    Raises VitalsError where there is no file, and for one that is given and cannot be read.
    """
    usual = [file for file in (Path("config.yaml"), *sorted(Path("studies").glob("*.yaml")))
             if file.is_file()]  # fmt: skip
    if not (files or usual):
        raise VitalsError("no study in reach: expected config.yaml or studies/*.yaml, or --study")
    found: dict[str, list[Study]] = {}
    unknown: set[str] = set()
    for file in files or usual:
        settings = yaml.safe_load(file.read_text())
        try:
            study = Study(settings, artifacts=ARTIFACTS)
        except (VitalsError, OSError) as error:
            name = settings.get("study") if isinstance(settings, dict) else None
            if files or not isinstance(name, str):
                raise VitalsError(f"{file}: {error}") from error
            print(f"{ARTIFACTS / name} is left alone, {file} cannot be read here: {error}")
            unknown.add(name)
        else:
            found.setdefault(study.name, []).append(study)
    return {name: studies for name, studies in found.items() if name not in unknown}


def unneeded(
    studies: dict[str, list[Study]], gone: Sequence[str] = (), decoded: bool = False
) -> list[Unneeded]:
    """What lies in the folders of these studies and none of them needs, in order.

    gone: names of studies whose whole folders go; decoded: whether prepared images go. What lies
    behind a link, and so perhaps elsewhere, is never among it.
    Raises VitalsError for a name of `gone` that is no folder or that a study has.
    """
    found = [_gone(name, studies) for name in gone]
    for name, same in studies.items():
        folder = ARTIFACTS / name
        needed = {model: max(len(s.shards) for s in same if model in s.models)
                  for model in chain(*(study.models for study in same))}  # fmt: skip
        found += [*_of_models(folder, needed), *_of_study(folder), *_partials(folder)]
        if decoded:
            why = "prepared images, made again when they are needed"
            found += [Unneeded(file, why) for file in sorted(folder.glob("decoded/*.npy"))]
    within = _without_nested(found)
    return [item for item in within if _lies_in_artifacts(item.path)]


def in_use(path: Path) -> bool:
    """Whether a running job holds it or a part of it, or may still be writing it."""
    made = _made_of(path)
    within = [lock for depth in DEPTHS for lock in path.glob(f"{depth}*.lock")]
    if any(is_held(lock) for lock in (lock_of(made), made.with_suffix(".lock"), *within)):
        return True
    if path.name.endswith(PARTIAL) and not _is_shard(made):  # who writes a shard holds its lock
        return time.time() - _changed(path) < AT_WORK
    return any(in_use(part.path) for part in _partials(path))


def freed(items: Iterable[Unneeded]) -> list[int]:
    """Bytes of disk that each gives back when all go in this order.

    A file of several names gives back its bytes with the last of them, if that goes too.
    """
    names: Counter[tuple[int, int]] = Counter()
    return [sum(_freed(file, names) for file in _files(item.path)) for item in items]


def remove(path: Path) -> None:
    """Remove a file or folder; a folder is renamed first, so that none is ever half of one.

    Raises VitalsError for a shard that a running job holds.
    """
    if not path.is_dir():
        path.unlink()
        return
    made = _made_of(path)
    with claimed(made) if _is_shard(made) else nullcontext():
        partial = made.with_name(f".{made.name}{PARTIAL}")
        if path != partial:
            rmtree(partial, ignore_errors=True)
            path.rename(partial)
        rmtree(partial)


def run(files: Sequence[Path], gone: Sequence[str], decoded: bool, yes: bool) -> str:
    """Say what no study needs and how much it is, remove it once that is wanted; what was done."""
    found = unneeded(in_reach(files), gone, decoded)
    busy = {item.path for item in found if in_use(item.path)}
    for path in sorted(busy):
        print(f"{path} is in use, and left alone")
    going = [item for item in found if item.path not in busy]
    if not going:
        return f"nothing in {ARTIFACTS} that no study needs"
    sizes = freed(going)
    for item, size in zip(going, sizes, strict=True):
        print(f"{_readable(size):>9}  {item.path}: {item.reason}")
    total = f"{_readable(sum(sizes)).strip()} of disk"
    if not (yes or _wanted(f"remove them, which frees {total}? [y/N] ")):
        return f"nothing was removed; with --yes it frees {total}"
    for item in going:
        remove(item.path)
    return f"{len(going)} removed, {total} freed"


def _of_models(folder: Path, needed: dict[str, int]) -> Iterator[Unneeded]:
    """Models that are not needed; of the others shards beyond the last, and former metrics."""
    for model in _models(folder):
        if model.name not in needed:
            yield Unneeded(model, "a model that no study names")
            continue
        stores = chain(model.glob("activations/[0-9]*.zarr"), model.glob("variants/*/[0-9]*.zarr"))
        shards = (*stores, *model.glob("streamed/*/[0-9]*.nc"))
        for shard in sorted(shards):
            if shard.stem.isdecimal() and int(shard.stem) >= needed[model.name]:
                yield Unneeded(shard, "a shard beyond the last image")
        yield from _former(model / "metrics", (".nc",), METRICS)


def _models(folder: Path) -> list[Path]:
    """The folders of a study that are a model's."""
    return [
        path
        for path in sorted(folder.glob("[!.]*"))
        if path.is_dir()
        and path.name not in OF_A_STUDY
        and OF_ANY_MODEL & {entry.name for entry in path.iterdir()}
    ]


def _of_study(folder: Path) -> Iterator[Unneeded]:
    drawn = {metric for figure in FIGURES.values() for metric in figure.metrics}
    yield from _former(folder / "compare", (".nc",), drawn.union(METRICS))
    yield from _former(folder / "figures", FIGURE_FILES, FIGURES)
    yield from _former(folder / "captions", (".rst",), CAPTIONED)


def _former(folder: Path, suffixes: Sequence[str], known: Iterable[str]) -> Iterator[Unneeded]:
    """Results of what is no longer in the catalogue."""
    for path in sorted(folder.glob("[!.]*")):
        if path.suffix in suffixes and path.stem not in known:
            yield Unneeded(path, "no longer in the catalogue")


def _partials(folder: Path) -> Iterator[Unneeded]:
    for depth in DEPTHS:
        for path in sorted(folder.glob(f"{depth}.*{PARTIAL}")):
            yield Unneeded(path, "left by a job that was killed")


def _made_of(path: Path) -> Path:
    """What a partial file or folder becomes; any other itself."""
    if not path.name.endswith(PARTIAL):
        return path
    return path.with_name(path.name.removeprefix(".").removesuffix(PARTIAL))


def _is_shard(path: Path) -> bool:
    return path.suffix == ".zarr"


def _gone(name: str, studies: dict[str, list[Study]]) -> Unneeded:
    if name in studies:
        raise VitalsError(f"{name} is a study in reach: remove its file first, or its models there")
    path = ARTIFACTS / name
    if name != path.name or name.startswith("..") or not path.is_dir():
        raise VitalsError(f"{name} is no folder in {ARTIFACTS}")
    return Unneeded(path, "a study that was named to go")


def _without_nested(items: list[Unneeded]) -> list[Unneeded]:
    """Without what goes with a folder that goes."""
    paths = {item.path for item in items}
    return [item for item in items if not paths.intersection(item.path.parents)]


def _lies_in_artifacts(path: Path) -> bool:
    """Whether no folder on the way, nor the path itself, is a link."""
    return path.resolve() == ARTIFACTS.resolve() / path.relative_to(ARTIFACTS)


def _changed(path: Path) -> float:
    """When a file, or anything in a folder, was last changed."""
    return max(os.lstat(file).st_mtime for file in _files(path))


def _files(path: Path) -> Iterator[str]:
    """A path and all that is in it, links not followed."""
    yield str(path)
    for folder, folders, files in os.walk(path):
        yield from (os.path.join(folder, name) for name in (*folders, *files))


def _freed(file: str, names: Counter[tuple[int, int]]) -> int:
    about = os.lstat(file)
    node = (about.st_dev, about.st_ino)
    names[node] += 1
    is_folder = os.path.isdir(file) and not os.path.islink(file)
    return about.st_blocks * BLOCK if is_folder or names[node] == about.st_nlink else 0


def _readable(size: int) -> str:
    """Bytes in the unit of a plan, or in one that shows them.

    >>> _readable(1_234_000_000), _readable(56_000)
    ('1.23 GB', '0.056 MB')
    """
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


def _wanted(question: str) -> bool:
    return sys.stdin.isatty() and input(question).strip().lower() in ("y", "yes")
