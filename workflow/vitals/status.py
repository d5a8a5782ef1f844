"""What became of a study, a line a model and stage; and what a single result was made from."""

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from vitals import origin
from vitals.chain import Step
from vitals.errors import VitalsError
from vitals.freshness import FRESH, MISSING, STALE, Verdict, flat, verdicts
from vitals.study import Study

ALL = "(all)"  # in place of a model, for what is of several
MOST_REASONS = 3
# which file says what these were made from
SAID_BY = {
    ".safetensors": (".json",),
    ".png": (".svg",),
    ".pdf": (".svg",),
    ".csv": (".svg", ".json"),
    ".md": (".json",),
}


def lines(judged: Sequence[Verdict]) -> list[str]:
    """A line a model and stage: fresh, missing, or stale and why; the shards of a model are one."""
    groups = groupby(judged, key=lambda verdict: _row(verdict.step))
    rows = [(model, stage, *_said(list(found))) for (model, stage), found in groups]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip()
        for row in rows
    ]


def count(judged: Sequence[Verdict]) -> str:
    """How many steps are in each state."""
    states = [verdict.state for verdict in judged]
    return ", ".join(f"{states.count(state)} {state}" for state in (FRESH, STALE, MISSING))


def _row(step: Step) -> tuple[str, str]:
    shards = step.stage in ("extract", "stream")
    return step.model or ALL, step.label.rstrip("/0123456789 ") if shards else step.label


def _said(found: list[Verdict]) -> tuple[str, str]:
    """The state of what stands in one line, and the reasons."""
    states = {verdict.state for verdict in found}
    state = next(state for state in (STALE, MISSING, FRESH) if state in states)
    counted = sum(verdict.state == state for verdict in found)
    part = [f"{counted} of {len(found)}"] if len(states) > 1 else []
    reasons = list(dict.fromkeys(reason for verdict in found for reason in verdict.reasons))
    more = [f"{len(reasons) - MOST_REASONS} more"] if len(reasons) > MOST_REASONS else []
    return state, "; ".join([*part, *reasons[:MOST_REASONS], *more])


def why(file: Path, study: Study) -> Iterator[str]:
    """A fact a line: what a result was made from, and what differs from the present study.

    Raises VitalsError for a file that is no result and for one that does not say.
    """
    if not file.exists():
        raise VitalsError(f"{file}: there is no such file")
    judged = next((verdict for verdict in verdicts(study) if _made(verdict.step, file)), None)
    step = judged and judged.step
    says = step.outputs[0] if step else _saying(file)
    made = origin.read(says)
    if made is None:
        raise VitalsError(f"{says} does not say what it was made from, or is damaged")
    yield f"made by {step.label if step else 'a stage that the study does not have'}"
    for key, value in flat(json.loads(made.spec)).items():
        yield f"setting {key} = {json.dumps(value)}"
    library = [name for name in made.modules if name.startswith("vitals")]
    yield f"code {made.code}, of {len(library)} modules"
    for name in sorted(set(made.modules) - set(library)):
        yield f"package {name} {made.modules[name]}"
    for name, known in made.inputs.items():
        yield f"input {name}, {known.split()[0]}"
    if step is None:
        yield f"now: the study {study.name} makes no such file"
        return
    yield from (f"now: {reason}" for reason in judged.reasons)
    if judged.state == MISSING:
        yield "now: a file that was made with it is missing"
    if judged.state == FRESH:
        yield f"now: the study {study.name} would make the same"
    for name, path in step.read.items():
        if path.is_file() and path.stat().st_mtime > says.stat().st_mtime:
            yield f"newer: {name}"


def _made(step: Step, file: Path) -> bool:
    """Whether a step makes a file, or the folder of a shard."""
    made = [*step.outputs, *(output.parent for output in step.outputs if step.stage == "extract")]
    return file.resolve() in [path.resolve() for path in made]


def _saying(file: Path) -> Path:
    """The file that says what one that the study does not make was made from."""
    if file.is_dir():
        return file / "zarr.json"
    others = [file.with_suffix(suffix) for suffix in SAID_BY.get(file.suffix, ())]
    return next((other for other in others if other.is_file()), file)
