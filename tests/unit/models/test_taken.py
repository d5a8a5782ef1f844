"""A training that lies in another model's folder is taken if it is whole and of the same things."""

import json

import pytest
from safetensors.torch import load_file, save_file

from vitals.data import images as image_lists
from vitals.models import build, stage
from vitals.provenance import canonical

RECIPE = {
    **{"epochs": 2, "batch": 16, "learning_rate": 0.01, "weight_decay": 0.05},
    **{"warmup": 0.2, "smoothing": 0.0, "seed": 0},
}


@pytest.fixture
def train(tmp_path, images_file, small_options, capsys):
    """Train in the folder of a new study, with changes; its weights and what is said of it."""
    made = []

    def run(recipe=RECIPE, code="code", listed="stamps", images=images_file, studies=True):
        weights = tmp_path / "studies" / f"study{len(made)}" / "vit" / "model.safetensors"
        weights.parent.mkdir(parents=True)
        made.append(weights)
        spec = {"architecture": "vit_tiny_patch16_224", "options": small_options}
        spec |= {"training": recipe, "images": listed}
        said = stage.train(
            spec, {"spec": canonical(spec), "code": code}, images, None, weights, "cpu",
            tmp_path / "studies" if studies else None,
        )  # fmt: skip
        trained = "training: " in capsys.readouterr().err
        assert trained == (report(weights).get("taken_from") is None)
        return weights, said

    return run


def report(weights):
    return json.loads(weights.with_suffix(".json").read_text())


def is_taken(made):
    return report(made[0]).get("taken_from") is not None


def test_the_same_training_is_taken_and_says_so(train):
    first, _ = train()
    second, said = train()
    assert said.endswith(f"in {second}: the same training lies in {first.parent}, and is taken")
    assert second.read_bytes() == first.read_bytes()
    assert {**report(first), "taken_from": str(first.parent)} == report(second)
    # their times are their own, for the workflow sets them
    assert second.stat().st_ino != first.stat().st_ino
    assert not is_taken(train(studies=False))


def test_another_place_or_time_of_the_images_is_the_same_training(train):
    train()
    taken = train(listed="other stamps")
    assert is_taken(taken)
    assert json.loads(report(taken[0])["spec"])["images"] == "other stamps"


def relabelled(table):
    return table.assign(label=table["label"].to_numpy()[::-1])


def of_other_content(table):
    """Of images that were in another order when they were listed, under the same names."""
    columns = ["path", "index", "digest"]
    return table.assign(**{name: table[name].to_numpy()[::-1] for name in columns})


@pytest.mark.parametrize("change", [relabelled, of_other_content])
def test_a_training_on_other_images_of_the_same_names_is_made(train, tmp_path, change):
    settings = {"dataset": "digits", "path": None, "test_share": 0.3, "seed": 0, "limit": 60}
    table = image_lists.build(settings)
    other = change(table)
    other.attrs = table.attrs
    image_lists.write(other, tmp_path / "other.parquet", settings, "{}", "code")
    train()
    assert not is_taken(train(images=tmp_path / "other.parquet"))


@pytest.mark.parametrize("change", [{"recipe": {**RECIPE, "seed": 1}}, {"code": "other"}])
def test_another_training_is_made(train, change):
    train()
    assert not is_taken(train(**change))


def short(weights):
    weights.write_bytes(weights.read_bytes()[:-100])


def other(weights):
    values = load_file(weights)
    values["norm.bias"] += 1
    save_file(values, weights)


def without_report(weights):
    weights.with_suffix(".json").write_text("{")


@pytest.mark.parametrize("tear", [short, other, without_report])
def test_a_model_that_is_not_whole_is_never_taken(train, tear):
    first, _ = train()
    tear(first)
    second, _ = train()
    assert build.load(second, second.with_suffix(".json"))
