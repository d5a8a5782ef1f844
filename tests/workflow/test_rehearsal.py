"""A study of published weights on folders named by synset, with no network and no ImageNet."""

import importlib.util
import json
import shutil

import pandas as pd
import pytest
import xarray as xr
from conftest import REPOSITORY, Workflow
from dry_runs import make, stale
from huggingface_hub import constants
from snakemakes import typed

from vitals.models import classes

TINY = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
CHEAP = {
    "bootstrap": {"samples": 100},
    "metrics": {
        "scrambling": {"folds": 2, "penalties": [0.1]},
        "collapse": {"pinv_samples": 100},
        "probes": {"folds": 2, "penalties": [1.0]},
    },
}
DRAWN = ("summary", "figure similarity", "figure tradeoff")


def rehearsal():
    """The benchmark that rehearses the study at full size."""
    file = REPOSITORY / "benchmarks" / "rehearsal.py"
    spec = importlib.util.spec_from_file_location("rehearsal", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def settings():
    """The study's own file with a smaller model, on images of 32 pixels: 5 tokens."""
    study = rehearsal().study_of(["vit_small"], "val")
    study["models"] = {
        "vit_tiny": {"architecture": TINY, "weights": "pretrained", "options": {"img_size": 32}}
    }
    study["activations"] |= {"shard_images": 24, "token_images": 15}
    return {**study, **CHEAP}


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """The study, made from a cache of the hub while offline."""
    folder = tmp_path_factory.mktemp("rehearsed")
    rehearsal().draw_tree(folder / "val", count=4, images=10)
    rehearsal().draw_weights(folder / "hub", TINY)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HF_HUB_OFFLINE", "1")
        patched.setattr(constants, "HF_HUB_OFFLINE", True)
        patched.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
        make(folder, settings(), ends=DRAWN)
        yield folder


@pytest.fixture
def results(rehearsed):
    return rehearsed / "artifacts" / "rehearsal"


def test_the_whole_study_is_made_and_then_has_nothing_to_do(rehearsed, results):
    assert stale(rehearsed, settings()) == set()
    assert (results / "figures" / "similarity.svg").stat().st_size > 0


def test_folders_are_classes_by_their_synsets_and_not_by_their_place(results):
    about = json.loads((results / "vit_tiny" / "model.json").read_text())
    listed = pd.read_parquet(results / "images.parquet")
    names = listed.drop_duplicates("label").sort_values("label")["class_name"]
    assert [classes.imagenet(1000).names[row] for row in about["class_rows"]] == names.tolist()
    assert about["class_rows"] == [0, 250, 500, 750]


def test_accuracy_is_among_all_rows_and_stands_beside_every_number(results):
    with xr.open_dataset(results / "vit_tiny" / "metrics" / "accuracy.nc") as accuracy:
        assert accuracy["top1"].attrs["note"] == "of 20 images, 1000 classes"
        top1 = accuracy["top1"].item()
    table = pd.read_csv(results / "summary.csv")
    assert (table.loc[table["model"] == "vit_tiny", "top1"] == top1).all()
    reason = table.loc[table["variable"] == "published_difference", "note"].item()
    assert reason.startswith("no accuracy is known that is published for these weights and images")


def test_a_folder_that_is_no_synset_is_refused_by_name_before_any_job(rehearsed, tmp_path):
    shutil.copytree(rehearsed / "val", tmp_path / "val")
    (tmp_path / "val" / "n01440764").rename(tmp_path / "val" / "n01440765")
    process = Workflow(tmp_path).run(settings())
    assert process.returncode != 0
    assert "the classifier's 1000 rows have no class 'n01440765'" in process.stdout
    assert not (tmp_path / "artifacts").exists()


def test_weights_that_were_not_fetched_are_refused_before_any_job(rehearsed, tmp_path, monkeypatch):
    shutil.copytree(rehearsed / "val", tmp_path / "val")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))  # read when it is imported
    process = Workflow(tmp_path, snakemake=typed).run(settings())
    assert process.returncode != 0
    (line,) = [line for line in process.stdout.splitlines() if "`vitals fetch`" in line]
    assert f"models.vit_tiny: the weights of {TINY} are not at " in line
    assert "Traceback" not in process.stdout
    assert not (tmp_path / "artifacts").exists()
