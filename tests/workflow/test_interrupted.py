"""Interrupted at any point of any stage, the next run needs no cleaning up and makes the same."""

import fcntl
import os
import shutil
import signal
import subprocess
import time

import pytest
import yaml
from conftest import REPOSITORY, SNAKEMAKE, Workflow, copy_of_the_checkout
from dry_runs import make
from small_studies import draw_checkpoint, draw_pictures, pictures_study

# Each stage: what is asked for, the files that are made with it, and the log of its job.
STAGES = {
    "images": ("images.parquet", ("images.parquet",), "logs/images.log"),
    "train": ("vit/model.safetensors", ("vit/model.*",), "vit/logs/train.log"),
    "load": ("own/model.safetensors", ("own/model.*",), "own/logs/load.log"),
    "extract": (
        "own/activations/0.zarr/zarr.json",
        ("own/activations/0.zarr/**/*",),
        "own/logs/extract_0.log",
    ),
    "metric": ("own/metrics/position.nc", ("own/metrics/position.nc",), "own/logs/position.log"),
    "compare": ("compare/position.nc", ("compare/position.nc",), "logs/compare_position.log"),
    "figure": ("figures/position.svg", ("figures/position.*",), "logs/figure_position.log"),
    "summary": ("summary.csv", ("summary.*", "differences.csv"), "logs/summary.log"),
}
DISK = "ulimit -f 1"  # no file of a job gets beyond 1 KiB
PATIENCE = 120  # seconds


