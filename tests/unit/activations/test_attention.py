"""What single attention maps say, in closed form and against a slow second way."""

import math

import numpy as np
import pytest
import torch

from vitals.activations import attention
from vitals.activations.attention import TokenRoles
from vitals.errors import VitalsError

T, SIDE = 197, 14
GRID = np.arange(SIDE * SIDE)
ROLES = TokenRoles.of(["cls"] + ["patch"] * SIDE**2, [-1, *(GRID // SIDE)], [-1, *(GRID % SIDE)])
STAR = torch.nn.functional.one_hot(torch.zeros(T, dtype=torch.long), T).float()
UNIFORM = torch.full((T, T), 1 / T)
NO_CLS = TokenRoles.of(["register"] + ["patch"] * SIDE**2)


def random_maps(*shape, tokens=T, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(*shape, tokens, tokens, generator=generator, dtype=torch.float64)
    return logits.softmax(dim=-1)


def two_blocks():
    """Two halves of the patches that look at themselves alone; [CLS] looks at [CLS]."""
    half = torch.full((98, 98), 1 / 98)
    return torch.block_diag(torch.ones(1, 1), half, half)


def in_order(consensus, js, gap):
    return pytest.approx([consensus, js, gap], abs=5e-5)


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        (UNIFORM, (1, 1, 1)),
        (STAR, (1, 1, 1)),
        (torch.eye(T), (0, 0, 0)),
        (torch.eye(T).roll(1, dims=1), (0, 0, 0)),
        (two_blocks(), (0.4974, 0.8687, 0)),
    ],
    ids=["uniform", "star", "identity", "cyclic shift", "two blocks"],
)
def test_consensus_is_known_for_five_graphs(probabilities, expected):
    found = (
        attention.consensus(probabilities, ROLES),
        attention.consensus_js(probabilities, ROLES),
        attention.consensus_gap(probabilities),
    )
    assert [float(x) for x in found] == in_order(*expected)


def test_two_groups_are_enough_for_a_gap_of_zero():
    """[CLS] looks at everything: |λ| is 1 twice, and 1/T once."""
    probabilities = two_blocks()
    probabilities[0] = 1 / T
    assert attention.consensus_gap(probabilities).item() == pytest.approx(0, abs=1e-6)
    assert attention.consensus(probabilities, ROLES).item() == pytest.approx(0.4974, abs=5e-5)


def test_a_key_that_both_blocks_share_raises_the_consensus():
    shared = two_blocks() * 98 / 99
    shared[:, 0] = 1 / 99  # both halves look at [CLS] too: rows of the two have cosine 1/99
    shared[0] = UNIFORM[0]
    expected = (2 * 98 * 97 + 2 * 98 * 98 / 99) / (196 * 195)
    assert attention.consensus(shared, ROLES).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("probabilities", "at_cls"), [(STAR, 0.850761), (UNIFORM, 1 / T)])
def test_pagerank_of_cls_in_a_star_and_in_a_uniform_graph(probabilities, at_cls):
    assert attention.cls_pagerank(probabilities, ROLES).item() == pytest.approx(at_cls, abs=1e-6)


def test_pagerank_is_where_the_damped_walk_ends():
    probabilities = random_maps(2)
    share = torch.full((2, 1, T), 1 / T, dtype=torch.float64)
    for _ in range(300):
        share = 0.85 * share @ probabilities + 0.15 / T
    assert attention.cls_pagerank(probabilities, ROLES).numpy() == pytest.approx(
        share[:, 0, 0].numpy(), rel=1e-10
    )


def test_patches_attend_and_cls_is_attended_to_not_the_other_way_round():
    assert attention.cls_inflow(STAR, ROLES) == T
    assert attention.cls_inflow(STAR.mT, ROLES) == 0
    assert attention.cls_inflow(UNIFORM, ROLES).item() == pytest.approx(1)


def test_the_inflow_leaves_out_what_cls_gives_itself():
    only_itself = torch.eye(T)
    assert attention.cls_inflow(only_itself, ROLES) == 0


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [(UNIFORM, 1), (STAR, 0), (torch.eye(T), 0), (two_blocks(), math.log(98) / math.log(T))],
)
def test_entropy_is_over_the_keys_of_patch_queries(probabilities, expected):
    assert attention.entropy(probabilities, ROLES).item() == pytest.approx(expected, abs=1e-6)


