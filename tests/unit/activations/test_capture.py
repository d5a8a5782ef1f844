"""What the taps see is what the model computes, and seeing it changes nothing."""

import dataclasses

import pytest
import torch
from torch import nn

from vitals.activations import capture, layout
from vitals.activations.attention import head_summaries
from vitals.errors import VitalsError
from vitals.models.anatomy import anatomy

IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
EVERY = torch.arange(len(IMAGES))


def roles_of(model):
    return layout.roles(anatomy(model))


def forward(model, whole=EVERY, **taps):
    body = anatomy(model)
    return capture.forward(model, body, roles_of(model), IMAGES, whole, capture.Taps(**taps))


def attention_by_hand(block, x):
    """softmax(QKᵀ/√d) of a block on its input x (image, token, channel), in float64."""
    block = block.double()
    x = block.norm1(x.double())
    images, tokens, channels = x.shape
    heads = block.attn.num_heads
    qkv = x @ block.attn.qkv.weight.T + block.attn.qkv.bias
    qkv = qkv.reshape(images, tokens, 3, heads, channels // heads).permute(2, 0, 3, 1, 4)
    query, key = block.attn.q_norm(qkv[0]), block.attn.k_norm(qkv[1])
    scores = torch.einsum("ihqc,ihkc->ihqk", query, key) / (channels // heads) ** 0.5
    weight = scores.exp()
    return weight / weight.sum(dim=-1, keepdim=True)


def test_attention_is_the_softmax_of_queries_and_keys_in_every_block(family):
    model, _, _ = family
    seen = forward(model)
    inputs = [seen.states["position"], seen.states["block.0"]]
    for number, (block, x) in enumerate(zip(model.blocks, inputs, strict=True)):
        with torch.inference_mode():
            expected = attention_by_hand(block, x)
        for found, by_hand in (
            (seen.attention_heads[number], expected),
            (seen.attention[number], expected.mean(dim=1)),
            (seen.attention_sum[number], expected.sum(dim=0)),
        ):
            torch.testing.assert_close(found.double(), by_hand, rtol=0, atol=5e-6)
        assert (seen.attention_heads[number] - expected).abs().max() < 1e-6


def test_summaries_are_of_each_head_of_each_image(family):
    model, _, prefix = family
    seen = forward(model)
    assert ("cls_inflow" in seen.summaries) == ("cls" in prefix)
    for number, probabilities in enumerate(seen.attention_heads):
        for name, expected in head_summaries(probabilities, roles_of(model)).items():
            assert seen.summaries[name][number].shape == (5, 2)
            torch.testing.assert_close(seen.summaries[name][number], expected)


def test_the_position_embedding_stands_between_the_first_two_taps(family):
    model, _, _ = family
    seen = forward(model)
    added = anatomy(model).parameters.get("position_embedding", torch.zeros(1))
    with torch.inference_mode():
        before = seen.states["embed"] + added
        assert torch.equal(seen.states["position"], model.norm_pre(before))
    if "norm_pre" in seen.states:
        assert torch.equal(seen.states["norm_pre"], before)


def test_every_block_adds_to_the_state_before_it(family):
    model, _, _ = family
    seen = forward(model)
    with torch.inference_mode():
        for number, before in enumerate(("position", "block.0")):
            after = model.blocks[number](seen.states[before])
            assert torch.equal(seen.states[f"block.{number}"], after)


def test_the_head_on_the_last_state_gives_the_logits(family):
    model, _, _ = family
    seen = forward(model)
    body = anatomy(model)
    assert tuple(seen.states) == body.layers()
    with torch.inference_mode():
        assert torch.equal(model.forward_head(seen.states[body.layers()[-1]]), seen.logits)
    capture.check_replay(body, seen, "model")


def hooks_of(model):
    return [hook for m in model.modules() for hook in (*m._forward_hooks, *m._forward_pre_hooks)]


def test_seeing_a_pass_leaves_the_model_and_its_logits_bit_for_bit(family):
    model, _, _ = family
    with torch.inference_mode():
        before = model(IMAGES)
    assert torch.equal(forward(model).logits, before)
    assert hooks_of(model) == []
    with torch.inference_mode():
        assert torch.equal(model(IMAGES), before)


def test_a_pass_that_fails_leaves_no_hook(small_vit):
    model = small_vit()
    model.blocks[1].mlp.forward = lambda x: x @ torch.ones(3)
    with pytest.raises(RuntimeError, match="size"):
        forward(model)
    assert hooks_of(model) == []


@pytest.mark.parametrize("options", [{}, {"dynamic_img_size": True}])
def test_images_of_another_shape_are_refused(small_vit, options):
    model = small_vit(**options)
    images = torch.rand(2, 1, 4, 16)  # as many patches, on another grid
    with pytest.raises(VitalsError, match=r"images of \(1, 4, 16\) .* the model takes \(1, 8, 8\)"):
        capture.forward(model, anatomy(model), roles_of(model), images, EVERY[:0])


def test_a_model_that_is_being_trained_is_refused(small_vit):
    model = small_vit(drop_rate=0.5)
    model.head_drop.train()
    with pytest.raises(VitalsError, match="found head_drop in training mode"):
        forward(model)
    with pytest.raises(VitalsError, match="found model in training mode"):
        forward(model.train())


def test_attention_is_kept_by_head_for_the_images_asked_for(small_vit):
    model = small_vit()
    everything, some, none = (forward(model, whole) for whole in (EVERY, EVERY[[1, 4]], EVERY[:0]))
    assert torch.equal(some.attention_heads[1], everything.attention_heads[1][[1, 4]])
    assert none.attention_heads[0].shape == (0, 2, 17, 17)
    assert torch.equal(none.attention[0], everything.attention[0])


@pytest.mark.parametrize("block", [0, 1])
def test_a_block_without_fused_attention_is_refused(small_vit, block):
    model = small_vit()
    model.blocks[block].attn.fused_attn = False
    with pytest.raises(VitalsError, match=f"block.{block} called .* 0 times, expected 1"):
        forward(model)
    assert forward(model, attention=False).attention == []


def test_attention_outside_the_blocks_is_not_counted(small_vit):
    model = small_vit(global_pool="map", class_token=False)
    seen = forward(model)
    assert len(seen.attention) == 2
    capture.check_replay(anatomy(model), seen, "small")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda body: {"classify": lambda x: body.classify(x) + 0.1}, "differs from the logits"),
        (lambda body: {"classify": lambda x: body.classify(x)[:1]}, r"gives \(1, 10\), the model"),
        (lambda body: {"kinds": body.kinds[1:]}, "17 × 16 tokens × channels at embed, expected 16"),
        (lambda body: {"norm": None}, "taps .*; expected"),
        (lambda body: {"parameters": {}}, "position differs by .* from embed"),
        (lambda body: {"classes": 3}, r"gives \(5, 10\), expected .* \(5, 3\)"),
    ],
)
def test_a_wrong_view_of_a_model_does_not_pass_the_replay(small_vit, change, message):
    model = small_vit()
    body = anatomy(model)
    seen = forward(model)
    with pytest.raises(VitalsError, match=f"^small: .*{message}"):
        capture.check_replay(dataclasses.replace(body, **change(body)), seen, "small")


