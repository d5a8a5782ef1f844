"""The study through a real SLURM: the same results, GPUs kept apart, nothing lost on the way."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from itertools import pairwise
from pathlib import Path

from dry_runs import stale
from small_studies import METRICS

from one_node import PATIENCE, Cluster, study
from vitals.estimates import Estimates
from vitals.study import Study

HEAVY = {"scrambling", "probes"}
ON_GPU = {"model.safetensors", "zarr.json", *(f"{metric}.nc" for metric in HEAVY)}


def test_the_results_are_those_of_a_run_without_a_cluster(finished, local):
    made, expected = finished.contents(), local.contents()
    assert made.keys() == expected.keys()
    assert [place for place in expected if made[place] != expected[place]] == []


def test_nothing_is_stale_after_it_for_a_run_without_a_cluster(finished):
    assert stale(finished.folder, study()) == set()


def test_a_gpu_job_sees_the_gpu_and_any_other_sees_none(finished):
    on_gpu = {Path(ran.output).name for ran in finished.ran() if ran.gpu == "0"}
    without = {Path(ran.output).name for ran in finished.ran() if not ran.gpu}
    assert on_gpu == ON_GPU
    assert {"similarity.nc", "images.parquet", "summary.csv"} <= without
    assert not without & ON_GPU


def test_no_two_jobs_are_on_the_gpu_at_once(finished):
    on_gpu = sorted((ran.begin, ran.end) for ran in finished.ran() if ran.gpu)
    assert len(on_gpu) == 5  # training, two shards, two fits
    assert all(before[1] <= after[0] for before, after in pairwise(on_gpu))


def test_shards_are_an_array_and_short_metrics_one_job_and_so_are_the_figures(finished):
    jobs = {ran.output.removeprefix("artifacts/small/"): ran.job for ran in finished.ran()}
    shards = [ran for ran in finished.ran() if ran.output.endswith("zarr.json")]
    assert len({ran.job for ran in shards}) == 2
    assert len({ran.array for ran in shards}) == 1
    assert shards[0].array
    short = {jobs[f"vit/metrics/{metric}.nc"] for metric in METRICS - {*HEAVY, "tradeoff"}}
    assert len(short) == 1
    last = {job for output, job in jobs.items() if output.startswith(("compare/", "figures/"))}
    last -= {jobs["compare/alignment.nc"]}
    assert last == {jobs["summary.csv"]} == {jobs["vit/metrics/tradeoff.nc"]}
    assert len({*jobs.values()}) == 9


def without_the_shards_of_a_model(finished, folder):
    """The finished study in another place, where one model is to be extracted again."""
    cluster = Cluster(shutil.copytree(finished.folder, folder / "again"))
    cluster.record.unlink()
    shutil.rmtree(activations(cluster))
    return cluster


def activations(cluster):
    return cluster.folder / "artifacts" / "small" / "vit" / "activations"


@contextlib.contextmanager
def caught_while_it_writes(cluster, run):
    """The first extraction of a run, stopped where it has begun to write a shard."""
    end = time.monotonic() + PATIENCE
    while not (writing := list(activations(cluster).glob(".*.zarr.partial"))):
        assert run.poll() is None, cluster.said.read_text()
        assert time.monotonic() < end
        time.sleep(0.0005)
    process = writer_of(cluster, writing[0].name.split(".")[1])
    os.kill(process, signal.SIGSTOP)
    assert writing[0].exists()
    yield
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGCONT)


def writer_of(cluster, shard):
    """The process that extracts a shard."""
    output = f"vit/activations/{shard}.zarr/zarr.json"
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes().decode().split("\0")
            here = (process / "cwd").resolve() == cluster.folder.resolve()
            is_vitals = command[1:4] == ["-m", "vitals", "extract"]
            if here and is_vitals and any(part.endswith(output) for part in command):
                return int(process.name)
    raise AssertionError(f"nothing writes {output}")


def times(cluster):
    """When each result was written, but for the activations of the model."""
    return {
        file: (file.stat().st_mtime_ns, file.stat().st_ino)
        for file in (cluster.folder / "artifacts").rglob("*")
        if file.suffix in (".nc", ".safetensors", ".parquet", ".json", ".svg")
        and activations(cluster) not in file.parents
    }


def assert_as_if_nothing_had_happened(cluster, finished):
    assert cluster.contents() == finished.contents()


def test_a_cancelled_extraction_is_run_again_and_no_other_is(finished, tmp_path):
    cluster = without_the_shards_of_a_model(finished, tmp_path)
    others = times(cluster)
    run = cluster.start("activations")
    with caught_while_it_writes(cluster, run):
        (caught,) = [ran for ran in cluster.ran() if ran.end is None]
        subprocess.run(["scancel", caught.job], check=True)
    cluster.finish(run)
    outputs = sorted(ran.output for ran in cluster.ran())
    assert len(outputs) == 3
    assert outputs.count(caught.output) == 2
    assert times(cluster) == others
    assert_as_if_nothing_had_happened(cluster, finished)


def test_a_controller_that_was_killed_loses_nothing_and_writes_nothing_twice(
    slurm, finished, tmp_path
):
    cluster = without_the_shards_of_a_model(finished, tmp_path)
    others = times(cluster)
    run = cluster.start("activations")
    with caught_while_it_writes(cluster, run):
        assert slurm("kill").returncode == 0
        shards = set(activations(cluster).glob("[0-9]*.zarr"))
    end = time.monotonic() + PATIENCE
    while not set(activations(cluster).glob("[0-9]*.zarr")) - shards:  # without a controller
        assert time.monotonic() < end
        time.sleep(0.01)
    assert slurm("control").returncode == 0
    cluster.finish(run)
    outputs = [ran.output for ran in cluster.ran()]
    assert len(outputs) == len(set(outputs)) == 2
    assert times(cluster) == others
    assert_as_if_nothing_had_happened(cluster, finished)


def test_memory_and_time_are_asked_for_by_the_size_of_the_study(finished):
    estimates = Estimates(Study(study(), artifacts=finished.folder / "artifacts"))
    (job,) = [ran.job for ran in finished.ran() if ran.output.endswith("vit/model.safetensors")]
    shown = subprocess.run(
        ["scontrol", "show", "job", job], capture_output=True, text=True, check=True
    ).stdout
    assert f"MinMemoryNode={estimates.megabytes('train', model='vit')}M" in shown
    assert f"TimeLimit=00:{estimates.minutes('train', model='vit')}:00" in shown