def test_the_row_of_cls_has_its_own_entropy():
    probabilities = torch.eye(T)
    probabilities[0] = 1 / T
    assert attention.cls_outflow_entropy(probabilities, ROLES).item() == pytest.approx(1)
    assert attention.entropy(probabilities, ROLES) == 0


def test_uniform_attention_looks_as_far_as_two_random_patches_are_apart():
    assert attention.distance(UNIFORM, ROLES).item() == pytest.approx(7.280764, abs=1e-5)


def test_attention_to_cls_leaves_the_distance_unchanged():
    half = (STAR + UNIFORM) / 2
    assert attention.distance(half, ROLES).item() == pytest.approx(7.280764, abs=1e-5)


def test_a_patch_that_looks_at_no_patch_has_no_distance():
    assert attention.distance(STAR, ROLES).isnan()
    one = STAR.clone()
    one[1] = torch.eye(T)[2]  # the patch at (0, 0) looks at the one beside it
    assert attention.distance(one, ROLES) == 1


def test_distance_needs_a_grid():
    with pytest.raises(VitalsError, match="row and the column"):
        attention.distance(UNIFORM, NO_CLS)


def test_the_closed_form_of_consensus_is_the_mean_over_pairs():
    rows = random_maps()[1:]
    unit = rows / rows.norm(dim=-1, keepdim=True)
    pairs = (unit @ unit.mT)[~torch.eye(len(unit), dtype=torch.bool)]
    assert attention.consensus(random_maps(), ROLES).item() == pytest.approx(pairs.mean().item())


def test_the_divergence_of_rows_is_their_mean_divergence_from_the_mean_row():
    rows = random_maps()[1:]
    divergence = (rows * (rows / rows.mean(dim=0)).log()).sum(dim=-1).mean()
    expected = 1 - divergence.item() / math.log(SIDE**2)
    assert attention.consensus_js(random_maps(), ROLES).item() == pytest.approx(expected)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_the_gap_is_what_one_step_takes_from_every_disagreement(kept):
    lazy_star = kept * torch.eye(T) + (1 - kept) * STAR
    round_trip = kept * torch.eye(T).roll(1, dims=1) + (1 - kept) * UNIFORM  # complex λ2
    for probabilities in (lazy_star, round_trip):
        assert attention.consensus_gap(probabilities).item() == pytest.approx(1 - kept, abs=1e-6)


def test_the_stationary_share_solves_its_equation():
    probabilities = random_maps()
    values, vectors = torch.linalg.eig(probabilities.mT)
    pi = vectors[:, values.abs().argmax()].real
    assert attention.cls_stationary(probabilities, ROLES).item() == pytest.approx(
        (pi[0] / pi.sum()).item(), rel=1e-9
    )


def hub_and_back():
    """Patches look at [CLS], and [CLS] at each patch: a walk that never settles."""
    probabilities = STAR.clone()
    probabilities[0] = 1 / (T - 1)
    probabilities[0, 0] = 0
    return probabilities


def half_end_at_cls():
    """98 patches end at [CLS], which keeps what it gets; the others keep what they have."""
    probabilities = torch.eye(T)
    probabilities[1:99] = STAR[1:99]
    return probabilities


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        (STAR, 1),
        (UNIFORM, 1 / T),
        (torch.eye(T), 1 / T),
        (torch.eye(T).roll(1, dims=1), 1 / T),
        (hub_and_back(), 1 / 2),
        (half_end_at_cls(), 99 / T),
    ],
    ids=["star", "uniform", "identity", "cyclic shift", "periodic", "reducible"],
)
def test_the_stationary_share_is_one_number_for_every_graph(probabilities, expected):
    assert attention.cls_stationary(probabilities, ROLES).item() == pytest.approx(
        expected, abs=1e-7
    )


def test_the_stationary_share_is_the_limit_of_pagerank():
    probabilities = half_end_at_cls().double()
    assert attention.cls_stationary(probabilities, ROLES).item() == pytest.approx(
        attention.cls_pagerank(probabilities, ROLES, damping=1 - 1e-8).item(), abs=1e-6
    )


