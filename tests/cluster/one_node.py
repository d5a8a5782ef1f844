"""The workflow through a SLURM of one node, and what its jobs were given."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml
from small_studies import digits_study

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
PATIENCE = 1800  # seconds, on a busy machine


def study():
    """Every stage, with one model: each job pays for two starts of Snakemake."""
    study = digits_study()
    del study["models"]["seeded"]
    return study


def control(what):
    """One command of the script; the finished process."""
    return subprocess.run(
        [HERE / "slurm.sh", what], capture_output=True, text=True, timeout=PATIENCE, check=False
    )


@dataclass(frozen=True)
class Ran:
    """One shell command of a job, as it was recorded inside: when, with what, and what it made."""

    job: str
    array: str
    gpu: str
    output: str
    begin: float
    end: float | None


class Cluster:
    """The workflow through SLURM, by the profile that users have, in a folder of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.record = folder / "record"

    def start(self, *targets):
        """Begin a run; its output goes to `said`."""
        file = self.folder / "study.yaml"
        file.write_text(yaml.safe_dump(study(), sort_keys=False))
        profile = ["--workflow-profile", REPOSITORY / "profiles" / "slurm"]
        # this cluster: no accounting, two cores, a local disk
        machine = "--slurm-status-command squeue --cores 2 --latency-wait 5"
        threads = "--set-threads extract=1 stream=1 measure_probes=1"
        environment = {"BASH_ENV": str(HERE / "record.sh"), "VITALS_RECORD": str(self.record)}
        with self.said.open("w") as said:
            return subprocess.Popen(
                [
                    *(sys.executable, HERE / "polled_often.py", *targets, *profile),
                    *(*machine.split(), *threads.split()),
                    *("--directory", self.folder, "--configfile", file),
                ],
                cwd=REPOSITORY,
                env={**os.environ, **environment},
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    @property
    def said(self):
        """The output of the last run."""
        return self.folder / "said"

    def finish(self, process):
        """Wait for a run to end, and end well."""
        try:
            assert process.wait(PATIENCE) == 0, self.said.read_text()
        finally:
            process.kill()

    def ran(self):
        """Every command that was run, in order."""
        found = {}
        for line in self.record.read_text().splitlines() if self.record.exists() else ():
            what, time, job, array, gpu, output = line.split("|")
            if what == "begin":
                found[job, output] = Ran(job, array, gpu, output, float(time), None)
            else:
                begun = found[job, output]
                found[job, output] = Ran(job, array, gpu, output, begun.begin, float(time))
        return list(found.values())

    def contents(self):
        """The bytes of every result, by its place."""
        root = self.folder / "artifacts"
        return {
            file.relative_to(root): file.read_bytes()
            for file in root.rglob("*")
            if file.is_file() and "logs" not in file.parts
        }
