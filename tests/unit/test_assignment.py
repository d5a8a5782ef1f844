"""Of several accelerators, each process has one that no other has."""

import os
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest

from vitals import assignment, device

TWO = """#!/bin/sh
echo 'GPU 0: Fake (UUID: GPU-a)'
echo '  MIG 1g.5gb     Device  0: (UUID: MIG-x)'
echo 'GPU 1: Fake (UUID: GPU-b)'
"""
HOLD = """
import sys, time
from pathlib import Path
from vitals import assignment
with assignment.one_of_several(Path(sys.argv[1])) as uuid:
    print(uuid, flush=True)
    print("left", uuid, sys.stdin.readline(), flush=True)
"""


@pytest.fixture
def two(tmp_path, monkeypatch):
    """A machine with two accelerators; the folder of its locks."""
    command = tmp_path / "bin" / "nvidia-smi"
    command.parent.mkdir()
    command.write_text(TWO)
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=os.pathsep)
    monkeypatch.delenv(assignment.VISIBLE, raising=False)
    return tmp_path / "locks"


def holder(locks):
    """A process that holds one until it is told to go on."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, locks],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_two_processes_have_one_each_and_a_third_waits_for_the_one_that_is_killed(two):
    with ExitStack() as stack:
        first, second = (stack.enter_context(holder(two)) for _ in range(2))
        assert {first.stdout.readline(), second.stdout.readline()} == {"GPU-a\n", "GPU-b\n"}
        third = stack.enter_context(holder(two))
        assert third.stderr.readline() == "all 2 accelerators are taken: waiting for one\n"
        time.sleep(2 * assignment.SECONDS)
        assert third.poll() is None
        first.kill()
        freed = third.stdout.readline()
        assert freed in ("GPU-a\n", "GPU-b\n")
        second.stdin.write("\n")
        second.stdin.close()
        assert second.stdout.readline().split()[1] != freed.strip()
        third.kill()


def test_a_process_sees_its_own_alone_and_nothing_has_changed_afterwards(two):
    with assignment.one_of_several(two) as uuid:
        assert os.environ[assignment.VISIBLE] == uuid == "GPU-a"
        assert assignment.candidates() == ["GPU-a"]
    assert assignment.VISIBLE not in os.environ


@pytest.mark.parametrize(
    ("visible", "expected"),
    [("", []), ("1", ["1"]), ("1,0", ["GPU-b", "GPU-a"]), ("GPU-b, GPU-a", ["GPU-b", "GPU-a"])],
)
def test_it_chooses_among_those_that_it_was_shown(two, monkeypatch, visible, expected):
    monkeypatch.setenv(assignment.VISIBLE, visible)
    assert assignment.candidates() == expected


def test_where_there_is_no_choice_nothing_is_held(two, monkeypatch):
    monkeypatch.setenv(assignment.VISIBLE, "0")
    with assignment.one_of_several(two) as first, assignment.one_of_several(two) as second:
        assert first is second is None
    assert not two.exists()


def test_a_job_of_slurm_that_was_given_no_accelerator_uses_none(monkeypatch):
    monkeypatch.setattr(device.Path, "glob", lambda *_: iter(["nvidia0"]))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert device.accelerators() == 1
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert device.accelerators() == 0
    assert device.choose("auto").type == "cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert device.accelerators() == 1