def pictured():
    study = pictures_study()
    study["activations"]["shard_images"] = 48
    return study


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The study as nobody interrupted it."""
    workflow = Workflow(tmp_path_factory.mktemp("uninterrupted"))
    draw_pictures(workflow.folder / "pictures")
    draw_checkpoint(workflow.folder / "own.pth", seed=0)
    make(workflow.folder, pictured(), ends=("draw position", "summary"))
    return workflow


def results(workflow):
    return workflow.folder / "artifacts" / "pictured"


def contents(workflow, stage):
    """The bytes of each file that a stage makes, by its place."""
    root = results(workflow)
    found = [file for pattern in STAGES[stage][1] for file in root.glob(pattern)]
    return {file.relative_to(root): file.read_bytes() for file in found if file.is_file()}


def times(workflow, without):
    """When each result was written, but for those of one stage."""
    of_stage = contents(workflow, without)
    return {
        file: (file.stat().st_mtime_ns, file.stat().st_ino)
        for file in results(workflow).rglob("*")
        if file.is_file()
        and file.relative_to(results(workflow)) not in of_stage
        and file.suffix in (".parquet", ".safetensors", ".nc", ".json")
    }


def start(workflow, place, environment=()):
    """Begin a run that makes one result, in a group of processes of its own."""
    file = workflow.folder / "study.yaml"
    file.write_text(yaml.safe_dump(pictured(), sort_keys=False))
    target = f"artifacts/pictured/{place}"
    options = ["--cores", "1", "--directory", workflow.folder, "--configfile", file]
    return subprocess.Popen(
        [SNAKEMAKE, target, *options],
        cwd=REPOSITORY,
        env={**os.environ, **dict(environment)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_for(happened, process):
    end = time.monotonic() + PATIENCE
    while not happened() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.0005)


def begun(workflow, place, log):
    """The job has been started: it is on its way to its first line."""
    return (results(workflow) / log).exists()


def under_way(workflow, place, log):
    """Half a second has gone since the job was started or last said something."""
    file = results(workflow) / log
    return file.exists() and time.time() - file.stat().st_mtime > 0.5


def writing(workflow, place, log):
    """The job has a file or a folder open for its result, or has just put it in its place."""
    file = results(workflow) / place
    folder = file.parent.parent if file.parent.suffix == ".zarr" else file.parent
    return file.exists() or any(folder.glob(".*.partial"))


INTERRUPTIONS = {
    "Ctrl-C": (signal.SIGINT, begun),
    "an end of the session": (signal.SIGTERM, under_way),
    "a kill": (signal.SIGKILL, writing),
}


def interrupt(workflow, stage, how):
    """Run a stage up to a point and send its whole group a signal."""
    place, _, log = STAGES[stage]
    number, point = INTERRUPTIONS[how]
    (results(workflow) / log).unlink(missing_ok=True)
    process = start(workflow, place)
    wait_for(lambda: point(workflow, place, log), process)
    assert process.poll() is None
    os.killpg(process.pid, number)
    process.wait(PATIENCE)
    assert process.returncode != 0
    wait_for_group(process.pid)


def fill_the_disk(workflow, stage, folder):
    """Run a stage whose job cannot write what it made."""
    place = STAGES[stage][0]
    full = folder / "full.sh"
    full.write_text(DISK)
    process = start(workflow, place, {"BASH_ENV": str(full)})
    process.wait(PATIENCE)
    assert process.returncode != 0


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


def finish(workflow, stage, *arguments):
    """Run a stage to its end; the commands that were run for it."""
    target = f"artifacts/pictured/{STAGES[stage][0]}"
    process = workflow.run(pictured(), target, "--cores", "1", *arguments)
    assert process.returncode == 0, process.stdout
    return [line for line in process.stdout.splitlines() if line.startswith("vitals ")]


def without(uninterrupted, stage, folder):
    """The finished study without the results of one stage."""
    workflow = Workflow(shutil.copytree(uninterrupted.folder, folder / stage))
    for file in contents(workflow, stage):
        (results(workflow) / file).unlink()
    return workflow


def assert_as_if_nothing_had_happened(workflow, uninterrupted, stage):
    assert contents(workflow, stage) == contents(uninterrupted, stage)
    assert not list(results(workflow).rglob(".*.partial"))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_goes_on_where_it_was_interrupted(uninterrupted, stage, tmp_path):
    workflow = without(uninterrupted, stage, tmp_path)
    others = times(workflow, without=stage)
    for how in INTERRUPTIONS:
        interrupt(workflow, stage, how)
    fill_the_disk(workflow, stage, tmp_path)
    # the list that a kill came too late for is whole, and is put back when its update fails
    assert len(finish(workflow, stage)) in ((0, 1) if stage == "images" else (1,))
    assert times(workflow, without=stage) == others
    assert_as_if_nothing_had_happened(workflow, uninterrupted, stage)


def test_an_unreadable_picture_is_named_and_repaired(uninterrupted, tmp_path):
    workflow = Workflow(shutil.copytree(uninterrupted.folder, tmp_path / "unreadable"))
    picture = workflow.folder / "pictures" / "b" / "03.png"
    picture.write_bytes(b"no picture")
    target = f"artifacts/pictured/{STAGES['extract'][0]}"
    failed = workflow.run(pictured(), target, "--cores", "1")
    assert failed.returncode != 0
    assert "b/03.png" in failed.stdout
    shutil.copy2(uninterrupted.folder / "pictures" / "b" / "03.png", picture)
    assert len(finish(workflow, "extract")) == 2  # the list, and the shard
    for stage in ("images", "extract"):
        assert_as_if_nothing_had_happened(workflow, uninterrupted, stage)


def test_a_metric_that_raises_is_repaired(uninterrupted, tmp_path):
    workflow = without(uninterrupted, "metric", tmp_path)
    checkout = copy_of_the_checkout(tmp_path / "checkout")
    module = checkout / "workflow" / "vitals" / "metrics" / "position.py"
    module.write_text(
        module.read_text() + "\n\ndef compute(*_, **__):\n    raise ArithmeticError\n"
    )
    target = f"artifacts/pictured/{STAGES['metric'][0]}"
    failed = workflow.run(pictured(), target, "--snakefile", checkout / "Snakefile")
    assert failed.returncode != 0
    assert "ArithmeticError" in failed.stdout
    assert len(finish(workflow, "metric")) == 1
    assert_as_if_nothing_had_happened(workflow, uninterrupted, "metric")


def test_a_job_that_outlives_its_run_is_waited_for(uninterrupted, tmp_path):
    workflow = without(uninterrupted, "extract", tmp_path)
    place, _, log = STAGES["extract"]
    (results(workflow) / log).unlink()
    process = start(workflow, place)
    wait_for(lambda: begun(workflow, place, log), process)
    process.kill()  # Snakemake alone
    process.wait()
    wait_for_the_job_to_be_known(workflow)
    os.killpg(process.pid, signal.SIGSTOP)
    refused = workflow.run(pictured(), f"artifacts/pictured/{place}", "--cores", "1")
    assert refused.returncode != 0
    assert "cannot be locked" in refused.stdout
    os.killpg(process.pid, signal.SIGCONT)
    wait_for_group(process.pid)
    finish(workflow, "extract")
    assert_as_if_nothing_had_happened(workflow, uninterrupted, "extract")


def wait_for_the_job_to_be_known(workflow):
    """Wait until a process holds the mark of the runs of a folder."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with (workflow.folder / ".snakemake" / "runs").open() as mark:
            try:
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
        time.sleep(0.01)
    raise AssertionError("no job is at work")


@pytest.mark.parametrize(
    "profile", sorted((REPOSITORY / "profiles").iterdir()), ids=lambda profile: profile.name
)
def test_a_profile_runs_again_what_was_killed(profile):
    settings = yaml.safe_load((profile / "config.yaml").read_text())
    assert settings["rerun-incomplete"] is True
    assert not settings.get("keep-incomplete", False)
    assert "rerun-triggers" not in settings  # all of them
