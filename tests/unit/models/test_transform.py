"""Pictures are made as timm makes them, to the last bit, in two steps."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from vitals.errors import VitalsError
from vitals.models import build
from vitals.models.transform import Transform, transform

# isort: split
import timm

PHOTOGRAPHS = dict(zip(("china", "flower"), load_sample_images().images, strict=True))
COLOURS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def of_size(rows, columns=None, **changes):
    """A transform of colour pictures of this size."""
    fields = {
        **COLOURS,
        "size": (3, rows, columns or rows),
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "crop_mode": "center",
    }
    return Transform(**{**fields, **changes})


def timms(made):
    """timm's own transform of the same settings, normalisation included."""
    fields = {**dataclasses.asdict(made), "input_size": made.size}
    del fields["size"]
    return timm.data.create_transform(**fields)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(224, 224), (96, 160)])
@pytest.mark.parametrize(("interpolation", "crop_pct"), [("bicubic", 0.9), ("bilinear", 1.0)])
def test_a_picture_becomes_what_timms_transform_makes_of_it(
    name, crop_mode, size, interpolation, crop_pct
):
    made = of_size(*size, crop_mode=crop_mode, interpolation=interpolation, crop_pct=crop_pct)
    picture = Image.fromarray(PHOTOGRAPHS[name])
    prepared = made.prepare(picture)
    assert prepared.dtype == np.uint8
    assert prepared.shape == (3, *size)
    assert torch.equal(made(torch.from_numpy(prepared)[None])[0], timms(made)(picture))


def test_the_settings_are_those_that_timm_resolves_for_the_model():
    model = timm.create_model("vit_tiny_patch16_384.augreg_in21k_ft_in1k")
    made = transform(model)
    assert (made.size, made.crop_pct, made.crop_mode) == ((3, 384, 384), 1.0, "center")
    assert (made.mean, made.std) == ((0.5,) * 3, (0.5,) * 3)
    picture = Image.fromarray(PHOTOGRAPHS["china"])
    config = timm.data.resolve_data_config(model=model)
    expected = timm.data.create_transform(**config)(picture)
    assert torch.equal(made(torch.from_numpy(made.prepare(picture))[None])[0], expected)


def test_the_size_is_the_models_own_not_that_of_its_published_weights(small_options):
    model = build.create("vit_tiny_patch16_384", {**small_options, "img_size": [8, 12]}, 10)
    assert transform(model).size == (1, 8, 12)


def test_values_and_bytes_are_normalised_alike_and_left_as_they_were():
    made = Transform((0.5, 0.0), (0.25, 1.0), (2, 2, 2), "bicubic", 1.0, "center")
    values = torch.tensor([0.0, 0.5]).expand(1, 2, 2, 2).clone()
    before = values.clone()
    assert made(values)[0, 0].tolist() == [[-2.0, 0.0]] * 2
    assert torch.equal(made(values)[0, 1], values[0, 1])
    assert torch.equal(values, before)
    levels = torch.tensor([0, 255], dtype=torch.uint8).expand(1, 2, 2, 2)
    assert torch.equal(made(levels), made(levels.float() / 255))
    assert made(levels).dtype == made(values.double()).dtype == torch.float32


def test_an_array_is_prepared_as_it_is_and_must_have_the_models_size():
    made = of_size(4)
    array = np.random.default_rng(0).random((3, 4, 4), dtype=np.float32)
    assert np.array_equal(made.prepare(array), array)
    with pytest.raises(VitalsError, match=r"takes images of \(3, 4, 4\) .*array of \(3, 4, 5\)"):
        made.prepare(np.zeros((3, 4, 5), dtype=np.float32))


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_a_model_of_grey_images_sees_a_picture_in_grey(crop_mode):
    grey = of_size(64, mean=(0.4,), std=(0.3,), size=(1, 64, 64), crop_mode=crop_mode)
    picture = Image.fromarray(PHOTOGRAPHS["flower"])
    assert np.array_equal(grey.prepare(picture), grey.prepare(picture.convert("L")))
    assert grey.prepare(picture).shape == (1, 64, 64)


def test_a_model_of_two_channels_takes_no_pictures():
    with pytest.raises(VitalsError, match="1 or 3 channels: the model takes 2"):
        of_size(4, size=(2, 4, 4)).prepare(Image.new("RGB", (8, 8)))


def test_grey_images_are_normalised_by_the_mean_of_the_colours(small_options):
    architecture = "deit3_small_patch16_224"
    grey = build.create(architecture, small_options, 10, (1, 8, 8))
    colour = build.create(architecture, {**small_options, "in_chans": 3}, 10, (3, 8, 8))
    assert (transform(colour).mean, transform(colour).std) == tuple(COLOURS.values())
    found = transform(grey)
    assert (*found.mean, *found.std) == pytest.approx(((0.485 + 0.456 + 0.406) / 3, 0.678 / 3))


@pytest.mark.parametrize(
    "changes",
    [
        {"size": (3, 240, 240)},
        {"interpolation": "bilinear"},
        {"crop_pct": 1.0},
        {"crop_mode": "squash"},
    ],
)
def test_transforms_that_prepare_otherwise_have_other_keys(changes):
    made = of_size(224)
    assert dataclasses.replace(made, **changes).key != made.key


def test_what_a_batch_is_normalised_by_is_no_part_of_the_key_unless_it_fills_a_border():
    for crop_mode in ("center", "border"):
        made = of_size(224, crop_mode=crop_mode)
        assert dataclasses.replace(made, std=(1.0, 1.0, 1.0)).key == made.key
        other = dataclasses.replace(made, mean=(0.5, 0.5, 0.5))
        assert (other.key == made.key) == (crop_mode == "center")
