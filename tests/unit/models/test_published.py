"""Published accuracies belong to weights that timm has, and to images as it prepares them."""

import dataclasses

import pytest

import vitals.models.torchvision_operators  # noqa: F401  (must come before timm)

# isort: split
import timm

from vitals.models import build, checkpoints, published


@pytest.mark.parametrize("name", published.TIMM)
def test_a_pinned_value_is_of_weights_as_timm_configures_them(name):
    size, crop_pct, top1 = published.TIMM[name]
    config = timm.models.get_pretrained_cfg(name)
    where = config.test_input_size or config.input_size
    assert where == (3, size, size)
    assert (config.test_crop_pct or config.crop_pct) == crop_pct
    assert (config.interpolation, config.num_classes) == ("bicubic", 1000)
    assert 50 < top1 < 100


def test_three_parallel_models_have_the_values_that_timm_gives():
    tag = "patch16_224.augreg_in21k_ft_in1k"
    names = [f"vit_{size}_{tag}" for size in ("small", "base", "large")]
    assert [published.of_timm(name).top1 for name in names] == [81.402, 84.534, 85.856]


def test_it_holds_for_images_prepared_alike_alone():
    name = "vit_small_patch16_224.augreg_in21k_ft_in1k"
    said = checkpoints.find(name).published
    transform = dataclasses.asdict(build.transform(build.skeleton(name, {})))
    assert said.holds(transform)
    larger = dataclasses.asdict(build.transform(build.skeleton(name, {"img_size": 384})))
    assert not said.holds(larger)
    assert not said.holds({**transform, "crop_pct": 0.875})
    assert not said.holds({**transform, "interpolation": "bilinear"})


def test_what_is_not_known_is_not_guessed():
    assert published.of_timm("vit_small_patch16_224.dino") is None
    assert checkpoints.find("vit_small_patch14_dinov2.lvd142m").published is None
