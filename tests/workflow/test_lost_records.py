"""Results that lost Snakemake's records are judged by what they say of themselves."""

import json
import os
import random
import shutil

import pytest
from conftest import Workflow, copy_of_the_checkout
from dry_runs import by_rule, make, stale
from snakemakes import typed

TARGETS = ("similarity", "position")
FIGURES = ("figure similarity", "figure position")
OPTIONS = {
    **{"img_size": 8, "patch_size": 2, "in_chans": 1, "embed_dim": 16},
    **{"depth": 2, "num_heads": 2, "mlp_ratio": 2},
}
MEASURED = ("accuracy", "similarity", "phases", "position")  # no figure without the first
DRAWN_FROM_SIMILARITY = {"compare": 1, "draw": 2}


def tiny_study():
    """Two models of one shape and different seeds, so that all they make differs."""
    model = {"architecture": "vit_tiny_patch16_224", "options": OPTIONS}
    return {
        "study": "tiny",
        "images": {"dataset": "digits", "limit": 60},
        "models": {"first": model, "second": {**model, "training": {"seed": 1}}},
        "training": {"epochs": 1, "batch": 8},
        "bootstrap": {"samples": 100},
        "activations": {"gallery_images": 1},
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The tiny study, run once; its records as Snakemake wrote them."""
    folder = tmp_path_factory.mktemp("made")
    make(folder, tiny_study(), TARGETS, FIGURES)
    return folder


@pytest.fixture
def copied(made, tmp_path):
    """A copy of the results, without records and with times in any order."""
    folder = tmp_path / "copied"
    shutil.copytree(made / "artifacts", folder / "artifacts")
    shuffled = random.Random(0)
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            time = 1.7e9 + shuffled.random() * 1e6
            os.utime(file, (time, time))
    return folder


def jobs(folder, study):
    return by_rule(stale(folder, study, TARGETS))


def records(folder):
    """What Snakemake compares, by the name of each record."""
    compared = ("params", "input", "endtime", "record_format_version")
    return {
        file.name: {key: json.loads(file.read_text())[key] for key in compared}
        for file in (folder / ".snakemake" / "metadata").iterdir()
    }


def test_records_are_restored_as_snakemake_wrote_them(made):
    before = records(made)
    shutil.rmtree(made / ".snakemake")
    assert jobs(made, tiny_study()) == {}
    assert records(made) == before


def test_a_copy_with_any_times_has_nothing_to_do(copied):
    assert jobs(copied, tiny_study()) == {}
    assert jobs(copied, tiny_study()) == {}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda study: study.update(metrics={"similarity": {"outlier_mads": 4}}),
            {"measure_similarity": 2, "measure_phases": 2, **DRAWN_FROM_SIMILARITY},
        ),
        (
            lambda study: study["models"]["second"]["training"].update(seed=2),
            {
                **{"train": 1, "extract": 1, "compare": 2, "draw": 2},
                **{f"measure_{metric}": 1 for metric in MEASURED},
            },
        ),
        (lambda study: study["models"].pop("second"), {"compare": 2, "draw": 2}),
        (lambda study: study.update(figures={"scale": 1.5}), {"draw": 2}),
        (
            lambda study: study["images"].update(seed=1),
            {
                **{"images": 1, "train": 2, "extract": 2, "compare": 2, "draw": 2},
                **{f"measure_{metric}": 2 for metric in MEASURED},
            },
        ),
    ],
    ids=["a metric", "a recipe", "a model removed", "a style", "the images"],
)
def test_of_a_copy_a_changed_setting_reruns_what_it_decides(copied, change, expected):
    study = tiny_study()
    change(study)
    assert jobs(copied, study) == expected
    assert jobs(copied, tiny_study()) == {}


def test_of_a_copy_an_edit_of_a_metric_reruns_it_and_what_is_below(copied, tmp_path):
    checkout = copy_of_the_checkout(tmp_path / "checkout")
    edits = {"similarity": "\n# a comment\n", "position": "ADDED = 1\n"}
    for module, text in edits.items():
        with (checkout / "workflow" / "vitals" / "metrics" / f"{module}.py").open("a") as file:
            file.write(text)
    workflow, snakefile = Workflow(copied, snakemake=typed), str(checkout / "Snakefile")
    found = workflow.jobs(tiny_study(), *TARGETS, "--snakefile", snakefile)
    assert {rule: n for rule, n in found.items() if rule not in TARGETS} == {
        **{"measure_position": 2, "compare": 1, "draw": 1}
    }


@pytest.mark.parametrize("kept", [True, False], ids=["with records", "without"])
@pytest.mark.parametrize("old", [True, False], ids=["older", "newer"])
def test_a_result_of_another_model_in_its_place_is_stale(made, tmp_path, kept, old):
    folder = tmp_path / "spoiled"
    shutil.copytree(made, folder)  # with its times
    if not kept:
        shutil.rmtree(folder / ".snakemake")
    metric = folder / "artifacts" / "tiny" / "{}" / "metrics" / "similarity.nc"
    theirs, ours = (str(metric).format(model) for model in ("first", "second"))
    shutil.copyfile(theirs, ours)
    if old:
        os.utime(ours, (1e9, 1e9))
    assert jobs(folder, tiny_study()) == {
        **{"measure_similarity": 1, "measure_phases": 1, **DRAWN_FROM_SIMILARITY}
    }


def test_weights_of_another_model_in_their_place_are_stale(copied):
    weights = [copied / "artifacts" / "tiny" / m / "model.safetensors"
               for m in ("first", "second")]  # fmt: skip
    shutil.copyfile(*weights)
    found = jobs(copied, tiny_study())
    assert (found["train"], found["extract"], found["measure_position"]) == (1, 1, 1)


def test_a_torn_copy_is_made_again_and_is_what_it_was(made, copied):
    place = "artifacts/tiny/second/metrics/position.nc"
    metric = copied / place
    metric.write_bytes(metric.read_bytes()[:-100])
    assert jobs(copied, tiny_study()) == {"measure_position": 1, "compare": 1, "draw": 1}
    make(copied, tiny_study(), TARGETS, FIGURES)
    assert metric.read_bytes() == (made / place).read_bytes()
    assert jobs(copied, tiny_study()) == {}
