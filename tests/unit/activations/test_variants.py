"""The passes that scrambling is held against."""

import numpy as np
import pytest
import torch

from small_shards import MACHINE, SETTINGS, subject_of
from vitals import study
from vitals.activations import variants
from vitals.activations.extract import extract
from vitals.activations.reader import open_tokens, open_variant
from vitals.activations.variants import with_shuffled_patches
from vitals.metrics import scrambling
from vitals.metrics.results import absences
from vitals.provenance import canonical


@pytest.fixture
def varied(tmp_path, digit_list):
    """The store of a variant of a model, and the tokens in it."""

    def run(model, variant):
        path = tmp_path / (variant or "plain") / "0.zarr"
        path.parent.mkdir(exist_ok=True)
        made_from = {"weights_digest": "w", "spec": canonical({"settings": {}}), "code": "c"}
        subject = subject_of(model)
        extract(subject, digit_list, 0, SETTINGS, path, made_from, MACHINE, variant)
        return path

    return run


def tokens(path, layer):
    opened = open_tokens(path)
    patches = opened["token_kind"].values == "patch"
    return opened["tokens"].sel(layer=layer).isel(token=patches).values


def test_shuffled_patches_keep_their_position_and_their_split(varied, small_vit, digit_list):
    model = small_vit()
    plain = tokens(varied(model, None), "embed")
    shuffled = tokens(varied(model, "patch_shuffled"), "embed")
    split = digit_list.table["split"].to_numpy()
    moved = 0
    for name in ("fit", "test"):
        before, after = plain[split == name], shuffled[split == name]
        for patch in range(16):
            np.testing.assert_allclose(
                *(np.sort(x[:, patch], axis=0) for x in (before, after)), atol=1e-5
            )
        moved += (abs(before - after).max(axis=2) > 1e-3).mean()
    assert moved > 1  # of 2: nearly every patch that differs between images


def test_shuffling_parts_what_patches_of_an_image_share():
    images = list(np.random.default_rng(0).standard_normal((200, 1, 1, 1)) * np.ones((1, 4, 4)))
    shuffled = np.stack(list(with_shuffled_patches(images, np.array(["fit"] * 200), (2, 2))))
    together = np.corrcoef(shuffled[:, 0, ::2, ::2].reshape(200, 4).T)
    assert abs(together - np.eye(4)).max() < 0.25


def test_an_image_that_is_left_out_stays_left_out():
    images = [np.zeros((1, 2, 2)), None, np.ones((1, 2, 2))]
    found = list(with_shuffled_patches(images, np.array(["fit"] * 3), (2, 2)))
    assert found[1] is None and np.stack([found[0], found[2]]).sum() == 4


def test_without_attention_no_token_learns_of_another(varied, small_vit, digit_list):
    """Each patch is what the model makes of it in whatever company."""
    model = small_vit()
    last = tokens(varied(model, "attention_off"), "block.1")

    def identity(attention):
        def forward(x, *_, **__):
            value = attention.qkv(x).unflatten(2, (3, -1))[:, :, 2]
            return attention.proj(value)

        return forward

    for block in model.blocks:
        block.attn.forward = identity(block.attn)
    seen = []
    model.blocks[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.inference_mode():
        model(subject_of(model).transform(torch.tensor(digit_list.pixels())))
    np.testing.assert_allclose(last, seen[0][:, 1:], atol=1e-4)


def test_a_model_whose_attention_cannot_be_caught_says_so(varied, small_vit, monkeypatch):
    monkeypatch.setattr("vitals.models.anatomy.ATTENTION", {type(small_vit().blocks[0].attn): "no"})
    model = small_vit()
    opened = open_variant(varied(model, "attention_off"))
    assert opened.attrs["absent"] == {"tokens": "no"}
    plain = open_tokens(varied(model, None))
    nulls = ("none", "attention_off")
    found = scrambling.compute(
        plain, nulls=nulls, variants={"attention_off": opened}, folds=2, penalties=(0.1,),
        bootstrap_samples=10,
    )  # fmt: skip
    assert absences(found)["attention_off"] == "no"


def test_the_index_without_attention_is_none(varied, small_vit):
    """What tokens do not exchange cannot be scrambled, whatever the blocks compute."""
    model = small_vit()
    plain = open_variant(varied(model, None))
    off = open_variant(varied(model, "attention_off"))
    found = scrambling.compute(
        plain, nulls=("none", "attention_off"), variants={"attention_off": off}, folds=2,
        penalties=(1.0,), bootstrap_samples=10,
    )  # fmt: skip
    assert found["null"].values.tolist() == ["none", "attention_off"]
    np.testing.assert_allclose(
        found["isi"].sel(null="attention_off", layer="position"), 0, atol=1e-3
    )


def test_a_study_can_ask_for_those_that_there_are():
    assert set(study.VARIANTS) == set(variants.VARIANTS)
