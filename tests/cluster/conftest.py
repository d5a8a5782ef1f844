"""A real SLURM of one node, and the small study as it runs through it."""

import pytest
from dry_runs import make
from small_studies import DRAWN, TOLD

from one_node import Cluster, control, study

CANNOT = 3  # what the script exits with where SLURM cannot be had


@pytest.fixture(scope="session")
def slurm():
    """SLURM, started here and stopped at the end."""
    started = control("start")
    if started.returncode == CANNOT:
        pytest.skip(f"no SLURM can be started here: {started.stderr.strip().splitlines()[-1]}")
    assert started.returncode == 0, started.stderr
    yield control
    control("stop")


@pytest.fixture(scope="session")
def local(tmp_path_factory):
    """The small study, made on this machine without a cluster, on one thread as its jobs are."""
    folder = tmp_path_factory.mktemp("local")
    make(folder, study(), ends=(*TOLD, "depths", *(f"figure {figure}" for figure in DRAWN)))
    return Cluster(folder)


@pytest.fixture(scope="session")
def measured(tmp_path_factory):
    """The same without figures and what is told of them: empty files stand for those."""
    folder = tmp_path_factory.mktemp("measured")
    make(folder, study())
    return Cluster(folder)


@pytest.fixture(scope="session")
def finished(slurm, tmp_path_factory):
    """The small study, through SLURM from nothing to its last figure."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    cluster.finish(cluster.start())
    return cluster
