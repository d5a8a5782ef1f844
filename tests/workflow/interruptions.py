"""Runs in process groups of their own, whose job stops at a point of its work for a signal."""

import os
import signal
import time
from pathlib import Path

PATIENCE = 120  # seconds
ONE_CORE = ("--cores", "1")
STOPPED_JOBS = Path(__file__).with_name("stopped_jobs")


def start_until(point, workflow, study, target):
    """Begin a run whose job stops at a point of its work; the run, once its job has stopped.

    point: an event of Python's, and what it is of.
    """
    mark = workflow.folder / "stopped"
    mark.unlink(missing_ok=True)
    path = os.pathsep.join([str(STOPPED_JOBS), os.getenv("PYTHONPATH", "")])
    event, text = point
    process = workflow.begin(
        study,
        target,
        *ONE_CORE,
        environment={
            **{"PYTHONPATH": path, "STOP_EVENT": event},
            **{"STOP_TEXT": text, "STOP_MARK": str(mark)},
        },
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
