"""What the workflow should know of results whose records it lost, from what they say themselves."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitals import origin
from vitals.chain import Step, chain
from vitals.freshness import UNKNOWN, other_files
from vitals.origin import Origin
from vitals.study import Study


@dataclass(frozen=True)
class Record:
    """What a file was made from: its two params, and its inputs.

    lasting: whether that will be so tomorrow; a result that is damaged, or whose inputs are others,
    may have been met in the middle of a copy.
    """

    file: Path
    params: tuple[str, ...]
    inputs: tuple[str, ...]
    lasting: bool


def recovered(study: Study, is_recorded: Callable[[Path], bool]) -> Iterator[Record]:
    """A record for each result that is there and has none, in the order of the chain.

    It says what the result was made from, whatever would be made now: that is compared by who gets
    the record. A result whose inputs are the same gets a time not before theirs, since copies have
    any times; one whose inputs are others has these in its record, marked as such.
    """
    for step in chain(study):
        lost = [file for file in step.outputs if file.is_file() and not is_recorded(file)]
        if lost:
            yield from _of_step(step, lost, origin.read(step.outputs[0]))


def _of_step(step: Step, lost: list[Path], made: Origin | None) -> Iterator[Record]:
    if made is None:
        yield from (Record(file, (UNKNOWN,), (), lasting=False) for file in lost)
        return
    read = {name: step.read.get(name) or _place(step, name) for name in made.inputs}
    others = [
        f"{path}, another than now"
        for name, path in read.items()
        if path.is_file() and not origin.is_same(path, made.inputs[name])
    ]
    others += other_files(step, made)
    inputs = [*(path for path in step.inputs if path not in step.read.values()), *read.values()]
    for file in lost:
        if not others:
            _not_before(file, inputs)
        yield Record(file, (made.spec, made.code), (*map(str, inputs), *others), not others)


def _place(step: Step, name: str) -> Path:
    """Where an input lies that a result names and the study reads no more."""
    return Path(os.path.normpath(step.outputs[0].parent / name))


def _not_before(file: Path, inputs: Sequence[Path]) -> None:
    times = [path.stat().st_mtime_ns for path in inputs if path.is_file()]
    own = file.stat()
    if max(times, default=0) > own.st_mtime_ns:
        os.utime(file, ns=(own.st_atime_ns, max(times)))
