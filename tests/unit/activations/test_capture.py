"""What the taps see is what the model computes, and seeing it changes nothing."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from vitals.activations import capture
from vitals.activations.attention import TokenRoles, head_summaries
from vitals.errors import VitalsError
from vitals.models.anatomy import anatomy

IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
EVERY = torch.arange(len(IMAGES))


def roles_of(model):
    grid = torch.arange(16)
    prefix = [-1] * anatomy(model).prefix_tokens
    row, column = ([*prefix, *place.tolist()] for place in (grid // 4, grid % 4))
    return TokenRoles.of(anatomy(model).kinds, row, column)


def forward(model, whole=EVERY):
    return capture.forward(model, anatomy(model), roles_of(model), IMAGES, whole)


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
        expected = model.norm_pre(seen.states["embed"] + added)
    torch.testing.assert_close(seen.states["position"], expected, rtol=0, atol=1e-6)


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
    assert tuple(seen.states) == body.layers
    with torch.inference_mode():
        assert torch.equal(model.forward_head(seen.states[body.layers[-1]]), seen.logits)
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
    body, roles = anatomy(model), roles_of(model)
    with pytest.raises(AssertionError):  # timm's, for images of another size
        capture.forward(model, body, roles, torch.rand(1, 1, 4, 4), EVERY[:0])
    assert hooks_of(model) == []


def test_attention_is_kept_by_head_for_the_images_asked_for(small_vit):
    model = small_vit()
    everything, some, none = (forward(model, whole) for whole in (EVERY, EVERY[[1, 4]], EVERY[:0]))
    assert torch.equal(some.attention_heads[1], everything.attention_heads[1][[1, 4]])
    assert none.attention_heads[0].shape == (0, 2, 17, 17)
    assert torch.equal(none.attention[0], everything.attention[0])


@pytest.mark.parametrize("blocks", [[0], [1], [0, 1]])
def test_a_block_without_fused_attention_is_refused(small_vit, blocks):
    model = small_vit()
    for block in blocks:
        model.blocks[block].attn.fused_attn = False
    with pytest.raises(VitalsError, match=f"seen {2 - len(blocks)} times in 2 blocks: expected"):
        forward(model)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_probabilities_are_those_of_the_fused_kernel_under_a_mask(scale):
    query, key, value = torch.randn(3, 2, 4, 6, 8).unbind()
    for mask in (None, torch.rand(6, 6) > 0.3, torch.randn(6, 6)):
        found = capture.attention_probabilities(query, key, value, mask, scale=scale)
        expected = F.scaled_dot_product_attention(query, key, value, mask, scale=scale)
        torch.testing.assert_close(found @ value, expected)


def test_probabilities_are_computed_in_float32():
    query, key = torch.randn(2, 1, 1, 6, 8).half().unbind()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = capture.attention_probabilities(query, key, key)
    assert found.dtype == torch.float32
    expected = capture.attention_probabilities(query.float(), key.float(), key)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("argument", ["is_causal", "enable_gqa"])
def test_attention_of_another_kind_is_refused(argument):
    with pytest.raises(VitalsError, match="causal or grouped"):
        capture.attention_probabilities(*torch.randn(3, 1, 1, 4, 8), **{argument: True})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda body: {"classify": lambda x: body.classify(x) + 0.1}, "differs from the logits"),
        (lambda body: {"kinds": body.kinds[1:]}, "17 tokens at embed, expected 16"),
        (lambda body: {"norm": None}, "taps .* expected"),
    ],
)
def test_a_wrong_view_of_a_model_does_not_pass_the_replay(small_vit, change, message):
    model = small_vit()
    body = anatomy(model)
    seen = forward(model)
    with pytest.raises(VitalsError, match=f"small: .*{message}"):
        capture.check_replay(dataclasses.replace(body, **change(body)), seen, "small")


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
