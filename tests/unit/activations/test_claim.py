"""Two runs never write one place, and a run that was killed holds nothing."""

import errno
import signal
import subprocess
import sys

import numpy as np
import pytest

from vitals.activations import claim, store
from vitals.errors import VitalsError

HOLD = (
    "import sys, time, pathlib\n"
    "from vitals.activations import store\n"
    "with store.new_shard(pathlib.Path(sys.argv[1]), {}) as writer:\n"
    "    print('writing', flush=True)\n"
    "    sys.stdin.read()\n"
)


@pytest.fixture
def writing(tmp_path):
    """Another process that is writing 0.zarr until its standard input ends."""
    command = [sys.executable, "-c", HOLD, tmp_path / "0.zarr"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"writing\n"
        yield process
        process.kill()


def write(path):
    with store.new_shard(path, {}) as writer:
        writer.put("model/norm_scale", ("channel",), np.ones(5, "float32"))


def test_a_second_run_is_refused_by_the_name_of_the_store(tmp_path, writing):
    with pytest.raises(VitalsError, match=r"0.zarr is being written by another run: wait for it"):
        write(tmp_path / "0.zarr")
    write(tmp_path / "1.zarr")  # another shard is free
    writing.communicate(b"")
    assert writing.returncode == 0
    assert store.torn_arrays(tmp_path / "0.zarr") == []  # the first run was not disturbed
    write(tmp_path / "0.zarr")


def test_a_run_that_was_killed_holds_nothing(tmp_path, writing):
    writing.send_signal(signal.SIGKILL)
    writing.wait()
    assert (tmp_path / ".0.zarr.lock").exists()
    write(tmp_path / "0.zarr")
    assert list(tmp_path.iterdir()) == [tmp_path / "0.zarr"]


def test_a_place_is_free_again_after_its_run(tmp_path):
    for _ in range(2):
        with claim.claimed(tmp_path / "0.zarr"):
            assert (tmp_path / ".0.zarr.lock").exists()
            with pytest.raises(VitalsError), claim.claimed(tmp_path / "0.zarr"):
                pass
            assert (tmp_path / ".0.zarr.lock").exists()  # who is refused takes nothing away
        assert list(tmp_path.iterdir()) == []


def test_a_lock_that_its_holder_has_removed_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    lock, held = claim._lock, []

    def removed_once(descriptor, path):
        lock(descriptor, path)
        if not held:
            (tmp_path / ".0.zarr.lock").unlink()
        held.append(descriptor)

    monkeypatch.setattr(claim, "_lock", removed_once)
    with claim.claimed(tmp_path / "0.zarr"):
        assert len(held) == 2
        monkeypatch.undo()
        with pytest.raises(VitalsError), claim.claimed(tmp_path / "0.zarr"):
            pass


def test_a_disk_without_locks_is_told(tmp_path, monkeypatch):
    def unknown(descriptor, operation):
        raise OSError(errno.ENOSYS, "no locks")

    monkeypatch.setattr(claim.fcntl, "flock", unknown)
    with pytest.warns(UserWarning, match="knows no locks"), claim.claimed(tmp_path / "0.zarr"):
        pass
