"""Running the workflow as a user does: its command, a study file, a folder for results."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from filelock import FileLock
from snakemakes import SNAKEMAKE, Forked

REPOSITORY = Path(__file__).parents[2]


def pytest_configure():
    """No test here needs a SLURM, whose plugin asks it for its settings when Snakemake starts.

    Where one is installed and does not run, the plugin waits 10 seconds for an answer each time.
    """
    os.environ["SLURM_CONF"] = os.devnull


class Workflow:
    """The workflow of this checkout, with its results in a folder of the test's own.

    snakemake: how the command begins. Of another checkout, it must be `typed`.
    """

    def __init__(self, folder, snakemake=Forked):
        self.folder, self.snakemake = folder, snakemake

    def begin(self, study, *arguments, environment=(), output=os.devnull):
        """Begin snakemake on a study (a dict); the process."""
        file = self.folder / "study.yaml"
        file.write_text(yaml.safe_dump(study, sort_keys=False))
        return self.snakemake(
            [*arguments, "--directory", self.folder, "--configfile", file],
            REPOSITORY,
            {**os.environ, **dict(environment)},
            output,
        )

    def run(self, study, *arguments):
        """Run snakemake on a study (a dict); the finished process, its output in one text."""
        output = self.folder / "output.txt"
        returncode = self.begin(study, *arguments, output=output).wait()
        return subprocess.CompletedProcess(SNAKEMAKE, returncode, output.read_text())

    def jobs(self, study, *arguments):
        """What a run would do: the number of jobs by rule."""
        process = self.run(study, "--dry-run", *arguments)
        assert process.returncode == 0, process.stdout
        if "Nothing to be done" in process.stdout:
            return {}
        table = process.stdout.split("Job stats:\n")[1].split("\n\n")[0].splitlines()[2:]
        counts = {rule: int(count) for rule, count in (line.split() for line in table)}
        return {rule: count for rule, count in counts.items() if rule not in ("all", "total")}


def copy_of_the_checkout(folder):
    """The workflow and its library in another place, to edit."""
    for part in ("workflow", "profiles"):
        shutil.copytree(REPOSITORY / part, folder / part)
    shutil.copy(REPOSITORY / "Snakefile", folder)
    return folder


def quick_study():
    """The settings of studies/quick.yaml, a copy to change."""
    return yaml.safe_load((REPOSITORY / "studies" / "quick.yaml").read_text())


@pytest.fixture
def study():
    return quick_study()


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The quick study, run once from nothing to its last figure; what its jobs said, a line each.

    Of all processes that run tests, one makes it, and each has a copy with its records and times.
    """
    from dry_runs import make
    from small_studies import TOLD

    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "quick"
    said = place / "said.txt"
    with FileLock(f"{place}.lock"):
        if not said.exists():
            shutil.rmtree(place, ignore_errors=True)  # of a process that failed
            place.mkdir()
            lines = make(place, quick_study(), ends=(*TOLD, "figure"))
            said.write_text("\n".join(lines))
    workflow = Workflow(shutil.copytree(place, tmp_path_factory.mktemp("finished") / "quick"))
    workflow.said = said.read_text().splitlines()
    return workflow


@pytest.fixture
def untouched(tmp_path):
    """A folder in which nothing has run yet."""
    return Workflow(tmp_path)
