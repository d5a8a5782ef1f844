"""Folding a block's queries and keys gives what its whole attention maps would, tile by tile."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vitals.activations import attention, folding
from vitals.activations.attention import TokenRoles
from vitals.activations.host import Buffers
from vitals.errors import VitalsError

T, SIDE = 197, 14
NONE = torch.arange(0)


def roles_on_a_grid(side, *prefix):
    place = np.arange(side**2)
    fill = [-1] * len(prefix)
    kinds = [*prefix, *["patch"] * side**2]
    return TokenRoles.of(kinds, [*fill, *(place // side)], [*fill, *(place % side)])


ROLES = roles_on_a_grid(SIDE, "cls")
SMALL = roles_on_a_grid(4, "cls")  # 17 tokens

STAR = F.one_hot(torch.zeros(T, dtype=torch.long), T).float()
UNIFORM = torch.full((T, T), 1 / T)
CYCLIC = torch.eye(T).roll(1, dims=1)
TWO_BLOCKS = torch.block_diag(torch.ones(1, 1), *[torch.full((98, 98), 1 / 98)] * 2)


def queries_and_keys(images=5, heads=3, tokens=17, channels=8, seed=0):
    """As a projection leaves them: (image, head, token, channel) over memory in another order."""
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(images, tokens, 2, heads, channels, generator=generator)
    return (1.5 * qkv).permute(2, 0, 3, 1, 4).unbind()


def reference(query, key, scale, mask=None):
    """softmax(QKᵀ·scale + mask) in float64, all maps at once."""
    scores = query.double() @ key.double().mT * scale
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, -torch.inf)
    elif mask is not None:
        scores = scores + mask.double()
    return scores.softmax(dim=-1)


def assert_folds(folded, maps, roles, whole, within=1e-6):
    """What was folded is what the maps (image, head, query, key) give in float64."""
    expected = attention.head_summaries(maps, roles)
    assert set(folded.summaries) == set(expected)
    for name, values in folded.summaries.items():
        assert values.shape == maps.shape[:2]
        difference = (values - expected[name]).abs() / expected[name].abs().clamp(min=1)
        assert difference.max() < within, name
    assert folded.total.dtype == torch.float64
    for found, known in (
        (folded.mean, maps.mean(dim=1)),
        (folded.total / len(maps), maps.mean(dim=0)),
        (folded.heads, maps[whole]),
    ):
        assert found.shape == known.shape
        assert found.numel() == 0 or (found - known).abs().max() < within


@pytest.mark.parametrize("tokens_and_roles", [(17, SMALL), (T, ROLES)], ids=["17", "197"])
@pytest.mark.parametrize("scale", [8**-0.5, 1.0])
def test_folding_is_reducing_the_whole_maps(tokens_and_roles, scale):
    tokens, roles = tokens_and_roles
    query, key = queries_and_keys(tokens=tokens)
    whole = torch.tensor([3, 0])
    folded = folding.fold(query, key, scale, None, roles, whole)
    assert_folds(folded, reference(query, key, scale), roles, whole)


@pytest.mark.parametrize(
    "mask",
    [
        torch.rand(17, 17, generator=torch.Generator().manual_seed(1)) > 0.3,
        torch.rand(5, 1, 17, 17, generator=torch.Generator().manual_seed(1)) > 0.3,
        torch.randn(17, 17, generator=torch.Generator().manual_seed(2)),
        torch.randn(1, 3, 17, 17, generator=torch.Generator().manual_seed(2)),
        torch.randn(5, 1, 1, 17, generator=torch.Generator().manual_seed(2)),
        torch.zeros(17, 17).masked_fill(torch.ones(17, 17).triu(1).bool(), -torch.inf),
        torch.randn(1, 3, 17, 17, generator=torch.Generator().manual_seed(2)).half(),
    ],
    ids=[
        "allowed",
        "allowed by image",
        "added",
        "added by head",
        "added by image",
        "added -inf",
        "added in float16",
    ],
)
def test_a_mask_takes_part_in_the_probabilities(mask):
    query, key = queries_and_keys()
    whole = torch.arange(5)
    folded = folding.fold(query, key, 0.3, mask, SMALL, whole)
    assert_folds(folded, reference(query, key, 0.3, mask), SMALL, whole)


def test_a_query_that_may_look_nowhere_has_no_probabilities():
    query, key = queries_and_keys()
    mask = torch.ones(17, 17, dtype=torch.bool)
    mask[4] = False
    folded = folding.fold(query, key, 0.3, mask, SMALL, NONE)
    assert folded.mean[:, 4].isnan().all()
    assert not folded.mean[:, [0, 1, 2, 3, 5]].isnan().any()
    assert folded.summaries["entropy"].isnan().all()


NEVER = -1e4  # as good as forbidden, in a score


@pytest.mark.parametrize(
    ("graph", "known"),
    [
        (UNIFORM, {"consensus": 1, "consensus_js": 1, "entropy": 1, "cls_inflow": 1}),
        (STAR, {"consensus": 1, "consensus_js": 1, "entropy": 0, "cls_inflow": T}),
        (torch.eye(T), {"consensus": 0, "consensus_js": 0, "entropy": 0, "distance": 0}),
        (CYCLIC, {"consensus": 0, "consensus_js": 0, "entropy": 0, "cls_outflow_entropy": 0}),
        (
            TWO_BLOCKS,
            {
                "consensus": (2 * 98 * 97) / (196 * 195),
                "consensus_js": 1 - math.log(2) / math.log(196),
                "entropy": math.log(98) / math.log(T),
                "cls_inflow": 0,
            },
        ),
        (UNIFORM, {"distance": 7.280764, "cls_outflow_entropy": 1}),
        ((UNIFORM + STAR) / 2, {"distance": 7.280764}),
    ],
    ids=["uniform", "star", "identity", "cyclic shift", "two blocks", "uniform far", "half star"],
)
@pytest.mark.parametrize("never", [NEVER, -torch.inf])
def test_the_known_graphs_have_their_known_summaries(graph, known, never):
    query, key = queries_and_keys(images=2, heads=2, tokens=T)
    scores = graph.clamp(min=1e-30).log().masked_fill(graph == 0, never)
    folded = folding.fold(query * 0, key, 1.0, scores, ROLES, torch.tensor([1]))
    for name, value in known.items():
        assert folded.summaries[name].numpy() == pytest.approx(value, rel=1e-6, abs=2e-6), name
    torch.testing.assert_close(folded.heads[0, 1], graph, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(folded.mean[0], graph, rtol=1e-6, atol=1e-7)


def test_a_star_alone_looks_at_no_patch_and_has_no_distance():
    query, key = queries_and_keys(images=2, heads=2, tokens=T)
    scores = torch.zeros(T, T).masked_fill(STAR == 0, -torch.inf)
    folded = folding.fold(query * 0, key, 1.0, scores, ROLES, NONE)
    assert folded.summaries["distance"].isnan().all()


def test_a_swap_of_queries_and_keys_is_caught_by_the_star():
    """All keys but that of [CLS] are 0: every query looks at [CLS], and not the reverse."""
    query, key = torch.ones(1, 1, T, 4), torch.zeros(1, 1, T, 4)
    key[:, :, 0] = 100
    assert folding.fold(query, key, 1.0, None, ROLES, NONE).summaries["cls_inflow"] == T
    swapped = folding.fold(key, query, 1.0, None, ROLES, NONE)
    assert swapped.summaries["cls_inflow"].item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("largest", [100.0, 1e4])
def test_large_scores_lose_no_entropy(largest):
    """Two keys of the same score, far above the rest or far below zero: the entropy is log 2."""
    known = math.log(2) / math.log(17)
    for level in (largest, -largest):
        scores = torch.full((17, 17), level - largest)
        scores[:, :2] = level
        query, key = queries_and_keys()
        folded = folding.fold(query * 0, key, 1.0, scores, SMALL, NONE)
        assert folded.summaries["entropy"].numpy() == pytest.approx(known, rel=1e-6)


# 289 numbers a map of 17 tokens: less than a map, a map, two of three heads, two images
@pytest.mark.parametrize("numbers", [1, 289, 2 * 289, 6 * 289 + 50])
@pytest.mark.parametrize("masked", [False, True])
def test_the_size_of_a_tile_changes_nothing(monkeypatch, numbers, masked):
    query, key = queries_and_keys(images=5)
    mask = torch.randn(5, 3, 17, 17) if masked else None
    whole = torch.tensor([4, 1])
    once = folding.fold(query, key, 0.3, mask, SMALL, whole)
    monkeypatch.setattr(folding, "NUMBERS_PER_TILE", numbers)
    tiled = folding.fold(query, key, 0.3, mask, SMALL, whole)
    for name, values in once.summaries.items():
        torch.testing.assert_close(tiled.summaries[name], values, rtol=2e-6, atol=2e-6)
    for part in ("mean", "total", "heads"):
        torch.testing.assert_close(getattr(tiled, part), getattr(once, part), rtol=1e-6, atol=1e-6)
    assert_folds(tiled, reference(query, key, 0.3, mask), SMALL, whole)


@pytest.mark.parametrize("numbers", [289, 3 * 289, 2**20])
def test_a_sum_over_many_images_keeps_the_digits_of_float64(monkeypatch, numbers):
    monkeypatch.setattr(folding, "NUMBERS_PER_TILE", numbers)
    query, key = queries_and_keys(images=1, heads=3)
    image = folding.fold(query, key, 0.3, None, SMALL, NONE).total
    query, key = (x.expand(300, -1, -1, -1) for x in (query, key))
    many = folding.fold(query, key, 0.3, None, SMALL, NONE)
    torch.testing.assert_close(many.total, 300 * image, rtol=1e-6, atol=0)


def test_no_more_than_two_tiles_are_in_memory(monkeypatch):
    """The largest tensor that is made is one tile's scores and probabilities."""
    made = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and not func.is_view:
                made.append(result.numel())
            return result

    monkeypatch.setattr(folding, "NUMBERS_PER_TILE", 6 * 289)
    query, key = queries_and_keys(images=40)
    with Sizes():
        folding.fold(query, key, 0.3, None, SMALL, NONE)
    assert max(made) == max(2 * 6 * 289, 40 * 289)  # or the mean over heads of every image


