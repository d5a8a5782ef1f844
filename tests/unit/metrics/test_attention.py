"""The known answers of the [CLS] hub and of consensus, at float32 and from float16 storage."""

import math

import numpy as np
import pytest
import xarray as xr

from activation_datasets import (
    ODD_CHUNKS,
    attention_dataset,
    chunked,
    computed,
    every_tap,
    random_attention,
)
from vitals.errors import VitalsError
from vitals.metrics import attention, reducer
from vitals.metrics.results import absences

T, N, SIDE = 197, 196, 14
STORAGE = pytest.mark.parametrize("storage", [np.float32, np.float16])
PER_BLOCK = list(attention.VARIABLES)

UNIFORM = np.full((T, T), 1 / T)
STAR = np.tile(np.eye(T)[0], (T, 1))
IDENTITY = np.eye(T)
CYCLIC = np.roll(np.eye(T), 1, axis=1)
# Two halves of the patches that look at themselves alone, and [CLS] at [CLS]: no key is shared.
TWO_BLOCKS = np.zeros((T, T))
TWO_BLOCKS[0, 0] = 1
TWO_BLOCKS[1:99, 1:99] = TWO_BLOCKS[99:, 99:] = 1 / 98


def compute(blocks, storage=np.float64, **params):
    dataset = attention_dataset(blocks, storage=storage)
    return computed(attention.compute, dataset, bootstrap_samples=20, **params)


def mean_of(graph, storage=np.float64):
    return compute([graph], storage).mean("image").isel(block=0)


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (UNIFORM, (1, 1, 1)),
        (STAR, (1, 1, 1)),
        (IDENTITY, (0, 0, 0)),
        (CYCLIC, (0, 0, 0)),
        (TWO_BLOCKS, (0.4974, 0.8687, 0)),
    ],
    ids=["uniform", "star", "identity", "cyclic shift", "two blocks"],
)
@STORAGE
def test_consensus_is_known_for_five_graphs(graph, expected, storage):
    result = mean_of(graph, storage)
    found = [result[name].item() for name in ("consensus", "consensus_js", "consensus_gap")]
    assert found == pytest.approx(expected, abs=5e-5)


@STORAGE
def test_centrality_and_entropy_separate_the_star_from_the_uniform_graph(storage):
    star, uniform = mean_of(STAR, storage), mean_of(UNIFORM, storage)
    known = {
        "cls_inflow": (T, 1),
        "cls_pagerank": (0.850761, 1 / T),
        "cls_stationary": (1, 1 / T),
        "entropy": (0, 1),
        "cls_outflow_entropy": (0, 1),
        "rollout_cls": (T / 2, 1 / 2),
    }
    for name, (of_star, of_uniform) in known.items():
        assert star[name] == pytest.approx(of_star, abs=1e-6), name
        assert uniform[name] == pytest.approx(of_uniform, abs=1e-6), name


def test_a_walk_against_the_attention_would_not_find_the_hub():
    against = np.full(T, 1 / T)
    for _ in range(200):
        against = 0.85 * STAR @ against + 0.15 / T
    assert against[0] == pytest.approx(1 / T)
    assert mean_of(STAR)["cls_pagerank"] == pytest.approx(0.850761, abs=1e-6)


def test_consensus_is_over_pairs_of_two_patches():
    """With each row beside itself, and with that of [CLS], two blocks would be half alike."""
    unit = TWO_BLOCKS / np.linalg.norm(TWO_BLOCKS, axis=1, keepdims=True)
    careless = (unit[1:] @ unit[1:].T).mean()
    assert careless == pytest.approx(0.5)
    assert mean_of(TWO_BLOCKS)["consensus"] == pytest.approx(0.4974, abs=5e-5)


@pytest.mark.parametrize("graph", [IDENTITY, CYCLIC], ids=["identity", "cyclic shift"])
def test_a_walk_that_never_settles_shares_its_time_evenly(graph):
    assert mean_of(graph)["cls_stationary"] == pytest.approx(1 / T, abs=1e-9)


def test_a_hub_would_look_like_short_range_if_it_were_not_left_out():
    half = (UNIFORM + STAR) / 2
    grid = np.stack(np.divmod(np.arange(N), SIDE), axis=1)
    apart = np.linalg.norm(grid[:, None] - grid, axis=-1)
    careless = (half[1:, 1:] * apart).sum(axis=1).mean()
    assert careless < 0.51 * 7.280764
    assert mean_of(half)["distance"] == pytest.approx(7.280764, abs=1e-6)


