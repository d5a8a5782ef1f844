"""A study that streams makes every result without storing tokens, and reruns passes one by one."""

import os
import shutil

import numpy as np
import pytest
import xarray as xr
from conftest import Workflow
from dry_runs import by_rule, make, stale
from small_studies import TOLD

import vitals
from vitals import freshness
from vitals.study import Study

OPTIONS = {
    **{"img_size": 8, "patch_size": 2, "in_chans": 1, "embed_dim": 16},
    **{"depth": 2, "num_heads": 2, "mlp_ratio": 2},
}
WITHOUT_CLS = {**OPTIONS, "class_token": False, "global_pool": "avg"}
MODELS, SHARDS, IMAGES, KEPT = ("cls", "gap"), 2, 90, 24
STREAMED = ("similarity", "position", "attention")


def streamed_study():
    """Two models, of which one has no [CLS]; two shards; tokens of 24 images of each split."""
    model = {"architecture": "vit_tiny_patch16_224"}
    return {
        "study": "streamed",
        "images": {"dataset": "digits", "limit": IMAGES},
        "models": {"cls": {**model, "options": OPTIONS}, "gap": {**model, "options": WITHOUT_CLS}},
        "training": {"epochs": 2, "batch": 8},
        "bootstrap": {"samples": 100},
        "activations": {
            **{"tokens": "stream", "token_images": KEPT, "storage": "float32"},
            **{"shard_images": 50, "gallery_images": 1},
        },
        "metrics": {
            "scrambling": {"folds": 2, "penalties": [0.1]},
            "collapse": {"pinv_samples": 100},
            "probes": {"folds": 2, "penalties": [1.0]},
        },
    }


FIGURES, METRICS = Study(streamed_study()).figures, Study(streamed_study()).metrics


@pytest.fixture(scope="module")
def streamed(tmp_path_factory):
    """The study, run once from nothing to its last figure."""
    folder = tmp_path_factory.mktemp("streamed")
    make(folder, streamed_study(), ends=(*TOLD, *(f"figure {figure}" for figure in FIGURES)))
    return folder


@pytest.fixture
def results(streamed):
    return streamed / "artifacts" / "streamed"


def jobs(folder, **changes):
    study = streamed_study()
    for section, settings in changes.items():
        study[section] = {**study[section], **settings}
    return by_rule(stale(folder, study))


def test_every_result_is_made(results):
    for model in MODELS:
        for metric in METRICS:
            assert (results / model / "metrics" / f"{metric}.nc").is_file()
        for metric in STREAMED:
            parts = sorted(file.name for file in (results / model / "streamed" / metric).iterdir())
            assert parts == ["0.nc", "1.nc"]
    for figure in FIGURES:
        assert (results / "figures" / f"{figure}.svg").is_file()


def test_no_token_is_stored_beyond_those_of_the_subset(results):
    for model in MODELS:
        tokens = vitals.open_tokens(results / model)
        assert tokens["split"].to_series().value_counts().to_dict() == {"fit": KEPT, "test": KEPT}
        assert vitals.open_pooled(results / model).sizes["image"] == IMAGES
        values = 16 * 4  # bytes of a token
        kept = 2 * KEPT * tokens.sizes["layer"] * tokens.sizes["token"] * values
        files = (results / model / "activations").glob("*.zarr/tokens/tokens/c/**/*")
        size = sum(file.stat().st_size for file in files if file.is_file())
        assert kept <= size <= 1.1 * kept


def test_what_is_streamed_is_of_all_images_and_agrees_with_the_store(results, tmp_path):
    study = streamed_study()
    study["study"] = "stored"
    study["activations"].update(tokens="store", token_images=None)
    # the same weights, which a study takes from another
    shutil.copytree(results, tmp_path / "artifacts" / "streamed")
    wanted = [f"artifacts/stored/{m}/metrics/{name}.nc" for m in MODELS for name in STREAMED]
    make(tmp_path, study, wanted)
    for path in wanted:
        expected = xr.load_dataset(tmp_path / path)
        found = xr.load_dataset(
            results.parent / path.replace("/stored/", "/streamed/").split("/", 1)[1]
        )
        if "image" in expected.sizes:
            assert found.sizes["image"] == IMAGES
        assert set(found.variables) == set(expected.variables)
        for name in expected.data_vars:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5)
        for name in expected.coords:
            assert (found[name].values == expected[name].values).all()


def test_a_second_run_has_nothing_to_do(streamed):
    assert jobs(streamed) == {}


def test_every_result_knows_that_it_is_fresh(streamed):
    study = Study(streamed_study(), artifacts=streamed / "artifacts")
    judged = list(freshness.verdicts(study))
    assert {verdict.state for verdict in judged} == {freshness.FRESH}
    assert sum(verdict.step.stage == "stream" for verdict in judged) == 2 * 2 * len(STREAMED)


def test_a_copy_without_records_has_nothing_to_do(streamed, tmp_path):
    shutil.copytree(streamed / "artifacts", tmp_path / "artifacts", copy_function=shutil.copyfile)
    for file in (tmp_path / "artifacts").rglob("*.nc"):
        os.utime(file, (1e9, 1e9))
    assert jobs(tmp_path) == {}


def test_another_setting_of_a_metric_reruns_its_own_passes_alone(streamed):
    assert jobs(streamed, metrics={"similarity": {"outlier_mads": 4}}) == {
        **{"stream": len(MODELS) * SHARDS, "merge": 2, "measure_phases": 2},
        **{"compare": 2, "draw": 4, **dict.fromkeys(TOLD, 1)},
    }


def test_another_bootstrap_reruns_no_pass(streamed):
    found = jobs(streamed, bootstrap={"seed": 1})
    assert "stream" not in found
    assert "extract" not in found
    assert found["merge"] == len(MODELS) * len(STREAMED)


@pytest.mark.parametrize(
    "changes",
    [{"storage": "float16"}, {"token_images": 20}, {"codec": "lz4"}, {"gallery_images": 2}],
    ids=lambda changes: next(iter(changes)),
)
def test_how_tokens_are_stored_reruns_no_streamed_pass(streamed, changes):
    found = jobs(streamed, activations=changes)
    assert found["extract"] == len(MODELS) * SHARDS
    assert "stream" not in found


def test_more_images_cost_passes_of_the_new_shards_and_the_one_that_was_not_full(
    streamed, results, tmp_path
):
    study = streamed_study()
    for name in MODELS:  # what is trained here would be trained anew
        shutil.copy(results / name / "model.safetensors", tmp_path / f"{name}.safetensors")
        study["models"][name]["weights"] = str(tmp_path / f"{name}.safetensors")
    study["study"] = "grown"
    target = "artifacts/grown/cls/metrics/similarity.nc"
    workflow = Workflow(tmp_path)
    first = workflow.run(study, target, "--cores", "2")
    assert first.returncode == 0, first.stdout
    study["images"]["limit"] = 160  # of 50: two whole, 0 ... 49 is as it was
    assert workflow.jobs(study, target) == {"images": 1, "stream": 3, "merge": 1}


def test_tokens_that_are_streamed_need_a_stated_subset(untouched):
    study = streamed_study()
    del study["activations"]["token_images"]
    run = untouched.run(study, "--dry-run")
    assert run.returncode != 0
    assert "activations.tokens = 'stream' needs activations.token_images" in run.stdout