@pytest.mark.parametrize("masked", [False, True])
def test_memory_that_is_used_again_leaves_nothing_behind(masked):
    query, key = queries_and_keys(images=40)
    mask = torch.randn(17, 17) if masked else None
    whole, buffers = torch.tensor([2]), Buffers(query.device)
    known = reference(query, key, 0.3, mask)
    first, second = (folding.fold(query, key, 0.3, mask, SMALL, whole, buffers) for _ in range(2))
    assert_folds(first, known, SMALL, whole)  # the second has not taken what the first still has
    given = {part.fill_(torch.nan).data_ptr() for part in (first.mean, first.total)}
    buffers.give(first.mean)
    buffers.give(first.total)
    third = folding.fold(query, key, 0.3, mask, SMALL, whole, buffers)
    assert {third.mean.data_ptr(), third.total.data_ptr()} == given
    for folded in (second, third):
        assert_folds(folded, known, SMALL, whole)


def test_registers_and_a_missing_cls_fold_as_their_roles_say():
    query, key = queries_and_keys(tokens=18)
    for prefix in (("cls", "register"), ("register", "register"), ("cls", "distillation")):
        roles = roles_on_a_grid(4, *prefix)
        folded = folding.fold(query, key, 0.3, None, roles, NONE)
        assert ("cls_inflow" in folded.summaries) == ("cls" in prefix)
        assert_folds(folded, reference(query, key, 0.3), roles, NONE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_left_at_the_door(dtype):
    query, key = (x.to(dtype) for x in queries_and_keys())
    whole = torch.arange(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        folded = folding.fold(query, key, 0.3, None, SMALL, whole)
    assert {folded.mean.dtype, folded.heads.dtype} == {torch.float32}
    assert_folds(folded, reference(query, key, 0.3), SMALL, whole)


def test_queries_and_keys_are_left_as_they_were():
    query, key = (x.contiguous() for x in queries_and_keys())
    mask = torch.randn(5, 3, 17, 17)
    before = [x.clone() for x in (query, key, mask)]
    folding.fold(query, key, 0.3, mask, SMALL, NONE)
    for now, then in zip((query, key, mask), before, strict=True):
        assert torch.equal(now, then)


def test_calls_of_one_block_join_along_their_heads():
    query, key = queries_and_keys(heads=5)
    whole = torch.tensor([2])
    parts = [
        folding.fold(query[:, some], key[:, some], 0.3, None, SMALL, whole)
        for some in (slice(0, 2), slice(2, 5))
    ]
    assert_folds(folding.join(parts), reference(query, key, 0.3), SMALL, whole)


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("masked", ["no mask", "bool", "float"])
def test_the_arguments_of_the_fused_kernel_give_its_probabilities(scale, masked):
    query, key, value = torch.randn(3, 2, 4, 17, 8).unbind()
    mask = {
        "no mask": None,
        "bool": (torch.rand(17, 17) > 0.3) | torch.eye(17, dtype=torch.bool),
        "float": torch.randn(17, 17),
    }[masked]
    call = folding.from_call(query, key, value, attn_mask=mask, scale=scale)
    found = folding.fold(*call, SMALL, torch.arange(2)).heads
    expected = F.scaled_dot_product_attention(query, key, value, mask, scale=scale)
    torch.testing.assert_close(found @ value, expected)


@pytest.mark.parametrize(
    "argument", [{"is_causal": True}, {"enable_gqa": True}, {"dropout_p": 0.1}]
)
def test_attention_of_another_kind_is_refused(argument):
    with pytest.raises(VitalsError, match="causal or grouped, or with dropout"):
        folding.from_call(*torch.randn(3, 1, 1, 4, 8), **argument)


@pytest.mark.parametrize(("queries", "keys"), [(17, 16), (16, 17), (16, 16)])
def test_other_tokens_than_those_of_the_model_are_refused(queries, keys):
    with pytest.raises(VitalsError, match=f"{queries} queries to {keys} keys, expected the 17"):
        folding.fold(
            torch.zeros(1, 1, queries, 4), torch.zeros(1, 1, keys, 4), 1.0, None, SMALL, NONE
        )
