"""Models from settings and files: the same weights come back, and others are refused."""

import json

import pytest
import torch
from safetensors.torch import save_file

from vitals.errors import VitalsError
from vitals.models import build

ARCHITECTURE = "vit_tiny_patch16_224"
SHAPE = (1, 8, 8)
IMAGES = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0))


def one_line_error(message):
    """Expect a VitalsError that matches and has no second line."""
    return pytest.raises(VitalsError, match=rf"\A[^\n]*{message}[^\n]*\Z")


@pytest.fixture
def saved(tmp_path, small_vit, small_options):
    """A small model and the files that it was saved as: (model, weights, report)."""
    model = small_vit()
    weights, report = tmp_path / "model.safetensors", tmp_path / "model.json"
    transform = build.transform(model)
    about = {
        "architecture": ARCHITECTURE,
        "options": small_options,
        "classes": 10,
        "shape": SHAPE,
        "transform": {"mean": transform.mean, "std": transform.std},
    }
    build.save(model, about, weights, report)
    return model, weights, report


def test_a_saved_model_gives_the_same_logits_bit_for_bit(saved):
    model, weights, report = saved
    found, transform, about = build.load(weights, report)
    assert torch.equal(found(IMAGES), model(IMAGES))
    assert transform == build.transform(model)
    assert about["weights_digest"] == build.weights_digest(model)
    assert not found.training


def test_saving_leaves_nothing_beside_the_two_files(saved):
    _, weights, report = saved
    assert set(weights.parent.iterdir()) == {weights, report}


def flip_a_bit(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (flip_a_bit, "does not hold the weights that .*model.json describes"),
        (lambda content: content[:-10], "cannot be read"),
        (lambda content: b"", "cannot be read"),
    ],
)
def test_weights_that_were_altered_are_refused(saved, change, message):
    _, weights, report = saved
    weights.write_bytes(change(weights.read_bytes()))
    with one_line_error(message):
        build.load(weights, report)


def test_weights_of_another_model_are_refused(saved, small_vit, tmp_path):
    _, weights, report = saved
    for other, message in ((small_vit(seed=1), "does not hold"), (small_vit(depth=3), "cannot be")):
        save_file(other.state_dict(), weights)
        with one_line_error(message):
            build.load(weights, report)


def test_the_digest_is_of_every_parameter_by_name(small_vit):
    model = small_vit()
    before = build.weights_digest(model)
    assert build.weights_digest(small_vit()) == before
    with torch.no_grad():
        model.blocks[1].attn.proj.bias[3] += 1e-6
    assert build.weights_digest(model) != before


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_local_file_gives_the_logits_of_the_model_it_came_from(
    tmp_path, small_vit, small_options, suffix
):
    model = small_vit(reg_tokens=2, qk_norm=True)
    file = tmp_path / f"weights.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(model.state_dict(), file)
    options = {**small_options, "reg_tokens": 2, "qk_norm": True}
    found = build.load_weights(ARCHITECTURE, options, 10, str(file), SHAPE)
    assert torch.equal(found(IMAGES), model(IMAGES))


@pytest.mark.parametrize(
    ("changes", "classes", "message"),
    [
        ({}, 7, "for 7 classes: .*size mismatch for head.weight"),
        ({"depth": 3}, 10, "Missing key"),
        ({"qk_norm": True}, 10, "Missing key"),
    ],
)
def test_a_local_file_of_another_shape_is_refused_and_no_part_left_at_random(
    tmp_path, small_vit, small_options, changes, classes, message
):
    file = tmp_path / "weights.safetensors"
    save_file(small_vit().state_dict(), file)
    with one_line_error(message):
        build.load_weights(ARCHITECTURE, {**small_options, **changes}, classes, str(file), SHAPE)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_a_file_that_holds_no_weights_is_refused(tmp_path, small_options, name):
    file = tmp_path / name
    file.write_text("not weights")
    with one_line_error(f"could not be loaded from {file}"):
        build.load_weights(ARCHITECTURE, small_options, 10, str(file), SHAPE)


def test_a_file_that_is_not_there_is_named(tmp_path, small_options):
    with one_line_error(f"no weights at {tmp_path / 'none.pth'}"):
        build.load_weights(ARCHITECTURE, small_options, 10, str(tmp_path / "none.pth"), SHAPE)


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("vit_tiny_patch16_225", {}, "did you mean 'vit_tiny_patch16_224'"),
        (f"{ARCHITECTURE}.no_such_tag", {}, "no_such_tag"),
        (ARCHITECTURE, {"colour": "red"}, "timm refuses these options .*colour"),
        (ARCHITECTURE, {"num_heads": 3}, "timm refuses these options"),
        (ARCHITECTURE, {"class_token": False}, "Token pooling needs the class token"),
        (ARCHITECTURE, {"img_size": 16}, r"takes images of \(1, 16, 16\) .*gives \(1, 8, 8\)"),
        (ARCHITECTURE, {"in_chans": 3}, r"takes images of \(3, 8, 8\) .*gives \(1, 8, 8\)"),
    ],
)
def test_what_timm_or_the_images_refuse_is_one_line(small_options, architecture, changes, message):
    with one_line_error(message):
        build.create(architecture, {**small_options, **changes}, 10, SHAPE)


def test_the_transform_normalises_each_channel():
    transform = build.Transform((0.5, 0.0), (0.25, 1.0))
    pixels = torch.tensor([0.0, 0.5]).expand(1, 1, 2, 2).repeat(1, 2, 1, 1)
    assert transform(pixels)[0, 0].tolist() == [[-2.0, 0.0]] * 2
    assert torch.equal(transform(pixels)[0, 1], pixels[0, 1])


def test_grey_images_are_normalised_by_the_mean_of_the_colours(small_options):
    grey = build.create("deit_tiny_patch16_224", small_options, 10, SHAPE)
    colour = build.create("deit_tiny_patch16_224", {**small_options, "in_chans": 3}, 10, (3, 8, 8))
    assert build.transform(colour) == build.Transform((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    mean, std = build.transform(grey).mean, build.transform(grey).std
    assert (*mean, *std) == pytest.approx(((0.485 + 0.456 + 0.406) / 3, 0.678 / 3))


def test_the_report_is_json_that_anybody_can_read(saved):
    _, _, report = saved
    about = json.loads(report.read_text())
    assert about["shape"] == [1, 8, 8]
    assert len(about["weights_digest"]) == 64
