"""Training from scratch: what makes it the same, that it learns, and what it never looks at."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vitals.data.images import FIT, TEST
from vitals.errors import VitalsError
from vitals.models import build, stage, training

RECIPE = {
    "epochs": 2,
    "batch": 16,
    "learning_rate": 0.01,
    "weight_decay": 0.05,
    "warmup": 0.2,
    "smoothing": 0.0,
    "seed": 0,
}
CPU = torch.device("cpu")


@pytest.fixture
def trained(tmp_path, images_file, small_options):
    """Train as the stage does, with changes to the recipe; the weights by name, and the report."""

    def run(**changes):
        # stochastic depth draws from torch's own generator, which the seed must reach too
        spec = {
            "architecture": "vit_tiny_patch16_224",
            "options": {**small_options, "drop_path_rate": 0.3},
            "training": {**RECIPE, **changes},
        }
        weights = tmp_path / "model" / "model.safetensors"
        weights.parent.mkdir(exist_ok=True)
        stage.train(spec, {"spec": "{}", "code": "digest"}, images_file, weights, "cpu")
        return load_file(weights), json.loads(weights.with_suffix(".json").read_text())

    return run


def test_the_same_seed_gives_the_same_weights_bit_for_bit_and_another_does_not(trained):
    first, about = trained()
    torch.rand(7)  # whatever was drawn before is no part of a recipe
    again, _ = trained()
    other, _ = trained(seed=1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
    assert about["code"] == "digest"
    assert about["device"] == "cpu"
    assert {"torch", "timm"} <= about["versions"].keys()
    assert len(about["loss"]) == RECIPE["epochs"]


def test_the_loss_falls_and_the_accuracy_is_that_of_the_logits(small_options, digit_list):
    torch.manual_seed(0)
    model = build.create("vit_tiny_patch16_224", small_options, 10, (1, 8, 8))
    transform = build.transform(model)
    recipe = training.Recipe(**{**RECIPE, "epochs": 60})
    losses = training.train(model, digit_list, transform, recipe, CPU)
    assert losses[-1] < losses[0] / 2
    assert not model.training
    found = training.accuracy(model, digit_list, transform, CPU)
    for split in (FIT, TEST):
        part = digit_list.of_split(split)
        predicted = model(transform(torch.from_numpy(part.pixels()))).argmax(dim=1).numpy()
        assert found[split] == np.mean(predicted == part.labels())
    assert found[FIT] > 0.5


def test_accuracy_is_the_same_in_blocks(small_vit, digit_list, monkeypatch):
    model = small_vit()
    whole = training.accuracy(model, digit_list, build.transform(model), CPU)
    monkeypatch.setattr(training, "IMAGES_PER_BLOCK", 7)
    assert training.accuracy(model, digit_list, build.transform(model), CPU) == whole


def test_labels_of_the_test_split_are_never_seen(small_vit, digit_list):
    table = digit_list.table.copy()
    tested = table["split"] == TEST
    table.loc[tested, "label"] = 9 - table.loc[tested, "label"]
    weights = []
    for images in (digit_list, dataclasses.replace(digit_list, table=table)):
        model = small_vit()
        training.train(model, images, build.transform(model), training.Recipe(**RECIPE), CPU)
        weights.append(build.weights_digest(model))
    assert weights[0] == weights[1]


def test_weight_decay_is_for_matrices_alone(small_vit):
    model = small_vit(reg_tokens=1)
    decayed, others = training._parameter_groups(model, 0.05)
    assert decayed["weight_decay"] == 0.05
    assert others["weight_decay"] == 0
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    spared = {names[id(parameter)] for parameter in others["params"]}
    assert {"cls_token", "reg_token", "pos_embed", "head.bias", "norm.weight"} <= spared
    assert {names[id(p)] for p in decayed["params"]} == set(names.values()) - spared
    assert {"head.weight", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"}.isdisjoint(spared)


def test_weights_of_a_file_are_loaded_as_they_are(tmp_path, images_file, small_vit, small_options):
    model = small_vit()
    file = tmp_path / "own.pth"
    torch.save(model.state_dict(), file)
    spec = {
        "architecture": "vit_tiny_patch16_224",
        "options": small_options,
        "weights": str(file),
    }
    weights = tmp_path / "model.safetensors"
    stage.load(spec, {}, images_file, weights, "cpu")
    found, _, about = build.load(weights, tmp_path / "model.json")
    assert build.weights_digest(found) == build.weights_digest(model)
    assert about["classes"] == 10


def test_weights_for_other_classes_than_the_images_have_are_refused(
    tmp_path, images_file, small_vit, small_options
):
    file = tmp_path / "own.pth"
    torch.save(small_vit(classes=12).state_dict(), file)
    spec = {"architecture": "vit_tiny_patch16_224", "options": small_options, "weights": str(file)}
    with pytest.raises(VitalsError, match="for 10 classes"):
        stage.load(spec, {}, images_file, tmp_path / "model.safetensors", "cpu")
    assert list(tmp_path.iterdir()) == [file]


def test_a_recipe_of_too_few_steps_to_warm_up_is_refused(trained):
    with pytest.raises(VitalsError, match=r"training.warmup = 0.2 of \d steps is no step"):
        trained(epochs=1, batch=1000)
