"""What each change makes stale: every setting, file and module of two small studies, as dry runs.

    python benchmarks/staleness.py

The cases are those of tests/workflow/test_staleness.py, and the jobs are what Snakemake then says.
Writes staleness.md beside this file.
"""

import contextlib
import io
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
sys.path[:0] = [str(REPOSITORY / "workflow"), str(REPOSITORY / "tests" / "workflow")]

import dry_runs  # noqa: E402
import small_studies  # noqa: E402
import test_staleness as cases  # noqa: E402
from snakemake.exceptions import WorkflowError  # noqa: E402

FEW = 4  # names of jobs that are spelled out
COLUMNS = {"digits": "digits: two trained, 2 shards", "pictures": "pictures: one loaded, 3 shards"}


def told(jobs):
    """The jobs by rule, with their wildcards where they are few."""
    if not jobs:
        return "nothing"
    by_rule = defaultdict(list)
    for job in sorted(jobs):
        rule, *wildcards = job.split()
        by_rule[rule].append(" ".join(wildcards))
    measured = [rule for rule in by_rule if rule.startswith("measure_")]
    if len(measured) == len(small_studies.METRICS):
        by_rule["every measure_*"] = [name for rule in measured for name in by_rule.pop(rule)]
        by_rule["every measure_*"] = sorted(set(by_rule["every measure_*"]))
    return "; ".join(f"{rule} {_names(names)}".strip() for rule, names in sorted(by_rule.items()))


def _names(names):
    return ", ".join(names) if len(names) <= FEW else f"({len(names)})"


def outcome(folder, study, change):
    settings = cases.STUDIES[study][0]()
    change(settings, folder)
    try:
        return told(dry_runs.stale(folder, settings))
    except WorkflowError:
        return "refused"


def outcomes(folders, place):
    """Change, study -> jobs."""
    found = defaultdict(dict)
    for number, (study, name, change, _) in enumerate(cases.cases()):
        folder = folders[study]
        if change in cases.CHANGES_FILES:
            folder = shutil.copytree(folder, place / str(number))
        found[name][study] = outcome(folder, study, change)
    for module in cases.EDITS:
        with cases.edited_library(place / "vitals") as library:
            cases.write_at_end(library / module, cases.STATEMENT)
            name = f"a line of {module}"
            found[name]["pictures"] = outcome(
                folders["pictures"], "pictures", cases.nothing_changed
            )
        shutil.rmtree(place / "vitals")
    return found


def main():
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stderr(io.StringIO()):
        folders = {name: Path(place, name) for name in cases.STUDIES}
        for name, folder in folders.items():
            cases.make_study(folder, name)
        begun = time.perf_counter()
        found = outcomes(folders, Path(place))
        seconds = time.perf_counter() - begun
    rows = [["change", *COLUMNS.values()], ["---"] * (1 + len(COLUMNS))]
    rows += [[name, *(jobs.get(study, "") for study in COLUMNS)] for name, jobs in found.items()]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    count = sum(map(len, found.values()))
    text = (
        f"# What a change makes stale\n\n{count} dry runs, {seconds / count:.1f} s each. A "
        'setting of a model is one of "vit", which is trained here; "(9)": so many jobs.\n'
        f"\n{table}\n\nRepeat: `python benchmarks/staleness.py`.\n"
    )
    Path(__file__).with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
