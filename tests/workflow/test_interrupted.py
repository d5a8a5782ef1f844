"""Interrupted at any point of any stage, the next run needs no cleaning up and makes the same."""

import os
import shutil
import signal

import pytest
import yaml
from conftest import REPOSITORY, Workflow, copy_of_the_checkout
from dry_runs import make
from interruptions import ONE_CORE, PATIENCE, send, start_until, wait_for_group
from small_studies import draw_checkpoint, draw_pictures, pictures_study
from snakemakes import typed

# Each stage: what is asked for, and the files that are made with it.
STAGES = {
    "images": ("images.parquet", ("images.parquet",)),
    "train": ("vit/model.safetensors", ("vit/model.*",)),
    "load": ("own/model.safetensors", ("own/model.*",)),
    "extract": ("own/activations/0.zarr/zarr.json", ("own/activations/0.zarr/**/*",)),
    "metric": ("own/metrics/position.nc", ("own/metrics/position.nc",)),
    "compare": ("compare/position.nc", ("compare/position.nc",)),
    "figure": ("figures/position.svg", ("figures/position.*",)),
    "summary": ("summary.csv", ("summary.*", "differences.csv")),
}
DRAWN = ("figure position", "summary")
DISK = "ulimit -f 1"  # no file of a job gets beyond 1 KiB


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
    make(workflow.folder, pictured(), ends=DRAWN)
    return workflow


def target(stage):
    return f"artifacts/pictured/{STAGES[stage][0]}"


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


READING = ("open", "pictures/")
MEASURED = ("open", "/metrics/")  # read once more for its digest, before anything is written

# Where a signal meets a job: an event of Python's, and what it is of. Of a stage, or of all others.
INTERRUPTIONS = {
    # on its way to its first line
    "Ctrl-C": (signal.SIGINT, {}, ("import", "vitals.cli")),
    # in the middle of its inputs, or behind them
    "an end of the session": (
        signal.SIGTERM,
        {
            "load": ("open", "own.pth"),
            "metric": ("open", "0.zarr/tokens/tokens/c/"),
            **dict.fromkeys(("compare", "figure", "summary"), MEASURED),
        },
        READING,
    ),
    # in the middle of a store, and between a file that is written and its place
    "a kill": (
        signal.SIGKILL,
        {"extract": ("open", ".0.zarr.partial/pooled/")},
        ("os.rename", ".partial"),
    ),
}


def interrupt(workflow, stage, how):
    """Run a stage up to a point and send its whole group a signal."""
    number, points, otherwise = INTERRUPTIONS[how]
    point = points.get(stage, otherwise)
    send(start_until(point, workflow, pictured(), target(stage)), number)


def fill_the_disk(workflow, stage, folder):
    """Run a stage whose job cannot write what it made."""
    full = folder / "full.sh"
    full.write_text(DISK)
    process = workflow.begin(
        pictured(), target(stage), *ONE_CORE, environment={"BASH_ENV": str(full)}
    )
    assert process.wait(PATIENCE) == 1
    wait_for_group(process.pid)


def finish(workflow, stage):
    """Run a stage to its end; the commands that were run for it."""
    said = make(workflow.folder, pictured(), [target(stage)], DRAWN)
    return [line for line in said if line.startswith("vitals ")]


def without(uninterrupted, stage, folder, **options):
    """The finished study without the results of one stage."""
    workflow = Workflow(shutil.copytree(uninterrupted.folder, folder / stage), **options)
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
    assert len(finish(workflow, stage)) == 1
    assert times(workflow, without=stage) == others
    assert_as_if_nothing_had_happened(workflow, uninterrupted, stage)


def test_an_unreadable_picture_is_named_and_repaired(uninterrupted, tmp_path):
    workflow = Workflow(shutil.copytree(uninterrupted.folder, tmp_path / "unreadable"))
    picture = workflow.folder / "pictures" / "b" / "03.png"
    picture.write_bytes(b"no picture")
    failed = workflow.run(pictured(), target("extract"), *ONE_CORE)
    assert failed.returncode != 0
    assert "b/03.png" in failed.stdout
    shutil.copy2(uninterrupted.folder / "pictures" / "b" / "03.png", picture)
    assert len(finish(workflow, "extract")) == 2  # the list, and the shard
    for stage in ("images", "extract"):
        assert_as_if_nothing_had_happened(workflow, uninterrupted, stage)


def test_a_metric_that_raises_is_repaired(uninterrupted, tmp_path):
    workflow = without(uninterrupted, "metric", tmp_path, snakemake=typed)
    checkout = copy_of_the_checkout(tmp_path / "checkout")
    module = checkout / "workflow" / "vitals" / "metrics" / "position.py"
    module.write_text(
        module.read_text() + "\n\ndef compute(*_, **__):\n    raise ArithmeticError\n"
    )
    failed = workflow.run(pictured(), target("metric"), "--snakefile", checkout / "Snakefile")
    assert failed.returncode != 0
    assert "ArithmeticError" in failed.stdout
    assert len(finish(workflow, "metric")) == 1
    assert_as_if_nothing_had_happened(workflow, uninterrupted, "metric")


def test_a_job_that_outlives_its_run_is_waited_for(uninterrupted, tmp_path):
    workflow = without(uninterrupted, "extract", tmp_path, snakemake=typed)
    process = start_until(READING, workflow, pictured(), target("extract"))
    process.kill()  # Snakemake alone
    process.wait()
    refused = workflow.run(pictured(), target("extract"), *ONE_CORE)
    assert refused.returncode != 0
    assert "cannot be locked" in refused.stdout
    os.killpg(process.pid, signal.SIGCONT)
    wait_for_group(process.pid)
    finished = workflow.run(pictured(), target("extract"), *ONE_CORE)
    assert finished.returncode == 0, finished.stdout
    assert_as_if_nothing_had_happened(workflow, uninterrupted, "extract")


@pytest.mark.parametrize(
    "profile", sorted((REPOSITORY / "profiles").iterdir()), ids=lambda profile: profile.name
)
def test_a_profile_runs_again_what_was_killed(profile):
    settings = yaml.safe_load((profile / "config.yaml").read_text())
    assert settings["rerun-incomplete"] is True
    assert not settings.get("keep-incomplete", False)
    assert "rerun-triggers" not in settings  # all of them