@STORAGE
def test_uniform_attention_looks_seven_patches_far(storage):
    assert mean_of(UNIFORM, storage)["distance"] == pytest.approx(7.280764, abs=1e-6)
    assert mean_of((UNIFORM + STAR) / 2, storage)["distance"] == pytest.approx(7.280764, abs=1e-6)


def test_rounding_in_storage_is_taken_out_before_anything_is_computed():
    stored = UNIFORM.astype(np.float16).astype(float)
    assert abs(stored.sum(axis=1) - 1).max() > 1e-5
    assert mean_of(UNIFORM, np.float16)["cls_inflow"] == pytest.approx(1, abs=1e-12)


def test_a_swap_of_queries_and_keys_is_caught_by_the_star():
    with pytest.raises(VitalsError, match=r"block 1 must be .* sum to 1 over key.* sums to 197"):
        dataset = attention_dataset([UNIFORM, STAR.T]).assign_coords(block=[0, 1])
        attention.compute(dataset, bootstrap_samples=5)


def test_a_number_that_is_not_finite_is_refused():
    with pytest.raises(VitalsError, match=r"not all finite.*image-0"):
        mean_of(np.where(np.eye(T) > 0, np.nan, UNIFORM))


@pytest.mark.parametrize("wrong", [-0.5, 0.5])
def test_what_is_no_probability_is_refused(wrong):
    broken = UNIFORM.copy()
    broken[3, :2] = wrong, 2 / T - wrong if wrong < 0 else 1 / T
    with pytest.raises(VitalsError, match="must be probabilities"):
        mean_of(broken)


def test_rollout_goes_from_the_first_block_to_the_last():
    """Patches first take half of [CLS], then mix: the other order gives another number."""
    star_first = compute([STAR, UNIFORM])["rollout_cls"].isel(image=0)
    uniform_first = compute([UNIFORM, STAR])["rollout_cls"].isel(image=0)
    assert star_first.values == pytest.approx([T / 2, T / 2 + 1 / 4])
    assert uniform_first.values == pytest.approx([1 / 2, T / 4 + 1 / 2])


def test_rollout_is_a_column_of_the_product_of_half_attention_and_half_identity():
    values = random_attention(3, 4)
    rollout = np.eye(10)
    for block in values[:, 2]:
        rollout = (block + np.eye(10)) / 2 @ rollout
    found = attention.compute(attention_dataset(values), bootstrap_samples=5)
    expected = 10 * rollout[1:, 0].mean()
    assert found["rollout_cls"][-1, 2].item() == pytest.approx(expected, abs=1e-12)


def test_identity_attention_lets_nothing_of_cls_through():
    assert (compute([IDENTITY] * 3)["rollout_cls"] == 0).all()


def fading_hub(blocks, images=3):
    """Patches give [CLS] 1, 1 − 1/(L−1), … 0 of their attention, and keep the rest."""
    return [(s * STAR + (1 - s) * IDENTITY)[:50, :50] for s in np.linspace(1, 0, blocks)]


def test_marginalization_is_the_slope_of_the_inflow_over_relative_depth():
    result = compute(fading_hub(5))
    assert result["marginalization"] == pytest.approx(-50)  # from T shares to none, over one depth
    assert result["marginalization_low"] == pytest.approx(-50)
    assert (result["marginalization_max_depth"], result["marginalization_min_depth"]) == (0, 4)
    assert result["marginalization_draws"].dims == ("draw",)
    assert result["marginalization_draws"].sizes["draw"] == 20


def test_marginalization_does_not_depend_on_the_number_of_blocks():
    assert compute(fading_hub(9))["marginalization"] == pytest.approx(-50)


def test_the_intervals_hold_the_means():
    result = attention.compute(attention_dataset(random_attention(3, 30)))
    for name in PER_BLOCK:
        mean = result[name].mean("image")
        assert result[name].dims == ("block", "image")
        assert (result[f"{name}_low"] < mean).all() and (mean < result[f"{name}_high"]).all()
    low, high = result["marginalization_low"], result["marginalization_high"]
    assert low < result["marginalization"] < high
    drawn = result["marginalization_draws"].quantile([0.025, 0.975]).values
    assert drawn == pytest.approx([low.item(), high.item()], rel=1e-5)


def test_one_block_has_no_slope():
    result = compute([UNIFORM])
    assert "marginalization" not in result
    assert absences(result)["marginalization"] == "one block has no slope over depth"


