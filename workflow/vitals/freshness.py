"""Whether a result is what would be made now; and if not, which setting, module or input differs.

A result is judged by what it says of itself, never by times and never by what the workflow
remembers of it.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vitals import catalogue, origin
from vitals.chain import Step, chain
from vitals.origin import Origin
from vitals.provenance import code_parts
from vitals.study import Study

FRESH, STALE, MISSING = "fresh", "stale", "missing"
UNKNOWN = "it does not say what it was made from, or is damaged"
# settings that are digests, and what it means that they differ
DIGESTS = {
    "listing": "other images are listed",
    "images": "its images are others",
    "before": "other images come before its own",
    "dataset": "the classes or the shape of the images are others",
}
Parts = Callable[[tuple[str, ...]], dict[str, str]]


@dataclass(frozen=True)
class Verdict:
    """What became of one step: fresh, missing, or stale for these reasons."""

    step: Step
    state: str
    reasons: tuple[str, ...] = ()


def verdicts(study: Study) -> Iterator[Verdict]:
    """Every step of a study, judged; what hangs below a stale one is stale as well."""
    parts = cache(code_parts)
    moved: set[Path] = set()  # results that are stale, or that will be made from such
    for step in chain(study):
        above = sorted(name for name, path in step.read.items() if path in moved)
        if all(output.is_file() for output in step.outputs):
            found = [*differences(step, study, origin.read(step.outputs[0]), parts)]
            found += [f"{name} is stale" for name in above]
            verdict = Verdict(step, STALE if found else FRESH, tuple(found))
        else:
            verdict = Verdict(step, MISSING)
        if above or verdict.state == STALE:
            moved.update(step.outputs)
        yield verdict


def differences(
    step: Step, study: Study, made: Origin | None, parts: Parts = code_parts
) -> Iterator[str]:
    """What differs between what a result was made from and what it would be made from now."""
    if made is None:
        yield UNKNOWN
        return
    if (spec := study.spec(step.stage, step.name)) != made.spec:
        yield from _settings(json.loads(made.spec), json.loads(spec))
    if study.code(step.stage, step.name) != made.code:
        yield from _modules(made.modules, parts(catalogue.modules(step.stage, step.name)))
    yield from other_inputs(step, made)
    yield from other_files(step, made)


def other_inputs(step: Step, made: Origin) -> list[str]:
    """Which inputs are not those that a result was made from; one that is gone is not judged."""
    return [
        *(f"{name} is read as well" for name in step.read if name not in made.inputs),
        *(f"{name} is no longer read" for name in made.inputs if name not in step.read),
        *(
            f"{name} is another"
            for name, path in step.read.items()
            if name in made.inputs
            and path.is_file()
            and not origin.is_same(path, made.inputs[name])
        ),
    ]


def other_files(step: Step, made: Origin) -> list[str]:
    """Which of the files that were made together are not."""
    return [
        f"{output.name} is not the one that was made with it"
        for output in step.outputs[1:]
        if output.is_file() and not origin.is_same(output, made.files.get(output.name, "none"))
    ]


def _settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    old, new = flat(before), flat(now)
    said: dict[str, None] = {}
    for key in sorted({*old, *new}):
        was, is_now = _value(old, key), _value(new, key)
        if was != is_now:  # as they are spelled: 1 and 1.0 are two settings
            known = DIGESTS.get(key.split(".")[0])
            said[known or f"{key} was {was}, is {is_now}"] = None
    yield from said


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by the whole path of their keys.

    >>> flat({"a": {"b": 1, "c": [2]}, "d": None})
    {'a.b': 1, 'a.c': [2], 'd': None}
    """
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _value(settings: Mapping[str, Any], key: str) -> str:
    return json.dumps(settings[key]) if key in settings else "not there"


def _modules(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    if before == now:  # the code was edited between the start of the run and that of the job
        yield "the code was edited while it waited to be made"
    for name in sorted({*before, *now}):
        if name not in now:
            yield f"{name} is no longer used"
        elif name not in before:
            yield f"{name} is used as well"
        elif before[name] != now[name] and name.split(".")[0] == "vitals":
            yield f"{name} was edited"
        elif before[name] != now[name]:
            yield f"{name} was {before[name]}, is {now[name]}"
