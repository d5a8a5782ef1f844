"""The anatomy names what timm's own forward pass does, and refuses what it does not know."""

import pytest
import torch
from torch import nn

from vitals.errors import VitalsError
from vitals.models.anatomy import anatomy, check_kind, input_shape

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


def test_there_is_a_tap_for_each_state_that_the_model_has(family):
    model, options, _ = family
    before = ("norm_pre",) if options.get("pre_norm") else ()
    normed = ("norm",) if isinstance(model.norm, nn.LayerNorm) else ()
    body = anatomy(model)
    assert body.layers() == ("embed", *before, "position", "block.0", "block.1", *normed)
    assert body.layers(sub_blocks=True) == (
        *("embed", *before, "position"),
        *("block.0.attention", "block.0", "block.1.attention", "block.1"),
        *normed,
    )


def test_depth_is_counted_in_blocks(small_vit):
    plain, clip = anatomy(small_vit()), anatomy(small_vit(pre_norm=True))
    assert plain.depths() == (0, 1, 2, 3, 4)
    assert all(isinstance(depth, int) for depth in plain.depths())
    assert plain.depths(sub_blocks=True) == (0, 1, 1.5, 2, 2.5, 3, 4)
    assert clip.depths() == (0, 0.5, 1, 2, 3, 4)
    assert all(isinstance(depth, float) for depth in clip.depths())


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
    assert anatomy(model).classes is None


def test_the_shapes_are_those_that_the_model_takes_and_gives(family):
    model, _, _ = family
    body = anatomy(model)
    assert input_shape(model) == body.image_shape == (1, 8, 8)
    assert (body.heads, body.channels, body.classes) == (2, 16, 10)


def test_a_model_of_any_image_size_takes_the_one_asked_for_or_that_of_its_weights():
    small = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    asked = timm.create_model("naflexvit_base_patch16_gap", img_size=(64, 96), **small)
    assert input_shape(asked) == (3, 64, 96)
    assert anatomy(asked).grid == (4, 6)
    own = timm.create_model("naflexvit_base_patch16_gap", **small)
    assert input_shape(own) == own.pretrained_cfg["input_size"]


def test_a_model_is_known_before_it_has_weights():
    body = anatomy(timm.create_model("vit_small_patch16_224", device="meta"))
    assert (len(body.blocks), body.heads, body.channels, body.classes) == (12, 6, 384, 1000)
    assert body.prefix.device.type == "meta"


def test_positions_of_a_grid_that_is_not_square_are_not_resized(small_vit, small_options):
    model = timm.create_model("vit_tiny_patch16_224", **{**small_options, "img_size": (4, 16)})
    assert torch.equal(anatomy(model).parameters["position_embedding"], model.pos_embed[0])


def test_a_distilled_model_is_read_by_the_head_of_its_class_token():
    model = timm.create_model("deit_tiny_distilled_patch16_224", depth=1)
    body = anatomy(model)
    assert body.kinds[:3] == ("cls", "distillation", "patch")
    assert torch.equal(body.parameters["head_weight"], model.head.weight)
    assert torch.equal(body.parameters["norm_scale"], model.norm.weight)


@pytest.mark.parametrize(
    ("architecture", "options", "absent"),
    [
        # a pooling with attention of its own, or a second norm, stands before the classifier
        ("test_vit3", {}, {"head_weight", "head_bias"}),
        (
            "eva02_tiny_patch14_224",
            {"use_fc_norm": True, "use_post_transformer_norm": True},
            {"head_weight", "head_bias"},
        ),
        # a norm without a mean and a shift
        ("test_vit4", {}, {"norm_scale", "norm_shift"}),
        # a head that has no place for this norm
        ("deit_tiny_distilled_patch16_224", {"fc_norm": True}, {"norm_scale", "norm_shift"}),
        # a neck, or attention of [CLS], between the stream and the classifier
        ("samvit_base_patch16_224", {}, {"head_weight", "head_bias", "norm_scale", "norm_shift"}),
        ("cait_xxs24_224", {}, {"head_weight", "head_bias", "norm_scale", "norm_shift"}),
    ],
)
def test_parameters_that_do_not_read_the_stream_are_left_out(architecture, options, absent):
    model = timm.create_model(architecture, depth=1, device="meta", **options)
    names = {"head_weight", "head_bias", "norm_scale", "norm_shift"}
    assert names - anatomy(model).parameters.keys() == absent


@pytest.mark.parametrize(
    ("architecture", "kind", "reason"),
    [
        ("test_resnet", "ResNet", "no Vision Transformer"),
        ("test_convnext", "ConvNeXt", "no Vision Transformer"),
        ("convit_tiny", "ConVit", "no Vision Transformer"),
        ("test_maxvit", "MaxxVit", "no residual stream"),
        ("hiera_tiny_224", "Hiera", "no residual stream"),
        ("pvt_v2_b0", "PyramidVisionTransformerV2", "no residual stream"),
        ("swin_tiny_patch4_window7_224", "SwinTransformer", "no residual stream"),
        ("twins_pcpvt_small", "Twins", "no residual stream"),
        ("mvitv2_tiny", "MultiScaleVit", "no residual stream"),
        ("crossvit_9_240", "CrossVit", "not one residual stream"),
        ("tnt_s_legacy_patch16_224", "TNT", "not one residual stream"),
        ("xcit_nano_12_p16_224", "Xcit", "between channels"),
        ("mixer_s32_224", "MlpMixer", "without attention"),
        ("qwen3_vit_88m_enc", "Qwen3VitEncoder", "no Vision Transformer whose residual stream"),
    ],
)
def test_a_model_of_another_class_is_refused_with_the_reason(architecture, kind, reason):
    model = timm.create_model(architecture, device="meta")
    with pytest.raises(VitalsError, match=f"a {kind} is not supported: .*{reason}"):
        anatomy(model)


class Block(nn.Module):
    """A block that timm does not have."""


def another_block(model):
    model.blocks[1] = Block()


def another_attention(model):
    model.blocks[1].attn = Block()


def other_heads(model):
    model.blocks[1].attn.num_heads = 4


def no_blocks(model):
    model.blocks = nn.Sequential()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (another_block, "a VisionTransformer of Block is not supported: expected blocks of"),
        (another_attention, "a VisionTransformer with Block is not supported: expected Attention"),
        (other_heads, "of 2 blocks of 2 kinds is not supported: expected blocks of one kind"),
        (no_blocks, "of 0 blocks of 0 kinds is not supported"),
    ],
)
def test_parts_that_are_not_known_are_refused_by_name(small_vit, change, message):
    model = small_vit()
    change(model)
    with pytest.raises(VitalsError, match=message):
        check_kind(model)


def test_a_class_made_from_one_that_is_known_is_not_known(small_vit):
    model = small_vit()
    model.__class__ = type("Mine", (type(model),), {})
    with pytest.raises(VitalsError, match="a Mine is not supported"):
        check_kind(model)


def test_tokens_and_positions_that_do_not_add_up_are_refused():
    model = timm.create_model("deit_tiny_distilled_patch16_224", depth=1, reg_tokens=3)
    with pytest.raises(VitalsError, match="2 prefix tokens, its parameters give 5: cls, dist"):
        anatomy(model)
    model = timm.create_model("deit_tiny_distilled_patch16_224", depth=1)
    model.pos_embed = nn.Parameter(model.pos_embed[:, 1:])
    with pytest.raises(VitalsError, match="197 positions for 14 × 14 patches: expected as many"):
        anatomy(model)
