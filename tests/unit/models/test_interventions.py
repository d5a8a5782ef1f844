"""A model with one change is that model, and otherwise differs by the change alone."""

import pytest
import torch

from families import FAMILIES, images_for, make
from families import run as seen_by
from vitals.models import interventions
from vitals.models.anatomy import anatomy
from vitals.models.interventions import Suffix

EVERY = pytest.mark.parametrize("name", FAMILIES)
CAUGHT = pytest.mark.parametrize("name", [n for n, family in FAMILIES.items() if family.attention])


def opened(name):
    """A family's model, its states at each place, its logits, and itself from any place on."""
    model = make(name)
    body, seen = anatomy(model), seen_by(model, attention=False)
    places = ["position", *(f"block.{number}" for number in range(len(body.blocks)))]
    return body, [seen.states[place] for place in places], seen, Suffix(model, body)


@EVERY
@torch.inference_mode()
def test_nothing_changed_gives_the_same_bits_from_every_place(name):
    body, states, seen, suffix = opened(name)
    for first, state in enumerate(states):
        assert torch.equal(suffix.run(first, state), seen.logits)
    layer = "norm_pre" if body.norm_pre is not None else "position"
    assert torch.equal(suffix.run_positioned(seen.states[layer]), seen.logits)
    assert torch.equal(suffix.network(images_for(body)), seen.logits)


@EVERY
@torch.inference_mode()
def test_a_block_that_is_skipped_gives_what_entered_it(name):
    body, states, _, suffix = opened(name)
    skipped = suffix.run(1, states[1], {body.blocks[1]: interventions.unchanged})
    assert torch.equal(skipped, suffix.run(2, states[1]))


@EVERY
@torch.inference_mode()
def test_an_exit_is_the_head_on_the_state_after_its_block(name):
    body, states, seen, suffix = opened(name)
    exited = suffix.run(0, states[0], suffix.exit_after(1))
    assert torch.equal(exited, suffix.run(len(body.blocks), states[2]))
    last = suffix.run(2, states[2], suffix.exit_after(len(body.blocks) - 1))
    assert torch.equal(last, seen.logits)


@EVERY
@torch.inference_mode()
def test_the_states_behind_the_change_are_seen(name):
    body, states, _, suffix = opened(name)
    found = {}
    suffix.run(1, states[1], watch=lambda block, state: found.setdefault(block, state.clone()))
    assert list(found) == list(range(1, len(body.blocks)))
    for block, state in found.items():
        assert torch.equal(state, states[block + 1])


@CAUGHT
@torch.inference_mode()
def test_a_cut_of_nothing_is_attention_itself(name):
    body, states, seen, suffix = opened(name)
    nothing = torch.zeros(len(body.kinds), len(body.kinds), dtype=torch.bool)
    cut = interventions.attention_cut(body.blocks[1], nothing)
    torch.testing.assert_close(suffix.run(1, states[1], cut), seen.logits, rtol=1e-3, atol=1e-4)


@CAUGHT
@torch.inference_mode()
def test_attention_off_is_a_cut_of_all_but_oneself(name):
    body, states, seen, suffix = opened(name)
    others = ~torch.eye(len(body.kinds), dtype=torch.bool)
    cut = suffix.run(1, states[1], interventions.attention_cut(body.blocks[1], others))
    off = suffix.run(1, states[1], interventions.attention_off(body.blocks[1]))
    torch.testing.assert_close(off, cut, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(off, seen.logits, rtol=1e-3, atol=1e-4)


@torch.inference_mode()
def test_the_cuts_are_of_the_cls_token_alone():
    body = anatomy(make("dinov2, registers"))
    to, of = interventions.cut_to_cls(body), interventions.cut_from_cls(body)
    assert to[:, 0].sum() == len(body.kinds) - 1 and not to[:, 1:].any() and not to[0, 0]
    assert torch.equal(of, to.T)
    assert not interventions.cut_to_cls(anatomy(make("aimv2"))).any()


@torch.inference_mode()
def test_without_a_look_at_cls_patches_know_nothing_of_it():
    """All blocks cut: whatever [CLS] holds, the patches end the same."""
    body, states, _, suffix = opened("vit")
    changes = {}
    for block in body.blocks:
        changes |= interventions.attention_cut(block, interventions.cut_to_cls(body))
    ends = []
    for cls in (0.0, 5.0):
        state = states[0].clone()
        state[:, 0] = cls
        seen = {}
        suffix.run(0, state, changes, watch=seen.__setitem__)
        ends.append(seen[2])
    assert torch.equal(ends[0][:, 1:], ends[1][:, 1:])
    assert not torch.equal(ends[0][:, 0], ends[1][:, 0])


def test_the_model_is_left_as_it_was():
    model = make("vit")
    body = anatomy(model)
    with (
        pytest.raises(RuntimeError, match="planted"),
        interventions.replaced({body.blocks[0]: interventions.unchanged}),
    ):
        raise RuntimeError("planted")
    assert "forward" not in vars(body.blocks[0])


def test_the_computation_of_an_exit_grows_by_equal_blocks_up_to_all_of_it():
    model = make("vit", depth=4)
    shares = interventions.exit_compute(model, anatomy(model))
    steps = torch.tensor(shares).diff()
    torch.testing.assert_close(steps, steps[:1].expand(3))
    assert shares[-1] == 1
    # one block: qkv, scores, values, projection and the MLP, of 25 tokens of 32 channels
    tokens, width = 25, 32
    block = 2 * tokens * width * (12 * width + 2 * tokens)
    rest = 2 * (24 * 3 * 64 * width + width * 10)
    assert steps[0].item() == pytest.approx(block / (4 * block + rest), rel=1e-6)


@EVERY
def test_every_family_says_what_an_exit_takes(name):
    model = make(name)
    shares = interventions.exit_compute(model, anatomy(model))
    assert 0 < shares[0] < shares[1] < shares[2] == 1
