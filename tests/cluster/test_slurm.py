"""The study through a real SLURM: the same results, GPUs kept apart, nothing lost on the way."""

import shutil
import subprocess
from itertools import pairwise

from dry_runs import stale
from interruptions import is_stopped
from small_studies import METRICS

from one_node import Cluster, study
from vitals.estimates import Estimates
from vitals.study import Study

HEAVY = {"scrambling", "probes"}
OF_RESULTS = {"tradeoff", "interventions", "depth"}  # of other results, or of passes
PASSED = ("activations", "variants/attention_off")
ON_GPU = {
    "vit/model.safetensors",
    *(f"vit/{passed}/{shard}.zarr/zarr.json" for passed in PASSED for shard in (0, 1)),
    "vit/intervene.nc",
    *(f"vit/metrics/{metric}.nc" for metric in HEAVY),
}
SIMILARITY = "artifacts/small/vit/metrics/similarity.nc"
WRITING = ("open", ".zarr.partial/tokens/tokens/c/")  # a chunk of a shard


def test_the_results_are_those_of_a_run_without_a_cluster(finished, local):
    made, expected = finished.contents(), local.contents()
    assert made.keys() == expected.keys()
    assert [place for place in expected if made[place] != expected[place]] == []


def test_nothing_is_stale_after_it_for_a_run_without_a_cluster(finished):
    assert stale(finished.folder, study()) == set()


def test_a_gpu_job_sees_the_gpu_and_any_other_sees_none(finished):
    seen = {ran.output.removeprefix("artifacts/small/"): ran.gpu for ran in finished.ran()}
    assert {output for output, gpu in seen.items() if gpu} == ON_GPU
    assert set(seen.values()) == {"0", ""}


def test_no_two_jobs_are_on_the_gpu_at_once(finished):
    on_gpu = sorted((ran.begin, ran.end) for ran in finished.ran() if ran.gpu)
    assert len(on_gpu) == len(ON_GPU) == 8
    assert all(before[1] <= after[0] for before, after in pairwise(on_gpu))


def test_each_shard_is_a_job_and_short_metrics_are_one_and_so_are_the_figures(finished):
    jobs = {ran.output.removeprefix("artifacts/small/"): ran.job for ran in finished.ran()}
    assert len({job for output, job in jobs.items() if output.endswith("zarr.json")}) == 4
    short = {jobs[f"vit/metrics/{metric}.nc"] for metric in METRICS - {*HEAVY, *OF_RESULTS}}
    assert len(short) == 1
    last = {job for output, job in jobs.items() if output.startswith(("compare/", "figures/"))}
    last -= {jobs["compare/alignment.nc"]}
    last |= {jobs[f"vit/metrics/{metric}.nc"] for metric in OF_RESULTS}
    assert last == {jobs["summary.csv"]}
    assert len({*jobs.values()}) == 12


def without_the_shards_of_a_model(measured, folder):
    """The study as it was made here, in another place, where its model is to be extracted again."""
    cluster = Cluster(shutil.copytree(measured.folder, folder / "again"))
    shutil.rmtree(activations(cluster))
    return cluster


def activations(cluster):
    return cluster.folder / "artifacts" / "small" / "vit" / "activations"


def times(cluster):
    """When each result was written, but for the activations of the model and their similarity."""
    return {
        file: (file.stat().st_mtime_ns, file.stat().st_ino)
        for file in (cluster.folder / "artifacts").rglob("*")
        if file.suffix in (".nc", ".safetensors", ".parquet", ".json", ".svg")
        and activations(cluster) not in file.parents
        and file != cluster.folder / SIMILARITY
    }


def assert_as_if_nothing_had_happened(cluster, measured):
    assert cluster.contents() == measured.contents()


def test_a_cancelled_extraction_is_run_again_and_no_other_is(slurm, measured, tmp_path):
    cluster = without_the_shards_of_a_model(measured, tmp_path)
    others = times(cluster)
    run = cluster.start("activations", SIMILARITY, stop=WRITING)
    cluster.wait_until(lambda: is_stopped(cluster.mark), run)
    (caught,) = cluster.ran()
    subprocess.run(["scancel", caught.job], check=True)
    cluster.finish(run)
    *extracted, last = cluster.ran()
    outputs = [ran.output for ran in extracted]
    assert len(outputs) == 3
    assert outputs.count(caught.output) == 2
    assert {ran.gpu for ran in extracted} == {"0"}
    assert (last.output, last.gpu) == (SIMILARITY, "")
    assert times(cluster) == others
    assert_as_if_nothing_had_happened(cluster, measured)


def test_a_controller_that_was_killed_loses_nothing_and_writes_nothing_twice(
    slurm, measured, tmp_path
):
    cluster = without_the_shards_of_a_model(measured, tmp_path)
    others = times(cluster)
    run = cluster.start("activations", stop=WRITING)
    cluster.wait_until(lambda: is_stopped(cluster.mark), run)
    (caught,) = cluster.ran()
    assert slurm("kill").returncode == 0
    cluster.resume()
    cluster.wait_until(lambda: (cluster.folder / caught.output).exists(), run)  # no controller
    assert slurm("control").returncode == 0
    cluster.finish(run)
    outputs = [ran.output for ran in cluster.ran()]
    assert len(outputs) == len(set(outputs)) == 2
    assert times(cluster) == others
    assert_as_if_nothing_had_happened(cluster, measured)


def test_memory_and_time_are_asked_for_by_the_size_of_the_study(finished):
    estimates = Estimates(Study(study(), artifacts=finished.folder / "artifacts"))
    (job,) = [ran.job for ran in finished.ran() if ran.output.endswith("vit/model.safetensors")]
    shown = subprocess.run(
        ["scontrol", "show", "job", job], capture_output=True, text=True, check=True
    ).stdout
    assert f"MinMemoryNode={estimates.megabytes('train', model='vit')}M" in shown
    assert f"TimeLimit=00:{estimates.minutes('train', model='vit')}:00" in shown
