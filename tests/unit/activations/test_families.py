"""Every family of isotropic Vision Transformer is seen as timm itself computes it."""

import copy
import functools
import re

import pytest
import torch
from torch import nn

from families import DEPTH, FAMILIES, images_for, largest, make, measure, run, states_by_timm
from vitals.activations import capture, layout
from vitals.errors import VitalsError
from vitals.models.anatomy import anatomy

CAUGHT = [name for name, family in FAMILIES.items() if family.attention]
PARTED = [name for name in FAMILIES if "xp" not in name and name != "parallel, differential"]
ATTENTION_TOLERANCE = 3e-6  # of float32 scores of some tens
made = functools.cache(make)  # for tests that leave the model as it is


@pytest.fixture(params=FAMILIES)
def name(request):
    return request.param


def test_a_family_is_seen_as_timm_computes_it(name):
    found = measure(name, made(name))
    assert found.state == 0
    assert found.logits == 0
    assert found.head == 0
    assert not found.position > 0
    assert not found.attention > ATTENTION_TOLERANCE


def test_learned_tokens_stand_in_front_of_the_patches_by_kind(name):
    model, family = made(name), FAMILIES[name]
    body, seen = anatomy(model), run(model)
    patches = body.grid[0] * body.grid[1]
    assert body.kinds == (*family.prefix, *["patch"] * patches)
    assert body.grid == (4, 6)
    owner = getattr(model, "embeds", model)
    parts = [getattr(owner, f"{part}_token", None) for part in ("cls", "dist", "reg")]
    learned = [part.expand(3, -1, -1) for part in parts if part is not None]
    if family.prefix:
        expected = torch.cat(learned, dim=1)
        assert torch.equal(seen.states["embed"][:, : len(family.prefix)], expected)
    assert body.prefix_tokens == len(family.prefix)
    assert layout.roles(body).patches.tolist() == list(range(len(family.prefix), len(body.kinds)))


@pytest.mark.parametrize("name", [name for name in FAMILIES if "naflex" not in name])
def test_the_first_tap_is_the_patch_embedding(name):
    model = made(name)
    body, seen = anatomy(model), run(model)
    with torch.inference_mode():
        patches = model.patch_embed(images_for(body))
    patches = patches.flatten(1, 2) if patches.ndim == 4 else patches
    assert torch.equal(seen.states["embed"][:, body.prefix_tokens :], patches)


@pytest.mark.parametrize("name", CAUGHT)
def test_attention_is_of_all_heads_of_every_block(name):
    model = made(name)
    body, seen = anatomy(model), run(model)
    tokens, heads = len(body.kinds), FAMILIES[name].heads
    assert body.heads == heads
    assert [tuple(maps.shape) for maps in seen.attention_heads] == [
        (3, heads, tokens, tokens)
    ] * DEPTH
    for maps, mean, total in zip(
        seen.attention_heads, seen.attention, seen.attention_sum, strict=True
    ):
        torch.testing.assert_close(mean, maps.mean(dim=1), rtol=0, atol=1e-6)
        torch.testing.assert_close(total, maps.double().sum(dim=0), rtol=0, atol=1e-6)
    assert {len(values) for values in seen.summaries.values()} == {DEPTH}


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in CAUGHT])
def test_attention_that_is_no_softmax_of_all_tokens_is_absent_with_the_reason(name):
    model = made(name)
    reason = anatomy(model).attention_absent
    assert reason is not None and reason.startswith(("its attention", "its heads"))
    seen = run(model)
    assert not (seen.attention or seen.attention_sum or seen.attention_heads or seen.summaries)


def test_precision_of_the_pass_is_that_of_autocast_and_of_attention_float32(name):
    model = made(name)
    body, images = anatomy(model), images_for(anatomy(model))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = run(model)
        with torch.inference_mode():
            assert torch.equal(seen.logits, model(images))
            for layer, expected in states_by_timm(model, images).items():
                assert seen.states[layer].dtype == expected.dtype
                assert torch.equal(seen.states[layer], expected)
    capture.check_replay(body, seen, name)
    for maps in seen.attention_heads:
        assert maps.dtype == torch.float32
        assert largest(maps.sum(dim=-1), torch.ones(maps.shape[:-1])) < 1e-6


def test_a_model_in_bfloat16_passes_the_replay(name):
    model = make(name).bfloat16()
    body = anatomy(model)
    every = torch.arange(3)
    images = images_for(body).bfloat16()
    seen = capture.forward(model, body, layout.roles(body), images, every)
    capture.check_replay(body, seen, name)
    assert {maps.dtype for maps in seen.attention_heads} <= {torch.float32}


class Nothing(nn.Module):
    """A branch that adds nothing."""

    def forward(self, x):
        return torch.zeros_like(x)


@pytest.mark.parametrize("name", PARTED)
def test_the_state_between_attention_and_mlp_is_the_block_without_its_mlp(name):
    model = made(name)
    seen = run(model, sub_blocks=True)
    body = anatomy(model)
    capture.check_replay(body, seen, name)
    for number in range(DEPTH):
        parted = copy.deepcopy(model)
        block = parted.blocks[number]
        if hasattr(block, "ffns"):
            block.ffns = nn.ModuleList(Nothing() for _ in block.ffns)
        else:
            block.mlp, block.norm2 = Nothing(), nn.Identity()
        expected = states_by_timm(parted, images_for(body))[f"block.{number}"]
        assert torch.equal(seen.states[f"block.{number}.attention"], expected)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in PARTED])
def test_blocks_with_attention_beside_their_mlp_have_no_state_between(name):
    body = anatomy(made(name))
    with pytest.raises(VitalsError, match=r"ParallelScalingBlock has no state .*sub_blocks"):
        body.layers(sub_blocks=True)
    with pytest.raises(VitalsError, match="has no state between attention and MLP"):
        run(made(name), sub_blocks=True)


def test_a_pass_without_attention_sees_the_same_states(name):
    model = made(name)
    seen, without = run(model), run(model, attention=False)
    assert seen.states.keys() == without.states.keys()
    assert all(torch.equal(seen.states[layer], state) for layer, state in without.states.items())
    assert not (without.attention or without.attention_sum or without.attention_heads)
    assert not without.summaries
    capture.check_replay(anatomy(model), without, name)


@pytest.mark.parametrize("name", CAUGHT)
def test_without_the_fused_kernel_attention_is_refused_and_states_are_not(name):
    model = make(name)
    for module in model.blocks.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    with pytest.raises(VitalsError, match=r"block.0 called .* 0 times, expected \d: is fused"):
        run(model)
    capture.check_replay(anatomy(model), run(model, attention=False), name)


def test_other_weights_have_another_view(name):
    model, other = made(name), make(name, seed=1)
    with pytest.raises(VitalsError, match=f"^{re.escape(name)}: .* differs"):
        capture.check_replay(anatomy(other), run(model), name)
