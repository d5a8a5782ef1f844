"""Runs in process groups of their own, whose job stops at a point of its work for a signal."""

import os
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import yaml
from conftest import REPOSITORY, SNAKEMAKE

PATIENCE = 120  # seconds
STOPPED_JOBS = Path(__file__).with_name("stopped_jobs")


def start(workflow, study, target, environment=()):
    """Begin a run that makes one result of a study."""
    file = workflow.folder / "study.yaml"
    file.write_text(yaml.safe_dump(study, sort_keys=False))
    options = ["--cores", "1", "--directory", workflow.folder, "--configfile", file]
    return subprocess.Popen(
        [SNAKEMAKE, target, *options],
        cwd=REPOSITORY,
        env={**os.environ, **dict(environment)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # a shell that runs the tests in its background has them ignore it
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def start_until(point, workflow, study, target):
    """Begin a run whose job stops at a point of its work; the run, once its job has stopped.

    point: an event of Python's, and what it is of.
    """
    mark = workflow.folder / "stopped"
    mark.unlink(missing_ok=True)
    path = os.pathsep.join([str(STOPPED_JOBS), os.getenv("PYTHONPATH", "")])
    event, text = point
    process = start(
        workflow,
        study,
        target,
        {"PYTHONPATH": path, "STOP_EVENT": event, "STOP_TEXT": text, "STOP_MARK": str(mark)},
    )
    end = time.monotonic() + PATIENCE
    while not is_stopped(mark):
        assert process.poll() is None, "the job ended without coming to its point"
        assert time.monotonic() < end
        time.sleep(0.005)
    return process


def is_stopped(mark):
    """Whether the process that a mark names is stopped."""
    number = mark.read_text() if mark.exists() else ""
    return bool(number) and Path("/proc", number, "stat").read_text().split()[2] == "T"


def send(process, number):
    """Send a whole run a signal, let its stopped job go on, and wait until all of it is gone."""
    os.killpg(process.pid, number)
    os.killpg(process.pid, signal.SIGCONT)
    process.wait(PATIENCE)
    assert process.returncode != 0
    wait_for_group(process.pid)


def wait_for_group(group):
    """Wait until no process of a group is left."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    raise AssertionError(f"processes of group {group} live on")
