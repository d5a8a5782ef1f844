"""The anatomy names what timm's own forward pass does, for every family of VisionTransformer."""

import pytest
import torch
from torch import nn

from vitals.errors import VitalsError
from vitals.models import build
from vitals.models.anatomy import anatomy, input_shape

# isort: split
import timm

IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
PATCHES = ["patch"] * 16


def before_and_after_position(model):
    """Tokens without and with position information, by timm's own methods."""
    patches = model.patch_embed(IMAGES)
    embedded = patches.flatten(1, 2) if patches.ndim == 4 else patches
    learned = [token for token in (model.cls_token, model.reg_token) if token is not None]
    prefix = [token.expand(len(IMAGES), -1, -1) for token in learned]
    return torch.cat([*prefix, embedded], dim=1), model._pos_embed(patches)


def test_tokens_are_named_in_the_order_in_which_they_stand(family):
    model, _, prefix = family
    body = anatomy(model)
    assert list(body.kinds) == prefix + PATCHES
    assert body.prefix_tokens == len(prefix)
    assert body.grid == (4, 4)
    before, _ = before_and_after_position(model)
    assert torch.equal(body.prefix, before[0, : len(prefix)])


def test_there_is_a_tap_after_the_norm_where_the_model_norms_tokens(family):
    model, _, _ = family
    normed = ("norm",) if isinstance(model.norm, nn.LayerNorm) else ()
    assert anatomy(model).layers == ("embed", "position", "block.0", "block.1", *normed)


def test_the_position_embedding_is_what_is_added_to_each_token(family):
    model, _, _ = family
    before, after = before_and_after_position(model)
    parameters = anatomy(model).parameters
    if model.pos_embed is None:
        assert "position_embedding" not in parameters
        assert torch.equal(before, after)
    else:
        added = parameters["position_embedding"].expand_as(before)
        torch.testing.assert_close(added, after - before, rtol=0, atol=1e-6)


def test_tokens_without_a_position_of_their_own_get_nothing_added(small_vit):
    body = anatomy(small_vit(no_embed_class=True, reg_tokens=1))
    assert (body.parameters["position_embedding"][:2] == 0).all()
    assert (body.parameters["position_embedding"][2:] != 0).all()


def test_the_parameters_are_those_that_the_model_classifies_with(family):
    model, _, _ = family
    parameters = anatomy(model).parameters
    assert torch.equal(parameters["head_weight"], model.head.weight)
    assert torch.equal(parameters["head_bias"], model.head.bias)
    norm = model.fc_norm if isinstance(model.norm, nn.Identity) else model.norm
    assert ("norm_scale" in parameters) == isinstance(norm, nn.LayerNorm)
    if "norm_scale" in parameters:
        assert torch.equal(parameters["norm_scale"], norm.weight)
        assert torch.equal(parameters["norm_shift"], norm.bias)
    assert not any(parameter.requires_grad for parameter in parameters.values())


def test_a_model_without_a_classifier_has_none():
    model = timm.create_model("test_vit", num_classes=0)
    assert not {"head_weight", "head_bias"} & anatomy(model).parameters.keys()


def test_the_input_shape_is_what_the_model_takes(family):
    model, _, _ = family
    assert input_shape(model) == (1, 8, 8)
    assert anatomy(model).heads == 2


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        ("test_resnet", "ResNet"),
        ("test_convnext", "ConvNeXt"),
        ("test_maxvit", "MaxxVit"),
        ("test_vit_relpos", "VisionTransformerRelPos"),
        ("xcit_nano_12_p16_224", "Xcit"),
    ],
)
def test_a_model_of_another_class_is_refused_by_name(architecture, kind):
    message = f"a {kind} is not supported: expected timm's VisionTransformer"
    with pytest.raises(VitalsError, match=message):
        anatomy(timm.create_model(architecture))
    with pytest.raises(VitalsError, match=f"architecture '{architecture}' is not supported"):
        build.create(architecture, {}, 10, (3, 224, 224))


def test_blocks_without_one_attention_are_refused_by_name(small_options):
    options = {**small_options, "img_size": 8, "patch_size": 2}
    with pytest.raises(VitalsError, match="a VisionTransformer of ParallelScalingBlock is not"):
        build.create("vit_base_patch16_xp_224", options, 10, (1, 8, 8))