def test_rounded_rows_leave_the_stationary_share_of_separate_groups_alone():
    third = torch.full((3, 3), 1 / 3)  # its float32 rows sum to a little more than 1
    probabilities = torch.block_diag(torch.eye(2), *[third] * 65)
    assert attention.cls_stationary(probabilities, ROLES).item() == pytest.approx(1 / T, rel=1e-8)


def test_head_summaries_have_one_number_for_each_head_of_each_image():
    probabilities = random_maps(3, 2)  # (image, head, query, key)
    summaries = attention.head_summaries(probabilities, ROLES)
    assert set(summaries) == {
        "cls_inflow",
        "cls_outflow_entropy",
        "consensus",
        "consensus_js",
        "distance",
        "entropy",
    }
    for name, values in summaries.items():
        alone = getattr(attention, name)(probabilities[2, 1], ROLES)
        assert values.shape == (3, 2)
        assert values[2, 1].item() == pytest.approx(alone.item(), rel=1e-12)


def test_the_sums_of_rows_are_enough_for_every_summary():
    """Maps that come in parts leave their sums, and the summaries are of all of them at once."""
    probabilities = random_maps(3, 2)
    parts = [
        attention.row_sums(part, ROLES, attention.entropy_of_rows(part), torch.empty_like(part))
        for part in probabilities.split(2)
    ]
    sums = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    expected = attention.head_summaries(probabilities, ROLES)
    found = attention.summaries(sums, ROLES)
    assert set(found) == set(expected)
    for name, values in found.items():
        torch.testing.assert_close(values, expected[name], rtol=1e-12, atol=0)


def test_separation_is_between_patches_alone_and_exact_in_each_type():
    for dtype in (torch.float32, torch.float64):
        apart = ROLES.separation(dtype)
        assert apart.dtype == dtype
        assert (apart[0] == 0).all() and (apart[:, 0] == 0).all()
        assert apart[1, 2] == 1 and apart[1, SIDE + 2] == torch.tensor(2, dtype=dtype).sqrt()
        assert torch.equal(apart, apart.T)


@pytest.mark.parametrize(("storage", "relative"), [(torch.float32, 1e-5), (torch.float16, 2e-3)])
def test_head_summaries_are_computed_in_float32_at_least(storage, relative):
    exact = attention.head_summaries(random_maps(2), ROLES)
    for name, values in attention.head_summaries(random_maps(2).to(storage), ROLES).items():
        assert values.dtype == torch.float32
        assert values.numpy() == pytest.approx(exact[name].numpy(), rel=relative)


def test_roles_follow_the_tokens_wherever_they_stand():
    order = np.random.default_rng(0).permutation(T)
    kinds = np.array(["cls"] + ["patch"] * SIDE**2)[order]
    row, column = (np.array([-1, *place])[order] for place in (GRID // SIDE, GRID % SIDE))
    moved = TokenRoles.of(kinds, row, column)
    probabilities = random_maps()
    expected = attention.head_summaries(probabilities, ROLES)
    for name, value in attention.head_summaries(probabilities[order][:, order], moved).items():
        assert value.item() == pytest.approx(expected[name].item(), rel=1e-12)


def test_without_cls_or_grid_the_rest_is_summarised():
    assert set(attention.head_summaries(UNIFORM, NO_CLS)) == {
        "consensus",
        "consensus_js",
        "entropy",
    }
    with pytest.raises(VitalsError, match="has none"):
        attention.cls_inflow(UNIFORM, NO_CLS)


def test_roles_go_to_a_device_whole():
    moved = ROLES.to("meta")
    assert (moved.tokens, moved.cls) == (T, 0)
    assert {x.device.type for x in (moved.patches, moved.row, moved.column)} == {"meta"}


@pytest.mark.parametrize(
    ("kinds", "message"),
    [(["cls", "cls", "patch", "patch"], "at most 1"), (["cls", "patch"], "at least 2 patch")],
)
def test_impossible_roles_are_refused(kinds, message):
    with pytest.raises(VitalsError, match=message):
        TokenRoles.of(kinds)
