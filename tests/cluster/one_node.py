"""The workflow through a SLURM of one node, and what its jobs were given."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from interruptions import STOPPED_JOBS, is_stopped
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
    gpu: str
    output: str
    begin: float
    end: float | None


class Cluster:
    """The workflow through SLURM, by the profile that users have, in a folder of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.record = folder / "record"

    def start(self, *targets, stop=()):
        """Begin a run; its output goes to `said`.

        stop: the point of their work at which jobs stop, an event of Python's and what it is of.
        """
        file = self.folder / "study.yaml"
        file.write_text(yaml.safe_dump(study(), sort_keys=False))
        profile = ["--workflow-profile", REPOSITORY / "profiles" / "slurm"]
        # this cluster: no accounting, two cores, a local disk
        machine = "--slurm-status-command squeue --cores 2 --latency-wait 5"
        threads = "--set-threads extract=1 stream=1 measure_probes=1"
        environment = {"BASH_ENV": str(HERE / "record.sh"), "VITALS_RECORD": str(self.record)}
        if stop:
            path = os.pathsep.join([str(STOPPED_JOBS), os.getenv("PYTHONPATH", "")])
            environment |= {"PYTHONPATH": path, "STOP_MARK": str(self.mark)}
            environment |= dict(zip(("STOP_EVENT", "STOP_TEXT"), stop, strict=True))
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
    def mark(self):
        """Where a job that has stopped writes its number."""
        return self.folder / "stopped"

    def wait_until(self, happened, run):
        """Wait for what a run brings about."""
        end = time.monotonic() + PATIENCE
        while not happened():
            assert run.poll() is None, self.said.read_text()
            assert time.monotonic() < end, self.said.read_text()
            time.sleep(0.01)

    def resume(self):
        """Let the job go on that has stopped."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(self.mark.read_text()), signal.SIGCONT)

    @property
    def said(self):
        """The output of the last run."""
        return self.folder / "said"

    def finish(self, run):
        """Wait for a run to end, and end well; who stops meanwhile goes on."""
        end = time.monotonic() + PATIENCE
        try:
            while run.poll() is None:
                assert time.monotonic() < end, self.said.read_text()
                with contextlib.suppress(FileNotFoundError):  # who stopped has been killed
                    if is_stopped(self.mark):
                        self.resume()
                time.sleep(0.05)
        finally:
            run.kill()
        assert run.returncode == 0, self.said.read_text()

    def ran(self):
        """Every command that was run, in order."""
        found = {}
        for line in self.record.read_text().splitlines() if self.record.exists() else ():
            what, time, *given, output = line.split("|")
            if what == "begin":
                found[given[0], output] = Ran(*given, output, float(time), None)
            else:
                found[given[0], output] = replace(found[given[0], output], end=float(time))
        return list(found.values())

    def contents(self):
        """The bytes of every result, by its place."""
        root = self.folder / "artifacts"
        return {
            file.relative_to(root): file.read_bytes()
            for file in root.rglob("*")
            if file.is_file() and "logs" not in file.parts
        }
