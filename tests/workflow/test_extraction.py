"""Extraction through a kill and through growth: what is whole is not touched again."""

import shutil
import signal

import pytest
import torch
from conftest import Workflow
from dry_runs import by_rule, make, stale
from interruptions import send, start_until

import vitals

SHARD = 60
OPTIONS = {
    **{"img_size": 8, "patch_size": 2, "in_chans": 1, "embed_dim": 48},
    **{"depth": 6, "num_heads": 4},
}
WRITING = ("open", ".zarr.partial/tokens/tokens/c/")  # a chunk of a shard


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights."""
    from vitals.models import build

    torch.manual_seed(0)
    model = build.create("vit_tiny_patch16_224", OPTIONS, 10, (1, 8, 8))
    file = tmp_path_factory.mktemp("weights") / "own.pth"
    torch.save(model.state_dict(), file)
    return file


def of_digits(weights):
    """A study of one model, whose weights lie in a file, over the first 240 digits."""
    model = {
        "architecture": "vit_tiny_patch16_224",
        "options": OPTIONS,
        "weights": str(weights),
    }
    return {
        "study": "killed",
        "images": {"dataset": "digits", "limit": 4 * SHARD},
        "models": {"vit": model},
        "activations": {"shard_images": SHARD, "gallery_images": 4},
    }


@pytest.fixture
def loaded_study(weights):
    return of_digits(weights)


def activations(workflow):
    return workflow.folder / "artifacts" / "killed" / "vit" / "activations"


def whole_shards(workflow):
    """The root file of each whole shard, with what tells whether it was written again."""
    files = activations(workflow).glob("*.zarr/zarr.json")
    return {file: (file.stat().st_mtime_ns, file.stat().st_ino) for file in files}


def images_passed(said):
    """How many images each extraction of a run stored, of the lines that its jobs said."""
    lines = (line.split() for line in said)
    return [int(words[2]) for words in lines if words[:2] == ["vitals", "extract:"]]


@pytest.fixture(scope="module")
def killed(tmp_path_factory, weights):
    """The study, of whose shards two were whole when a run was killed, and a next run made all."""
    workflow, study = Workflow(tmp_path_factory.mktemp("killed")), of_digits(weights)
    folder = "artifacts/killed/vit/activations"
    make(workflow.folder, study, [f"{folder}/{shard}.zarr/zarr.json" for shard in (0, 1)])
    workflow.before = whole_shards(workflow)
    send(start_until(WRITING, workflow, study, "activations"), signal.SIGKILL)
    workflow.left = whole_shards(workflow)
    workflow.begun = list(activations(workflow).glob(".*.partial"))
    workflow.again = workflow.run(study, "activations", "--cores", "1")
    return workflow


def test_a_killed_run_goes_on_at_the_shard_in_flight(killed, loaded_study, tmp_path):
    assert len(killed.begun) == 1
    assert killed.left == killed.before
    assert killed.again.returncode == 0, killed.again.stdout
    assert images_passed(killed.again.stdout.splitlines()) == [SHARD] * 2
    after = whole_shards(killed)
    assert len(after) == 4
    assert {file: after[file] for file in killed.before} == killed.before
    assert not list(activations(killed).glob(".*.partial"))

    # and what it leaves is what a run leaves that nobody killed
    make(tmp_path, loaded_study, ["activations"])
    for file in after:
        twin = tmp_path / file.relative_to(killed.folder)
        assert digests(file.parent) == digests(twin.parent)


def digests(shard):
    from vitals.activations import integrity

    return {
        name: value
        for name, value in integrity.recorded(shard, "digests").items()
        if name != "attributes"  # they hold the versions and the device, alike here, and no times
    }


def test_more_images_cost_new_shards_alone(killed, loaded_study, tmp_path):
    grown = Workflow(shutil.copytree(killed.folder, tmp_path / "grown"))  # with its times
    before = whole_shards(grown)
    loaded_study["images"]["limit"] = 340
    wanted = (grown.folder, loaded_study, ["activations"])
    assert by_rule(stale(*wanted)) == {"images": 1, "extract": 2}  # 240 to 300, 300 to 340
    assert sorted(images_passed(make(*wanted))) == [40, 60]
    after = whole_shards(grown)
    assert {file: after[file] for file in before} == before
    assert stale(*wanted) == set()
    assert vitals.open_pooled(activations(grown).parent).sizes["image"] == 340


def test_another_machines_settings_make_nothing_stale(killed, loaded_study):
    loaded_study["activations"]["batch"] = 7
    loaded_study["images"]["keep_decoded"] = True
    assert stale(killed.folder, loaded_study, ["activations"], cores=2) == set()


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
    make(untouched.folder, study, ["activations"])
    tokens = vitals.open_tokens(activations(untouched).parent)
    assert tokens["tokens"].shape == (5, 24, 198, 192)
    assert tokens["token_kind"].values.tolist()[:3] == ["cls", "distillation", "patch"]
    kept = untouched.folder / "artifacts" / "killed" / "decoded"
    assert len(list(kept.glob("*.npy"))) == 1  # of both models
    twin = vitals.open_tokens(activations(untouched).parents[1] / "twin")
    assert (twin["tokens"] == tokens["tokens"]).all()
