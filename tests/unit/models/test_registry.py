"""The names of architectures and weights are timm's, read without timm."""

import re
import subprocess
import sys

import pytest

import vitals.models.torchvision_operators  # noqa: F401  (must come before timm)

# isort: split
import timm

from vitals.errors import VitalsError
from vitals.models import registry
from vitals.models.registry import (
    PRETRAINED,
    SUPPORTED,
    TRAINED,
    architectures,
    check_architecture,
    check_options,
    tags,
)

PLAIN = "vit_small_patch16_224"
FILE = "weights/own.safetensors"


def refused(message):
    """Expect a VitalsError of one line that matches."""
    return pytest.raises(VitalsError, match=rf"\A[^\n]*{message}[^\n]*\Z")


def test_the_names_are_all_that_timm_registers():
    assert architectures() == set(timm.list_models())


@pytest.mark.parametrize("module", SUPPORTED)
def test_the_tags_are_those_of_all_weights_that_timm_publishes(module):
    for name in timm.list_models(module=module):
        published = timm.list_models(f"{name}.*", pretrained=True)
        assert tags(name) == tuple(sorted(found.split(".", 1)[1] for found in published)), name


@pytest.mark.parametrize("module", SUPPORTED)
def test_the_rows_of_a_classifier_are_those_that_timm_says(module):
    for name in timm.list_models(module=module, pretrained=True):
        assert registry.rows(name) == timm.models.get_pretrained_cfg(name).num_classes, name


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        (PLAIN, TRAINED),
        (PLAIN, FILE),
        (f"{PLAIN}.dino", PRETRAINED),
        (f"{PLAIN}.dino", TRAINED),
        (f"{PLAIN}.dino", FILE),
        ("vit_base_patch16_clip_quickgelu_224.openai", PRETRAINED),
        ("deit_small_distilled_patch16_224.fb_in1k", PRETRAINED),
        ("eva02_tiny_patch14_224.mim_in22k", PRETRAINED),
        ("beit_base_patch16_224.in22k_ft_in22k_in1k", PRETRAINED),
        ("hf-hub:timm/vit_small_patch16_224.dino@0123abc", PRETRAINED),
        ("hf-hub:an-organisation/a.model_1@v1.0", PRETRAINED),
    ],
)
def test_supported_names_are_accepted(name, weights):
    check_architecture(name, weights)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_225", "vit_tiny_patch16_225.augreg"])
def test_an_unknown_name_is_answered_with_the_nearest(name):
    with refused(f"'{name}': did you mean 'vit_tiny_patch16_224'"):
        check_architecture(name)


@pytest.mark.parametrize(
    ("name", "today"),
    [
        ("vit_base_patch8_224_in21k", "vit_base_patch8_224.augreg_in21k"),
        ("deit3_small_patch16_224_in21ft1k", "deit3_small_patch16_224.fb_in22k_ft_in1k"),
        ("vit_small_patch16_224_dino", "vit_small_patch16_224.dino"),
        # timm's own table names a tag that it does not have
        ("vit_base_patch32_224_sam", "vit_base_patch32_224.augreg_in1k|"),
    ],
)
def test_timms_old_name_is_answered_with_todays(name, today):
    with refused(f"'{name}' is timm's old name: expected '{re.escape(today)}"):
        check_architecture(name)


@pytest.mark.parametrize("weights", [TRAINED, PRETRAINED, FILE])
def test_an_unknown_tag_is_refused_whatever_the_weights_with_the_tags_there_are(weights):
    with refused("tag of vit_small_patch16_224 'dinno': did you mean 'dino'.*augreg_in21k"):
        check_architecture(f"{PLAIN}.dinno", weights)


def test_published_weights_need_a_tag_and_the_error_lists_them():
    message = "does not say which of its weights.*augreg_in1k, augreg_in21k, .*, dino"
    with refused(message):
        check_architecture(PLAIN, PRETRAINED)


@pytest.mark.parametrize("name", ["vit_base_r26_s32_224", "vit_base_patch16_gap_224"])
def test_an_architecture_without_published_weights_says_so(name):
    assert tags(name) == ()
    with refused("no published weights: expected weights: trained"):
        check_architecture(name, PRETRAINED)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("swin_tiny_patch4_window7_224", "no residual stream runs through"),
        ("hiera_tiny_224.mae", "no residual stream runs through"),
        ("pvt_v2_b0", "no residual stream runs through"),
        ("crossvit_tiny_240", "two streams"),
        ("tnt_s_patch16_224", "two streams"),
        ("xcit_nano_12_p8_224", "attention is between channels"),
        ("mixer_s16_224", "without attention"),
        ("resnet50.a1_in1k", "no Vision Transformer"),
    ],
)
def test_a_model_without_a_single_residual_stream_is_refused_with_the_reason(name, why):
    with refused(f"'{name}' is not supported: .*{why}.*expected one of .*vision_transformer"):
        check_architecture(name, PRETRAINED)


def test_every_reason_is_of_a_module_of_timm_that_is_not_supported():
    modules = set(registry._modules().values())
    assert modules >= set(SUPPORTED) | set(registry.UNSUPPORTED)
    assert not set(SUPPORTED) & set(registry.UNSUPPORTED)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("hf-hub:timm/some_vit", PRETRAINED, "names no revision: expected .*@revision"),
        ("hf-hub:some_vit@main", PRETRAINED, "expected hf-hub:organisation/name@revision"),
        ("hf-hub:a/b/c@main", PRETRAINED, "expected hf-hub:organisation/name@revision"),
        ("hf-hub:timm/some_vit@main", TRAINED, "weights: pretrained, found 'trained'"),
        ("hf-hub:timm/some_vit@main", FILE, "weights: pretrained, found 'weights/own"),
        ("timm/some_vit", PRETRAINED, "unknown architecture 'timm/some_vit': expected .*hf-hub:"),
        ("local-dir:/tmp", PRETRAINED, "unknown architecture 'local-dir:/tmp': expected .*hf-hub:"),
    ],
)
def test_a_name_of_the_hub_is_whole_or_refused(name, weights, message):
    with refused(message):
        check_architecture(name, weights)


@pytest.mark.parametrize(
    ("key", "weights", "where"),
    [
        ("pretrained", PRETRAINED, "`weights` says it"),
        ("checkpoint_path", TRAINED, "`weights` names the file"),
        ("features_only", FILE, "the whole model is needed"),
        ("device", TRAINED, "the machine's profile says it"),
        ("num_classes", TRAINED, "has the dataset's classes"),
    ],
)
def test_an_option_that_is_said_elsewhere_is_refused(key, weights, where):
    with refused(f"options.{key} = 3 is no option: .*{where}"):
        check_options({"img_size": 224, key: 3}, weights)


def test_other_options_are_timms_business():
    check_options({"img_size": 384, "reg_tokens": 4})
    check_options({"num_classes": 0}, PRETRAINED)


def test_looking_a_name_up_imports_neither_timm_nor_torch():
    code = (
        "import sys; from vitals.models.registry import check_architecture;"
        "check_architecture('vit_tiny_patch16_224.augreg_in21k', 'pretrained'); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "timm"} & set(done.stdout.split())
