"""How long a run takes that finds nothing to do, at 3, 30 and 100 models, and where the time goes.

`python benchmarks/noop.py` writes noop.md beside it. One small study is made; its model's folder is
copied under other names with the same recipe, which gives real files; `snakemake --touch` gives the
records. The command is then timed from outside, and once more in this process by its parts.
"""

import contextlib
import cProfile
import io
import os
import platform
import pstats
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[1]
sys.path[:0] = [str(REPOSITORY / "workflow"), str(REPOSITORY / "tests" / "workflow")]

import dry_runs  # noqa: E402
import small_studies  # noqa: E402

COUNTS = (3, 30, 100)
REPEATS = 5
SNAKEMAKE = Path(sys.executable).with_name("snakemake")
# the parts of a run, by the function that each is spent in
PARTS = {
    "reading the study": ("study.py", "__init__"),
    "digests of code": ("study.py", "code"),
    "results without a record": ("lost_records.py", "recovered"),
    "files of the workflow": ("workflow.py", "include"),
    "the graph of jobs": ("workflow.py", "_build_dag"),
    "records and times of files": ("dag.py", "update_needrun"),
}


def study_of(count):
    """A study of so many models that are alike but for their names."""
    study = small_studies.digits_study()
    recipe = study["models"]["vit"]
    return study | {"models": {f"vit_{number}": recipe for number in range(count)}}


def grow(folder, count):
    """Give the results of the first model to each other, and records to all."""
    models = folder / "artifacts" / "small"
    for number in range(1, count):
        if not (models / f"vit_{number}").exists():
            shutil.copytree(models / "vit_0", models / f"vit_{number}")
    (folder / "study.yaml").write_text(yaml.safe_dump(study_of(count), sort_keys=False))
    snakemake(folder, "--touch")


def snakemake(folder, *options):
    """What a run of the study in a folder says."""
    study = ["--cores", "1", "--directory", folder, "--configfile", folder / "study.yaml"]
    run = subprocess.run(
        [SNAKEMAKE, *study, *options], cwd=REPOSITORY, check=True, capture_output=True, text=True
    )
    return run.stdout + run.stderr


def seconds_of_command(folder):
    """From start to end, and of the processor, which who else is at work changes less."""
    begun, before = time.perf_counter(), os.times()
    assert "Nothing to be done" in snakemake(folder)
    after = os.times()
    processor = after.children_user + after.children_system
    processor -= before.children_user + before.children_system
    return time.perf_counter() - begun, processor


def seconds_of_parts(folder, study):
    """Processor's seconds in each part of a dry run in this process, with what it calls."""
    profile = cProfile.Profile(time.process_time)
    with contextlib.redirect_stderr(io.StringIO()):
        profile.enable()
        assert dry_runs.stale(folder, study) == set()
        profile.disable()
    spent = pstats.Stats(profile).stats
    return {
        part: sum(
            values[3]
            for (path, _, function), values in spent.items()
            if (Path(path).name, function) == of
        )
        for part, of in PARTS.items()
    }


def main():
    rows = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        dry_runs.make(folder, study_of(1))
        for count in COUNTS:
            grow(folder, count)
            times = [seconds_of_command(folder) for _ in range(REPEATS)]
            parts = seconds_of_parts(folder, study_of(count))
            jobs = sum(1 for _ in (folder / "artifacts").rglob("*.nc"))
            rows[count] = [f"{seconds:.1f}" for seconds in map(min, zip(*times, strict=True))]
            rows[count] += [str(jobs)]
            rows[count] += [f"{seconds:.2f}" for seconds in parts.values()]
            print(count, *rows[count], flush=True)
    names = [
        "models",
        "the command, s",
        "of the processor, s",
        "netCDF files",
        *(f"{part}, s" for part in PARTS),
    ]
    lines = [" | ".join(names), " | ".join("---:" for _ in names)]
    lines += [" | ".join([str(count), *row]) for count, row in rows.items()]
    table = "\n".join(f"| {line} |" for line in lines)
    machine = f"{platform.system()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    text = (
        f"# A run that finds nothing to do\n\n{table}\n\n"
        f"The fastest of {REPEATS}; the parts under a profiler, one within another; {machine}.\n\n"
        "Repeat: `python benchmarks/noop.py`.\n"
    )
    Path(__file__).with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
