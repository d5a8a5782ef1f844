"""A lock goes with the run that left it, and stays with one that is alive."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from vitals import runs


@pytest.fixture
def mark(tmp_path):
    return tmp_path / "state" / "runs"


@pytest.fixture
def lock(tmp_path):
    """What a run has left in the folder of locks."""
    file = tmp_path / "locks" / "0.output.lock"
    file.parent.mkdir()
    file.write_text("artifacts/small/images.parquet\n")
    return file


def test_a_lock_that_nobody_holds_is_taken_away(mark, lock):
    assert runs.join(mark, lock.parent)
    assert not lock.exists()


def test_a_lock_stays_while_a_run_is_alive_and_goes_after_it(mark, lock):
    first = runs.join(mark, mark.parent / "none")
    second = runs.join(mark, lock.parent)
    assert lock.exists()
    first.close()
    third = runs.join(mark, lock.parent)
    assert lock.exists()
    second.close()
    third.close()
    assert runs.join(mark, lock.parent)
    assert not lock.exists()


def test_a_lock_stays_while_a_command_of_a_killed_run_is_alive(mark, lock, monkeypatch):
    runs.join(mark, lock.parent / "none").close()
    monkeypatch.setenv(runs.MARK, str(mark))
    with runs.held():
        runs.join(mark, lock.parent).close()
        assert lock.exists()
    runs.join(mark, lock.parent).close()
    assert not lock.exists()


def test_a_process_that_is_killed_holds_nothing(mark, lock):
    code = f"from pathlib import Path; from vitals import runs; {joining(mark, lock)}; abort()"
    library = Path(runs.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(library)}
    command = [sys.executable, "-c", f"from os import abort; {code}"]
    assert subprocess.run(command, env=environment, check=False).returncode < 0
    lock.parent.mkdir(exist_ok=True)
    lock.touch()
    assert runs.join(mark, lock.parent)
    assert not lock.exists()


def joining(mark, lock):
    return f"held = runs.join(Path({str(mark)!r}), Path({str(lock.parent)!r}))"


def test_a_lock_of_another_machine_stays(mark, lock):
    mark.parent.mkdir()
    mark.write_text("elsewhere\n")
    for _ in range(2):
        runs.join(mark, lock.parent).close()
        assert lock.exists()
    lock.unlink()  # as `snakemake --unlock` does
    runs.join(mark, lock.parent).close()
    assert mark.read_text().split() == [platform.node()]


def test_a_command_that_no_run_started_needs_no_mark(mark, monkeypatch):
    monkeypatch.delenv(runs.MARK, raising=False)
    with runs.held():
        pass
    monkeypatch.setenv(runs.MARK, str(mark))
    with runs.held():
        pass
    assert not mark.exists()
