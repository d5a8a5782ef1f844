"""Two studies of the same images and models train and extract once; neither needs the other."""

import shutil

import pytest
import torch
from dry_runs import make, stale

from vitals.activations import store
from vitals.models import build

OPTIONS = {
    **{"img_size": 8, "patch_size": 2, "in_chans": 1, "embed_dim": 16},
    **{"depth": 2, "num_heads": 2, "mlp_ratio": 2},
}
ARCHITECTURE = "vit_tiny_patch16_224"
CHUNK = "tokens/tokens/c/0/0/0/0"


def two_models(name, weights, trained="vit", loaded="own"):
    """A study of 60 digits in one shard, of a model that is trained and one of random weights."""
    return {
        "study": name,
        "images": {"dataset": "digits", "limit": 60},
        "models": {
            trained: {"architecture": ARCHITECTURE, "options": OPTIONS},
            loaded: {"architecture": ARCHITECTURE, "options": OPTIONS, "weights": str(weights)},
        },
        "training": {"epochs": 4, "batch": 16},
        "activations": {"shard_images": 60},
    }


def random_weights(file, seed):
    torch.manual_seed(seed)
    torch.save(build.create(ARCHITECTURE, OPTIONS, 10, (1, 8, 8)).state_dict(), file)
    return file


class Shared:
    """A folder of studies of the same two models."""

    def __init__(self, folder):
        self.folder = folder

    def extract(self, study):
        """Run a study to its activations; what its trainings and passes say, a line each."""
        made = ("vitals train: ", "vitals extract: ")
        said = make(self.folder, study, ["activations"])
        return [line for line in said if line.startswith(made)]

    def stale(self, study):
        return stale(self.folder, study, ["activations"])

    def shard(self, study, model, number):
        return self.folder / "artifacts" / study / model / "activations" / f"{number}.zarr"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return random_weights(tmp_path_factory.mktemp("weights") / "own.pth", seed=0)


@pytest.fixture(scope="module")
def shared(tmp_path_factory, weights):
    """The study `first`, then `second`, which names the models otherwise."""
    shared = Shared(tmp_path_factory.mktemp("shared"))
    shared.said = {
        study["study"]: shared.extract(study)
        for study in (two_models("first", weights), second(weights))
    }
    return shared


def second(weights):
    return two_models("second", weights, trained="vit_2", loaded="own_2")


def test_the_second_study_takes_what_the_first_has_made(shared):
    assert len(shared.said["first"]) == 3
    assert not [line for line in shared.said["first"] if " the same " in line]
    train, *passes = sorted(shared.said["second"], reverse=True)
    assert train.endswith(": the same training lies in artifacts/first/vit, and is taken")
    assert len(passes) == 2
    assert all(line.endswith(", and is linked") for line in passes)
    log = shared.folder / "artifacts" / "second" / "vit_2" / "logs" / "extract_0.log"
    assert len(log.read_text().splitlines()) == 1  # of a pass it would say where it is


@pytest.mark.parametrize("model", ["vit", "own"])
def test_their_shards_are_the_same_files_on_disk(shared, model):
    first = shared.shard("first", model, 0)
    linked = shared.shard("second", f"{model}_2", 0)
    assert (first / CHUNK).stat().st_ino == (linked / CHUNK).stat().st_ino
    assert (first / "zarr.json").stat().st_ino != (linked / "zarr.json").stat().st_ino
    assert store.provenance(linked)["model"] == f"{model}_2"
    assert store.provenance(linked)["taken_from"] == str(first.relative_to(shared.folder))
    assert "taken_from" not in store.provenance(first)
    assert store.torn_arrays(linked) == []


def test_neither_study_has_anything_to_do_afterwards(shared, weights):
    assert shared.stale(two_models("first", weights)) == set()
    assert shared.stale(second(weights)) == set()


def test_of_more_images_the_new_ones_are_passed_and_of_other_weights_all(shared, tmp_path, weights):
    grown = two_models("grown", weights, trained="edited")
    grown["images"]["limit"] = 90
    grown["models"]["edited"]["weights"] = str(random_weights(tmp_path / "own.pth", seed=1))
    made = shared.extract(grown)
    assert len(made) == 4
    first = shared.shard("first", "own", 0).relative_to(shared.folder)
    linked = shared.shard("grown", "own", 0).relative_to(shared.folder)
    assert [line for line in made if " the same " in line] == [
        f"vitals extract: 60 images in {linked}: the same pass lies in {first}, and is linked"
    ]


def test_removing_the_first_leaves_the_second_whole(shared, weights):
    shutil.rmtree(shared.folder / "artifacts" / "first")
    assert shared.stale(second(weights)) == set()
    for model in ("vit_2", "own_2"):
        assert store.torn_arrays(shared.shard("second", model, 0)) == []
