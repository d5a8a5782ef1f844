"""kill -9 at any moment costs the shard in flight, and nothing else."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from vitals.activations import store

WRITE = (
    "import pathlib, sys\n"
    "import numpy as np\n"
    "from vitals.activations import chunks, store\n"
    "chunks.CHUNK_BYTES = 2**14\n"
    "print('begins', flush=True)\n"
    "values = np.random.default_rng(0).standard_normal((6, 256, 8, 16)).astype('float16')\n"
    "with store.new_shard(pathlib.Path(sys.argv[1]), {'spec': '{}'}) as writer:\n"
    "    dims = ('layer', 'image', 'token', 'channel')\n"
    "    writer.declare('tokens/tokens', dims, values.shape, values.dtype)\n"
    "    for start in range(0, 256, 24):\n"
    "        writer.append('tokens/tokens', values[:, start:start + 24])\n"
    "    writer.put_coordinate('tokens/label', ('image',), np.arange(256))\n"
)
MOMENTS = 8


def start(path):
    """A writer of 0.5 to 1 s that is about to begin."""
    process = subprocess.Popen([sys.executable, "-c", WRITE, path], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"begins\n"
    return process


def files(path):
    return {
        file.relative_to(path): (file.stat().st_mtime_ns, file.read_bytes())
        for file in path.rglob("*")
        if file.is_file()
    }


def contents(path):
    return {name: content for name, (_, content) in files(path).items()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What an undisturbed run writes, and how long it takes."""
    path = tmp_path_factory.mktemp("undisturbed") / "0.zarr"
    process = start(path)
    began = time.perf_counter()
    process.communicate()
    assert process.returncode == 0
    return contents(path), time.perf_counter() - began


def test_a_run_killed_at_any_moment_leaves_no_root_and_the_next_needs_no_cleaning(
    tmp_path, expected
):
    content, duration = expected
    done, lost = tmp_path / "0.zarr", tmp_path / "1.zarr"
    start(done).communicate()
    untouched = files(done)
    caught = 0
    for moment in np.random.default_rng().uniform(0, duration, MOMENTS):
        process = start(lost)
        time.sleep(moment)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        if process.returncode == 0:  # it was faster than the signal
            assert contents(lost) == content
            continue
        caught += 1
        whole = (lost / "zarr.json").exists()  # killed after the rename, or before the first
        assert not whole or contents(lost) == content
        assert store.shards(done) == [done]
        assert files(done) == untouched
    assert caught > 0
    start(lost).communicate()
    assert contents(lost) == content
    assert store.torn_arrays(lost) == []
    assert sorted(tmp_path.iterdir()) == [done, lost]
    assert files(done) == untouched