def test_without_cls_its_measures_are_absent_and_the_rest_is_there():
    dataset = attention_dataset(random_attention(3, 4), prefix=("register",))
    result = attention.compute(dataset, bootstrap_samples=5)
    of_cls = {name for name in PER_BLOCK if "cls" in name}
    missing = of_cls | set(attention.MARGINALIZATION) | {"cls_patch_cosine"}
    assert set(absences(result)) == missing
    assert not missing & set(result.variables)
    assert set(PER_BLOCK) - of_cls <= set(result.variables)


def test_without_a_grid_the_distance_is_absent():
    dataset = attention_dataset(random_attention(3, 4)).drop_vars(["row", "column"])
    result = attention.compute(dataset, bootstrap_samples=5)
    assert "distance" not in result
    assert absences(result)["distance"] == "the patches have no row and column"


def test_an_image_whose_patches_look_at_no_patch_takes_no_part_in_the_distance():
    blocks = [np.stack([STAR, UNIFORM])]
    result = attention.compute(attention_dataset(blocks), bootstrap_samples=20)
    assert np.isnan(result["distance"][0, 0])
    assert result["distance"].mean("image").item() == pytest.approx(7.280764, abs=1e-6)


def test_registers_are_keys_but_no_patches():
    values = random_attention(3, 4, tokens=12)
    result = attention.compute(
        attention_dataset(values, prefix=("cls", "register", "register")), bootstrap_samples=5
    )
    patch_rows = values[:, :, 3:]
    assert result["cls_inflow"].values == pytest.approx(12 * patch_rows[..., 0].mean(axis=-1))
    entropy = -(patch_rows * np.log(patch_rows)).sum(axis=-1).mean(axis=-1) / math.log(12)
    assert result["entropy"].values == pytest.approx(entropy)


def with_tokens(dataset, cls, layers=("embed", "position")):
    shape = (len(layers), dataset.sizes["image"], 10, 6)
    tokens = np.random.default_rng(1).standard_normal(shape)
    tokens[:, :, 0] = cls * tokens[:, :, 1:].mean(axis=2)
    return dataset.assign(tokens=(("layer", "image", "token", "channel"), tokens)).assign_coords(
        layer=list(layers)
    )


@pytest.mark.parametrize("cls", [3.0, -0.1])
def test_a_cls_along_the_mean_patch_has_cosine_one(cls):
    dataset = with_tokens(attention_dataset(random_attention(3, 4)), cls)
    result = attention.compute(dataset, bootstrap_samples=5)["cls_patch_cosine"]
    assert result.dims == ("layer", "image")
    assert list(result["layer"]) == ["embed", "position"]
    assert result.values == pytest.approx(np.full((2, 4), np.sign(cls)))


def test_a_cls_of_zero_has_no_cosine():
    dataset = with_tokens(attention_dataset(random_attention(3, 4)), 0.0)
    assert attention.compute(dataset, bootstrap_samples=5)["cls_patch_cosine"].isnull().all()


def test_without_tokens_the_cosine_is_absent():
    assert absences(compute([UNIFORM]))["cls_patch_cosine"] == "the dataset holds no tokens"


def test_the_cosine_is_at_every_tap_and_the_rest_at_every_block():
    names, depth = every_tap(3)
    dataset = with_tokens(attention_dataset(random_attention(3, 4)), 1.0, names)
    dataset = dataset.assign_coords(depth=("layer", depth))
    result = attention.compute(dataset, bootstrap_samples=5)
    assert list(result["cls_patch_cosine"]["layer"]) == names
    assert list(result["cls_patch_cosine"]["depth"]) == list(depth)
    assert result["depth"].dtype == np.float64
    assert result["cls_patch_cosine"].values == pytest.approx(1)
    alone = attention.compute(attention_dataset(random_attention(3, 4)), bootstrap_samples=5)
    for name in (*PER_BLOCK, "marginalization", "marginalization_max_depth"):
        xr.testing.assert_identical(result[name].variable, alone[name].variable)


TALKING_HEADS = "the heads of a block are mixed after the softmax"


def without_attention(dataset, reason=TALKING_HEADS):
    """What a store of a model whose attention cannot be caught opens as."""
    return dataset.drop_dims(["block", "query", "key"]).assign_attrs(absent={"attention": reason})


def test_attention_that_the_store_does_not_hold_is_absent_for_its_reason():
    tokens = without_attention(with_tokens(attention_dataset(random_attention(3, 4)), 1.0))
    pooled = xr.Dataset(attrs={"absent": {"attention": TALKING_HEADS}})
    result = attention.compute(tokens, pooled=pooled, bootstrap_samples=5)
    assert set(result.data_vars) == {f"cls_patch_cosine{end}" for end in ("", "_low", "_high")}
    assert result["cls_patch_cosine"].values == pytest.approx(1)
    heads = {f"{name}_head" for name in attention.HEAD_VARIABLES}
    assert set(absences(result)) == {*PER_BLOCK, *attention.MARGINALIZATION, *heads}
    assert set(absences(result).values()) == {TALKING_HEADS}
    assert result.attrs["tokens"] == 10 and result.attrs["patches"] == 9