def test_logits_of_every_token_do_not_pass_the_replay(small_vit):
    model = small_vit(global_pool="")
    with pytest.raises(VitalsError, match=r"small: the model gives \(5, 17, 10\), expected"):
        capture.check_replay(anatomy(model), forward(model), "small")


class Shifted(nn.Module):
    """Adds what nobody knows of."""

    def forward(self, x):
        return x + 0.1


def drops_tokens(model):
    forward = model.blocks[1].forward
    model.blocks[1].forward = lambda x: forward(x)[:, :12]


def shifts_positions(model):
    model.pos_drop = Shifted().eval()


def answers_otherwise(model):
    forward = model.forward
    model.forward = lambda images: forward(images) * 1.01


def writes_in_place(model):
    mlp = model.blocks[1].mlp

    def forward(x):
        return x.add_(mlp(x))

    model.blocks[1].forward = forward


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (drops_tokens, "12 × 16 tokens × channels at block.1, expected 17 × 16"),
        (shifts_positions, "position differs by .* from embed with its position embedding added"),
        (answers_otherwise, "the head on the captured last state differs from the logits"),
        (writes_in_place, "block.1 has the memory of block.0: the model changes its stream"),
    ],
)
def test_a_tampered_model_does_not_pass_the_replay(small_vit, tamper, message):
    model = small_vit()
    tamper(model)
    body, seen = anatomy(model), forward(model, attention=False)
    with pytest.raises(VitalsError, match=f"^small: {message}"):
        capture.check_replay(body, seen, "small")


def passes_another_state(model):
    model.blocks.forward = lambda x: model.blocks[1](model.blocks[0](x) + 1)


def norms_another_state(model):
    forward = model.blocks.forward
    model.blocks.forward = lambda x: forward(x) + 1


def repeats_a_block(model):
    model.blocks.forward = lambda x: model.blocks[1](model.blocks[0](model.blocks[0](x)))


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (passes_another_state, "what block.1 reads is not what the block before it gave"),
        (norms_another_state, "what norm reads is not what the block before it gave"),
        (repeats_a_block, "the model passes position twice"),
    ],
)
def test_a_model_without_one_stream_is_refused(small_vit, tamper, message):
    model = small_vit()
    tamper(model)
    with pytest.raises(VitalsError, match=message):
        forward(model)
    assert hooks_of(model) == []


def test_rows_that_miss_one_do_not_pass_the_replay(small_vit):
    seen = forward(small_vit())
    seen.attention[1] = seen.attention[1] * 1.01
    with pytest.raises(VitalsError, match="attention rows of block 1 miss 1"):
        capture.check_replay(anatomy(small_vit()), seen, "small")


def test_a_model_that_gives_nan_does_not_pass_the_replay(small_vit):
    model = small_vit()
    with torch.no_grad():
        model.head.bias[0] = torch.nan
    with pytest.raises(VitalsError, match="differs from the logits by nan"):
        capture.check_replay(anatomy(model), forward(model), "small")
