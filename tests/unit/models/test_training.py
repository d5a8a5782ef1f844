"""Training from scratch: what makes it the same, that it learns, and what it never looks at."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vitals.data import images as image_lists
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
        provenance = {"spec": "{}", "code": "digest"}
        stage.train(spec, provenance, images_file, None, weights, "cpu")
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


def test_a_training_that_stops_earlier_is_the_whole_one_as_it_was_then(trained, monkeypatch):
    states, model = [], None
    train, loss_of = training.train, training.F.cross_entropy

    def watched(network, *arguments):
        nonlocal model
        model = network
        return train(network, *arguments)

    def before_each_step(*arguments, **settings):
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        return loss_of(*arguments, **settings)

    monkeypatch.setattr(training, "train", watched)
    monkeypatch.setattr(training.F, "cross_entropy", before_each_step)
    _, whole = trained(epochs=3)
    on_its_way = states[:: len(states) // 3]
    for epoch, known in enumerate(on_its_way):
        stopped, about = trained(epochs=3, stop_after=epoch)
        assert all(torch.equal(stopped[name], known[name]) for name in stopped), epoch
        assert about["loss"] == whole["loss"][:epoch]


def test_the_rows_of_a_model_that_is_trained_here_are_the_classes_of_the_images(trained):
    _, about = trained()
    assert about["class_names"] == [str(digit) for digit in range(10)]
    assert about["class_rows"] == list(range(10))
    assert about["built"]["options"] == about["options"]


def fitted(model, images, **changes):
    """Train a model in place on the fit split of a list; the losses."""
    transform = build.transform(model)
    fit = training.examples(images.of_split(FIT), transform)
    return training.train(model, fit, transform, training.Recipe(**{**RECIPE, **changes}), CPU)


def test_the_loss_falls_and_the_accuracy_is_that_of_the_logits(small_options, digit_list):
    torch.manual_seed(0)
    model = build.create("vit_tiny_patch16_224", small_options, 10, (1, 8, 8))
    transform = build.transform(model)
    losses = fitted(model, digit_list, epochs=60)
    assert losses[-1] < losses[0] / 2
    assert not model.training
    for split in (FIT, TEST):
        part = digit_list.of_split(split)
        found = training.accuracy(model, training.examples(part, transform), transform, CPU)
        predicted = model(transform(torch.from_numpy(part.pixels()))).argmax(dim=1).numpy()
        assert found == np.mean(predicted == part.labels())
        assert found > (0.5 if split == FIT else 0.1)


def test_accuracy_is_the_same_in_blocks(small_vit, digit_list, monkeypatch):
    model = small_vit()
    transform = build.transform(model)
    found = training.examples(digit_list, transform)
    whole = training.accuracy(model, found, transform, CPU)
    monkeypatch.setattr(training, "IMAGES_PER_BLOCK", 7)
    assert training.accuracy(model, found, transform, CPU) == whole


def test_labels_of_the_test_split_are_never_seen(small_vit, digit_list):
    table = digit_list.table.copy()
    tested = table["split"] == TEST
    table.loc[tested, "label"] = 9 - table.loc[tested, "label"]
    weights = []
    for images in (digit_list, dataclasses.replace(digit_list, table=table)):
        model = small_vit()
        fitted(model, images)
        weights.append(build.weights_digest(model))
    assert weights[0] == weights[1]


@pytest.fixture(scope="session")
def photographs_file(tmp_path_factory):
    """images.parquet of 24 crops of photographs, of two classes."""
    path = tmp_path_factory.mktemp("photographs") / "images.parquet"
    settings = {"dataset": "photographs", "test_share": 0.25, "seed": 0, "limit": 24}
    image_lists.write(image_lists.build(settings), path, settings, "{}", "code")
    return path


COLOURED = {"img_size": 16, "patch_size": 4, "in_chans": 3}


def test_pictures_are_in_memory_as_bytes_prepared_for_the_model(
    photographs_file, small_options, capsys
):
    images = image_lists.read(photographs_file)
    transform = build.transform(
        build.create("vit_tiny_patch16_224", {**small_options, **COLOURED}, 2)
    )
    found = training.examples(images, transform)
    assert found.pixels.shape == (24, 3, 16, 16)
    assert found.pixels.dtype == torch.uint8
    for place in (0, 23):
        assert np.array_equal(found.pixels[place], transform.prepare(images.picture(place)))
    assert found.labels.tolist() == images.labels().tolist()
    assert "24 pictures in memory, 0.0 GB" in capsys.readouterr().err


def test_a_model_is_trained_on_pictures(photographs_file, small_options, tmp_path):
    spec = {
        "architecture": "vit_tiny_patch16_224",
        "options": {**small_options, **COLOURED},
        "training": {**RECIPE, "epochs": 20},
    }
    weights = tmp_path / "model.safetensors"
    said = stage.train(spec, {}, photographs_file, None, weights, "cpu")
    model, transform, about = build.load(weights, tmp_path / "model.json")
    assert model.num_classes == about["classes"] == 2
    assert transform.size == (3, 16, 16)
    assert about["accuracy"][FIT] > 0.8
    assert f"top-1 {about['accuracy'][FIT]:.1%} on fit" in said


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


def test_a_recipe_of_too_few_steps_to_warm_up_is_refused(trained):
    with pytest.raises(VitalsError, match=r"training.warmup = 0.2 of \d steps is no step"):
        trained(epochs=1, batch=1000)
