"""Extraction through a kill and through growth: what is whole is not touched again."""

import os
import signal
import subprocess
import time

import pytest
import torch
from conftest import REPOSITORY, SNAKEMAKE, Workflow

import vitals

SHARD = 60
OPTIONS = {
    **{"img_size": 8, "patch_size": 2, "in_chans": 1, "embed_dim": 48},
    **{"depth": 6, "num_heads": 4},
}


@pytest.fixture
def loaded_study(tmp_path):
    """A study of one model, whose random weights lie in a file, over the first 300 digits."""
    from vitals.models import build

    torch.manual_seed(0)
    model = build.create("vit_tiny_patch16_224", OPTIONS, 10, (1, 8, 8))
    weights = tmp_path / "own.pth"
    torch.save(model.state_dict(), weights)
    return {
        "study": "killed",
        "images": {"dataset": "digits", "limit": 300},
        "models": {
            "vit": {
                "architecture": "vit_tiny_patch16_224",
                "options": OPTIONS,
                "weights": str(weights),
            }
        },
        "activations": {"shard_images": SHARD, "gallery_images": 4},
    }


def activations(workflow):
    return workflow.folder / "artifacts" / "killed" / "vit" / "activations"


def whole_shards(workflow):
    """The root file of each whole shard, with what tells whether it was written again."""
    files = activations(workflow).glob("*.zarr/zarr.json")
    return {file: (file.stat().st_mtime_ns, file.stat().st_ino) for file in files}


def images_passed(process):
    """How many images each extraction of a run stored."""
    said = (line.split() for line in process.stdout.splitlines())
    return [int(words[2]) for words in said if words[:2] == ["vitals", "extract:"]]


def killed_after(workflow, study, shards):
    """Run the workflow and kill all of it with SIGKILL when so many shards are whole."""
    workflow.run(study, "--dry-run")  # writes the study's file
    file = workflow.folder / "study.yaml"
    options = ["--cores", "1", "--directory", workflow.folder, "--configfile", file]
    process = subprocess.Popen(
        [SNAKEMAKE, "activations", *options],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + 120
    while len(whole_shards(workflow)) < shards and time.monotonic() < end:
        time.sleep(0.01)
    # into the next extraction: its store has been begun
    while not list(activations(workflow).glob(".*.partial")) and time.monotonic() < end:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_killed_run_goes_on_at_the_shard_in_flight(untouched, loaded_study, tmp_path):
    killed_after(untouched, loaded_study, shards=2)
    before = whole_shards(untouched)
    assert 2 <= len(before) < 5
    untouched.run(loaded_study, "--unlock")
    again = untouched.run(loaded_study, "activations", "--cores", "1")
    assert again.returncode == 0, again.stdout
    assert images_passed(again) == [SHARD] * (5 - len(before))
    after = whole_shards(untouched)
    assert len(after) == 5
    assert {file: after[file] for file in before} == before
    assert not list(activations(untouched).glob(".*.partial"))

    # and what it leaves is what a run leaves that nobody killed
    other = Workflow(tmp_path / "other")
    other.folder.mkdir()
    assert other.run(loaded_study, "activations", "--cores", "1").returncode == 0
    for file in after:
        twin = activations(other) / file.relative_to(activations(untouched))
        assert digests(file.parent) == digests(twin.parent)


def digests(shard):
    from vitals.activations import integrity

    return {
        name: value
        for name, value in integrity.recorded(shard, "digests").items()
        if name != "attributes"  # they hold the versions and the device, alike here, and no times
    }


def test_more_images_cost_new_shards_alone(untouched, loaded_study):
    first = untouched.run(loaded_study, "activations", "--cores", "1")
    assert images_passed(first) == [SHARD] * 5
    before = whole_shards(untouched)
    loaded_study["images"]["limit"] = 400
    assert untouched.jobs(loaded_study, "activations") == {
        **{"images": 1, "extract": 2},  # 300 to 360, 360 to 400
        "activations": 1,
    }
    grown = untouched.run(loaded_study, "activations", "--cores", "1")
    assert sorted(images_passed(grown)) == [40, 60]
    after = whole_shards(untouched)
    assert {file: after[file] for file in before} == before
    assert untouched.jobs(loaded_study, "activations") == {}
    assert vitals.open_pooled(activations(untouched).parent).sizes["image"] == 400


def test_another_machines_settings_make_nothing_stale(untouched, loaded_study):
    untouched.run(loaded_study, "activations", "--cores", "1")
    loaded_study["activations"]["batch"] = 7
    loaded_study["images"]["keep_decoded"] = True
    assert untouched.jobs(loaded_study, "activations", "--cores", "2") == {}


def test_photographs_pass_at_224_through_a_local_checkpoint(untouched, tmp_path):
    from safetensors.torch import save_file

    from vitals.models import build

    options = {"depth": 2}
    model = build.create("deit_tiny_distilled_patch16_224", options, 2)
    save_file(model.state_dict(), tmp_path / "own.safetensors")
    of_file = {"weights": str(tmp_path / "own.safetensors"), "options": options}
    study = {
        "study": "killed",
        "sharing": False,  # so that both models read the images
        "images": {"dataset": "photographs", "limit": 24, "keep_decoded": True},
        "models": {
            "vit": {"architecture": "deit_tiny_distilled_patch16_224", **of_file},
            "twin": {"architecture": "deit_tiny_distilled_patch16_224", **of_file},
        },
        "activations": {"gallery_images": 1},
    }
    run = untouched.run(study, "activations", "--cores", "1")
    assert run.returncode == 0, run.stdout
    tokens = vitals.open_tokens(activations(untouched).parent)
    assert tokens["tokens"].shape == (5, 24, 198, 192)
    assert tokens["token_kind"].values.tolist()[:3] == ["cls", "distillation", "patch"]
    kept = untouched.folder / "artifacts" / "killed" / "decoded"
    assert len(list(kept.glob("*.npy"))) == 1  # of both models
    twin = vitals.open_tokens(activations(untouched).parents[1] / "twin")
    assert (twin["tokens"] == tokens["tokens"]).all()
