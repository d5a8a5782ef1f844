"""The known answers of the position ratio."""

import numpy as np
import pytest
import xarray as xr

from activation_datasets import ODD_CHUNKS, chunked, computed, tokens_dataset
from vitals.errors import VitalsError
from vitals.metrics import position
from vitals.metrics.results import absences

N, D = 16, 8
STORAGE = pytest.mark.parametrize("storage", [np.float32, np.float16])
TOLERANCE = {np.float32: 1e-6, np.float16: 1e-3}


def random_tokens(seed=0, images=20, tokens=N):
    return np.random.default_rng(seed).standard_normal((images, tokens, D))


def dataset_of(tokens, embedding, storage=np.float64, **kinds):
    dataset = tokens_dataset([np.asarray(tokens, dtype=storage)], **kinds)
    return dataset.assign(position_embedding=(("token", "channel"), embedding.astype(storage)))


@STORAGE
def test_a_position_embedding_of_the_same_norms_has_a_ratio_of_its_scale(storage):
    tokens = random_tokens(images=1)
    dataset = dataset_of(tokens, 3 * tokens[0], storage)
    result = computed(position.compute, dataset, bootstrap_samples=5)
    assert result["dominance"] == pytest.approx(3, abs=TOLERANCE[storage])
    assert result["dominance_centered"] == pytest.approx(3, abs=TOLERANCE[storage])


def test_a_vector_shared_by_all_positions_counts_only_before_centring():
    tokens = random_tokens() - random_tokens().mean(axis=1, keepdims=True)
    shared = np.tile(np.full(D, 5.0), (N, 1))
    result = position.compute(dataset_of(tokens, shared), bootstrap_samples=5)
    assert result["dominance"] == pytest.approx(
        5 * D**0.5 / np.linalg.norm(tokens, axis=-1).mean(), abs=1e-12
    )
    assert result["dominance_centered"] == pytest.approx(0, abs=1e-12)


@STORAGE
def test_token_norms_stand_on_both_sides(storage):
    tokens, embedding = np.broadcast_to(2 * np.eye(N), (4, N, N)), np.eye(N)
    dataset = dataset_of(tokens, embedding, storage)
    result = computed(position.compute, dataset, bootstrap_samples=5)
    assert result["dominance"] == pytest.approx(0.5, abs=1e-12)
    mixed = np.linalg.norm(embedding) / np.linalg.norm(tokens, axis=-1).mean()
    assert mixed == pytest.approx(0.5 * N**0.5)


def test_norms_are_averaged_and_not_the_tokens():
    tokens = np.concatenate([random_tokens(), -random_tokens()])
    assert np.linalg.norm(tokens.mean(axis=0)) < 1e-12
    result = position.compute(dataset_of(tokens, random_tokens(1, 1)[0]), bootstrap_samples=5)
    expected = np.linalg.norm(random_tokens(1, 1), axis=-1).mean()
    expected /= np.linalg.norm(random_tokens(), axis=-1).mean()
    assert result["dominance"] == pytest.approx(expected, abs=1e-12)


def test_prefix_tokens_take_no_part():
    tokens, embedding = random_tokens(), random_tokens(1, 1)[0]
    plain = position.compute(dataset_of(tokens, embedding), bootstrap_samples=5)
    prefix = np.full((20, 1, D), 100.0)
    prefixed = dataset_of(
        np.concatenate([prefix, tokens], axis=1),
        np.concatenate([prefix[0], embedding]),
        prefix=("cls",),
    )
    xr.testing.assert_identical(position.compute(prefixed, bootstrap_samples=5), plain)


def test_a_model_without_position_embedding_has_no_ratio_and_says_why():
    dataset = tokens_dataset([random_tokens()])
    result = position.compute(dataset)
    assert not result.data_vars
    assert set(absences(result)) == {"dominance", "dominance_centered"}
    assert "adds no position embedding" in absences(result)["dominance"]
    rotary = dataset.assign_attrs(absent={"position_embedding": "its positions are rotary"})
    assert absences(position.compute(rotary))["dominance"] == "its positions are rotary"


def states(tokens, embedding, *layers, storage=np.float64):
    """Tap "embed", and further taps by name."""
    names, values = zip(("embed", tokens), *layers, strict=True)
    dataset = tokens_dataset([np.asarray(v, dtype=storage) for v in values], names=list(names))
    return dataset.assign(position_embedding=(("token", "channel"), embedding))


@STORAGE
def test_a_norm_that_follows_positions_takes_no_part(storage):
    tokens, embedding = random_tokens(), 2 * random_tokens(1, 1)[0]
    added = tokens + embedding
    normed = added / np.linalg.norm(added, axis=-1, keepdims=True)
    clip = states(tokens, embedding, ("norm_pre", added), ("position", normed), storage=storage)
    plain = states(tokens, embedding, ("position", added), storage=storage)
    xr.testing.assert_identical(
        *(position.compute(dataset, bootstrap_samples=5) for dataset in (clip, plain))
    )


def test_positions_that_are_not_what_is_added_are_absent_with_the_difference():
    tokens, embedding = random_tokens(), random_tokens(1, 1)[0]
    scaled = states(tokens, embedding, ("position", 30 * tokens + embedding))
    result = position.compute(scaled)
    assert not result.data_vars
    assert "'position' is not tap 'embed' plus" in absences(result)["dominance_centered"]


def test_a_ratio_to_nothing_is_absent():
    result = position.compute(dataset_of(np.ones((4, N, D)), random_tokens(1, 1)[0]))
    assert "dominance" in result
    assert "zero" in absences(result)["dominance_centered"]


def test_the_interval_holds_the_ratio_and_the_draws_are_kept():
    result = position.compute(dataset_of(random_tokens(), random_tokens(1, 1)[0]))
    for name in position.VARIABLES:
        assert result[f"{name}_low"] < result[name] < result[f"{name}_high"]
        assert result[f"{name}_draws"].dims == ("draw",)


@pytest.mark.parametrize("chunks", ODD_CHUNKS)
def test_chunks_and_laziness_change_nothing(chunks):
    dataset = dataset_of(random_tokens(), random_tokens(1, 1)[0])
    xr.testing.assert_identical(
        position.compute(dataset, bootstrap_samples=5),
        position.compute(chunked(dataset, chunks), bootstrap_samples=5),
    )


def test_a_dataset_without_the_embedding_layer_is_refused():
    dataset = dataset_of(random_tokens(), random_tokens(1, 1)[0]).assign_coords(layer=["block.0"])
    with pytest.raises(VitalsError, match=r"needs a layer 'embed', found block.0"):
        position.compute(dataset)


def test_a_single_patch_is_refused():
    with pytest.raises(VitalsError, match="at least 2 patch tokens, found 1"):
        position.compute(dataset_of(random_tokens(tokens=1), random_tokens(1, 1, 1)[0]))
