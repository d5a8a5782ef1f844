"""Metrics on the workers of a dask cluster say what they say without one, bit by bit."""

import contextlib
import os

import dask
import pytest
import torch
import xarray as xr
from distributed import LocalCluster
from threadpoolctl import threadpool_limits

from small_shards import extract_all
from vitals.activations import reader
from vitals.data import images
from vitals.errors import VitalsError
from vitals.metrics import geometry, position, probes, similarity, workers


@pytest.fixture(scope="module")
def cluster():
    """Two workers, each a process of its own with one thread."""
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def stored(cluster, tmp_path_factory, images_file, small_vit):
    """A small model over 60 digits, in two shards."""
    folder = tmp_path_factory.mktemp("stored") / "model"
    extract_all(folder, small_vit(), images.read(images_file), shard_images=40)
    with contextlib.chdir(folder.parent):  # where no worker is
        return {"dataset": reader.open_tokens("model"), "pooled": reader.open_pooled("model")}


@pytest.mark.parametrize("metric", ["similarity", "position", "geometry", "probes"])
def test_a_metric_is_the_same_on_workers(stored, cluster, metric):
    compute, given = {
        "similarity": (similarity.compute, {"dataset": stored["dataset"]}),
        "position": (position.compute, {"dataset": stored["dataset"]}),
        "geometry": (geometry.compute, stored),
        "probes": (probes.compute, {"dataset": stored["pooled"]}),
    }[metric]
    settings = {**given, "bootstrap_samples": 50}
    if metric == "probes":
        settings |= {"folds": 2, "penalties": [1.0], "jobs": 1}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            here = compute(**settings)
        with dask.config.set({workers.ADDRESS: cluster.scheduler_address}):
            there = compute(**settings)
    finally:
        torch.set_num_threads(threads)
    xr.testing.assert_identical(here, there)


def test_each_item_is_a_task_of_a_worker_in_order(cluster):
    process = lambda _: os.getpid()  # noqa: E731
    assert list(workers.each(process, [0])) == [os.getpid()]
    with dask.config.set({workers.ADDRESS: cluster.scheduler_address}):
        assert os.getpid() not in list(workers.each(process, range(8)))
        assert list(workers.each(str, range(8))) == [str(item) for item in range(8)]


def test_a_scheduler_that_does_not_answer_is_named():
    slow = {"distributed.comm.timeouts.connect": "1s"}
    with (
        dask.config.set({workers.ADDRESS: "tcp://127.0.0.1:9", **slow}),
        pytest.raises(VitalsError, match=r"the dask scheduler 'tcp://127.0.0.1:9': .+"),
    ):
        list(workers.each(str, [1]))


def test_workers_of_another_version_are_refused(cluster, monkeypatch):
    monkeypatch.setattr(workers, "_version", lambda modules: str(os.getpid()))
    with (
        dask.config.set({workers.ADDRESS: cluster.scheduler_address}),
        pytest.raises(VitalsError, match="runs another version of vitals"),
    ):
        list(workers.each(str, [1]))
