"""A study runs from images to figures with one command, and reruns what a change made stale."""

import json
import shutil

import pandas as pd
import pytest
import xarray as xr
from conftest import Workflow, quick_study
from dry_runs import by_rule, stale
from snakemakes import typed

import vitals
from vitals.study import Study

MODELS = ("vit_depth3", "vit_depth4")
SHARDS = ("0", "1")
FIGURES, METRICS = Study(quick_study()).figures, Study(quick_study()).metrics


@pytest.fixture
def results(finished):
    return finished.folder / "artifacts" / "quick"


def test_one_run_makes_every_result(results):
    for model in MODELS:
        for shard in SHARDS:
            assert (results / model / "activations" / f"{shard}.zarr" / "zarr.json").is_file()
        for metric in METRICS:
            assert (results / model / "metrics" / f"{metric}.nc").is_file()
    for figure in FIGURES:
        for suffix in ("svg", "png", "pdf", "csv"):
            assert (results / "figures" / f"{figure}.{suffix}").stat().st_size > 0


def test_each_stage_says_in_one_line_what_it_made_and_keeps_a_log(finished, results):
    said = [line for line in finished.said if line.startswith("vitals ")]
    stages = [line.split(":")[0] for line in said]
    assert stages.count("vitals train") == 2
    assert stages.count("vitals extract") == 4
    assert stages.count("vitals metric") == 2 * len(METRICS)
    log = (results / "vit_depth3" / "logs" / "train.log").read_text().splitlines()
    assert log[0].startswith("training: 4 epochs of 5 steps, 279 images, on ")
    assert log[-1].startswith("vitals train: ")


# A metric, and a file of all that hangs on it.
REMOVED = (
    "vit_depth4/metrics/position.nc",
    "compare/position.nc",
    *(f"figures/position.{suffix}" for suffix in ("svg", "png", "pdf", "csv")),
    "summary.csv",
    "findings.csv",
    "captions/position.rst",
    "replication.md",
    "index.html",
)


def test_the_command_makes_what_is_missing_and_it_is_what_it_was(finished, results, tmp_path):
    copy = Workflow(shutil.copytree(finished.folder, tmp_path / "copy"), snakemake=typed)
    files = {place: copy.folder / "artifacts" / "quick" / place for place in REMOVED}
    for file in files.values():
        file.unlink()
    run = copy.run(quick_study(), "--cores", "1")
    assert run.returncode == 0, run.stdout
    said = [line.split(":")[0] for line in run.stdout.splitlines() if line.startswith("vitals ")]
    stages = ("captions", "compare", "figure", "findings", "metric", "page", "replicate", "summary")
    assert sorted(said) == [f"vitals {stage}" for stage in stages]
    for place, file in files.items():
        assert file.read_bytes() == (results / place).read_bytes(), place


def test_a_second_run_has_nothing_to_do(finished, study):
    assert finished.jobs(study) == {}


def test_a_copy_without_records_has_nothing_to_do_and_gets_the_same_records(
    finished, study, tmp_path
):
    copy = Workflow(tmp_path)
    shutil.copytree(
        finished.folder / "artifacts", tmp_path / "artifacts", copy_function=shutil.copyfile
    )
    assert copy.jobs(study) == {}
    assert recorded(copy) == recorded(finished)


def recorded(workflow):
    """The settings, code and inputs that Snakemake has of each file."""
    files = (workflow.folder / ".snakemake" / "metadata").iterdir()
    records = {file.name: json.loads(file.read_text()) for file in files}
    return {name: (record["params"], record["input"]) for name, record in records.items()}


def test_the_summary_holds_every_metric_of_every_model(results):
    table = pd.read_csv(results / "summary.csv")
    assert set(table["study"]) == {"quick"}
    for model in MODELS:
        assert set(table.loc[table["model"] == model, "metric"]) == set(METRICS)
    assert {"vit_depth4 - vit_depth3", "vit_depth3 - vit_depth4"} & set(table["model"])
    estimates = table.dropna(subset=["value", "low", "high"])
    assert len(estimates) > 500


def test_the_stored_activations_open_by_model(results):
    tokens = vitals.open_tokens(results / "vit_depth4")
    assert dict(tokens.sizes) == {**tokens.sizes, "layer": 7, "image": 400, "token": 17}
    assert vitals.open_pooled(results / "vit_depth4")["pooled"].dims == (
        "layer",
        "image",
        "feature",
        "channel",
    )


def test_results_know_their_settings_and_code(results):
    with xr.open_dataset(results / "vit_depth4" / "metrics" / "probes.nc") as probes:
        assert '"penalties":[0.01,1.0]' in probes.attrs["spec"]
        assert len(probes.attrs["code"]) == 16


def test_a_default_written_out_changes_nothing(finished, study):
    study["activations"]["storage"] = "float16"
    study["metrics"]["attention"] = {"damping": 0.85}
    assert stale(finished.folder, study) == set()


def test_another_probe_grid_reruns_probes_and_what_reads_them(finished, study):
    study["metrics"]["probes"]["penalties"] = [1.0]
    assert by_rule(stale(finished.folder, study)) == {
        "measure_probes": 2,
        "measure_tradeoff": 2,
        "compare": 2,
        "draw": 4,  # overview, probes, trade-off, comparison
        "summary": 1,
        "findings": 1,
        "captions": 1,
        "replicate": 1,
        "page": 1,
    }


def test_another_recipe_of_one_model_reruns_its_chain_and_the_comparisons(finished, study):
    study["models"]["vit_depth3"]["training"] = {"epochs": 5}
    jobs = by_rule(stale(finished.folder, study))
    assert jobs["train"] == 1
    assert jobs["extract"] == len(SHARDS)
    assert all(jobs[f"measure_{metric}"] == 1 for metric in METRICS)
    assert jobs["compare"] == len(METRICS)
    assert "images" not in jobs


def test_another_style_redraws_figures_alone(finished, study):
    study["figures"] = {"scale": 1.5}
    assert by_rule(stale(finished.folder, study)) == {"draw": len(FIGURES)}


def test_another_palette_redraws_figures_and_page(finished, study):
    study["figures"] = {"palette": "deep"}
    assert finished.jobs(study) == {"draw": len(FIGURES), "page": 1}


def test_a_metric_can_be_asked_for_by_name(finished, study):
    study["metrics"]["similarity"] = {"outlier_mads": 4}
    jobs = finished.jobs(study, "similarity")
    assert jobs["measure_similarity"] == 2
    assert "measure_probes" not in jobs