def test_neither_cls_nor_attention_leaves_a_result_of_reasons_alone():
    dataset = without_attention(attention_dataset(random_attention(3, 4), prefix=("register",)))
    result = attention.compute(dataset, bootstrap_samples=5)
    assert not result.data_vars
    reasons = absences(result)
    assert reasons["consensus"] == reasons["distance"] == TALKING_HEADS
    assert reasons["cls_inflow"] == reasons["cls_patch_cosine"] == "the model has no [CLS] token"


def test_attention_that_is_missing_without_a_reason_is_an_error():
    dataset = with_tokens(attention_dataset(random_attention(3, 4)), 1.0).drop_vars("attention")
    with pytest.raises(VitalsError, match="lacks attention"):
        attention.compute(dataset)


def test_heads_that_only_the_pooled_tier_lacks_are_absent_for_its_reason():
    pooled = xr.Dataset(attrs={"absent": {"attention": TALKING_HEADS}})
    dataset = attention_dataset(random_attention(3, 4))
    result = attention.compute(dataset, pooled=pooled, bootstrap_samples=5)
    assert absences(result)["consensus_head"] == TALKING_HEADS
    assert "consensus" in result


def test_heads_are_means_over_the_images_of_the_pooled_tier():
    inflow = np.random.default_rng(0).random((3, 50, 2), dtype=np.float32)
    pooled = xr.Dataset({"attention_cls_inflow": (("block", "image", "head"), inflow)})
    dataset = attention_dataset(random_attention(3, 4))  # four images, not fifty
    result = attention.compute(dataset, pooled=pooled.chunk(image=7), bootstrap_samples=100)
    heads = result["cls_inflow_head"]
    assert heads.dims == ("block", "head")
    assert heads.values == pytest.approx(inflow.mean(axis=1), abs=1e-6)
    assert (result["cls_inflow_head_low"] < heads).all()
    assert (heads < result["cls_inflow_head_high"]).all()
    assert absences(result)["entropy_head"] == "the pooled tier holds no attention_entropy"


def test_a_head_that_never_looks_at_patches_has_no_distance():
    distance = np.stack([np.full((3, 4), np.nan), np.ones((3, 4))], axis=2)
    pooled = xr.Dataset({"attention_distance": (("block", "image", "head"), distance)})
    dataset = attention_dataset(random_attention(3, 4))
    result = attention.compute(dataset, pooled=pooled, bootstrap_samples=5)["distance_head"]
    assert result.isel(head=0).isnull().all()
    assert (result.isel(head=1) == 1).all()


@pytest.mark.parametrize("chunks", ODD_CHUNKS)
def test_chunks_laziness_and_the_order_of_dims_change_nothing(chunks):
    dataset = with_tokens(attention_dataset(random_attention(3, 5)), 1.0)
    lazy = chunked(dataset.transpose("key", "query", "token", "image", ...), chunks)
    whole, parts = (attention.compute(d, bootstrap_samples=5) for d in (dataset, lazy))
    xr.testing.assert_allclose(whole, parts, rtol=1e-12)


def test_small_pieces_in_memory_change_nothing(monkeypatch):
    dataset = attention_dataset(random_attention(3, 7))
    whole = attention.compute(dataset, bootstrap_samples=5)
    monkeypatch.setattr(reducer, "NUMBERS_PER_BLOCK", 200)  # two images at a time
    xr.testing.assert_allclose(whole, attention.compute(dataset, bootstrap_samples=5))


def test_every_variable_says_what_it_is():
    result = compute([UNIFORM, STAR])
    for name, variable in result.data_vars.items():
        assert {"long_name", "units", "status", "source"} <= set(variable.attrs), name
        assert variable.attrs["status"] == "reconstructed"


def test_token_roles_of_another_length_are_refused():
    dataset = attention_dataset([UNIFORM]).isel(token=slice(1, None))
    with pytest.raises(VitalsError, match="each of 196 tokens, found 197 × 197"):
        attention.compute(dataset)


def test_token_roles_are_needed():
    with pytest.raises(VitalsError, match="lacks token_kind"):
        attention.compute(attention_dataset([UNIFORM]).drop_vars("token_kind"))
