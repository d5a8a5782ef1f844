"""What a pass finds of each image is what the store gives, in any batches, shards and order."""

from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr

import vitals
from vitals.activations.capture import Taps
from vitals.activations.extract import Machine, Subject, extract
from vitals.activations.layout import Settings
from vitals.activations.streaming import Streamed
from vitals.catalogue import METRICS
from vitals.errors import VitalsError
from vitals.metrics import attention, files, position, similarity, streamed, streaming
from vitals.metrics.attention_measures import AttentionMeasures
from vitals.metrics.embedding_norms import EmbeddingNorms
from vitals.metrics.token_similarity import TokenSimilarity
from vitals.models import build
from vitals.models.anatomy import anatomy
from vitals.provenance import canonical

SETTINGS = Settings(60, None, 0, True, False, "float32", "float32", "none", None, False)
MACHINE = Machine(torch.device("cpu"), batch=17)
SAMPLES = {"bootstrap_samples": 20}
STREAMED = {
    "similarity": (similarity, partial(TokenSimilarity, outlier_mads=5.0)),
    "position": (position, EmbeddingNorms),
    "attention": (attention, partial(AttentionMeasures, damping=0.85)),
}
EVERY = pytest.mark.parametrize("metric", STREAMED)


def subject_of(model):
    return Subject("model", model, build.transform(model), None, np.arange(10))


def stored(folder, model, images, metric, **changes):
    """The result from the tokens of all images in a store."""
    settings = replace(SETTINGS, **changes)
    made_from = {
        "spec": canonical({"settings": asdict(settings)}),
        "code": "",
        "weights_digest": "",
    }
    shard = folder / "stored" / "0.zarr"
    extract(subject_of(model), images, 0, settings, shard, made_from, MACHINE)
    tiers = {"tokens": vitals.open_tokens(shard), "pooled": vitals.open_pooled(shard)}
    besides = {"pooled": tiers["pooled"]} if metric == "attention" else {}
    return STREAMED[metric][0].compute(tiers["tokens"], **besides, **SAMPLES), tiers


def values_of(model, images, metric, batch=17, **changes):
    settings = asdict(replace(SETTINGS, **changes))
    machine = replace(MACHINE, batch=batch)
    make = STREAMED[metric][1]
    return streaming.values_of(make, subject_of(model), images, settings, machine)


def finished(values, tiers, metric):
    besides = {tier: tiers[tier] for tier in METRICS[metric].besides}
    return STREAMED[metric][0].finish(values, **besides, **SAMPLES)


def assert_same(found, expected, tolerance):
    assert set(found.variables) == set(expected.variables)
    assert found.attrs == expected.attrs
    for name, variable in expected.variables.items():
        assert found[name].dims == variable.dims
        assert found[name].attrs == variable.attrs
        if variable.dtype.kind == "f":
            np.testing.assert_allclose(
                found[name].values, variable.values, rtol=tolerance, atol=tolerance, err_msg=name
            )
        else:
            np.testing.assert_array_equal(found[name].values, variable.values, err_msg=name)


def test_these_are_the_metrics_that_can_be_streamed():
    assert {name for name, metric in METRICS.items() if metric.reducer} == set(STREAMED)


@EVERY
def test_a_pass_gives_what_the_store_gives(tmp_path, family, digit_list, metric):
    model = family[0]
    expected, tiers = stored(tmp_path, model, digit_list, metric)
    found = finished(values_of(model, digit_list, metric), tiers, metric)
    assert_same(found, expected, 1e-5)


@EVERY
def test_of_a_store_in_float16_it_differs_by_its_rounding(tmp_path, small_vit, digit_list, metric):
    expected, tiers = stored(tmp_path, small_vit(), digit_list, metric, storage="float16")
    found = finished(values_of(small_vit(), digit_list, metric), tiers, metric)
    for name in set(expected.data_vars) - {"zero_tokens", "zero_centered_tokens"}:
        if expected[name].dtype.kind == "f" and "marginalization_m" not in name:
            np.testing.assert_allclose(
                found[name].mean().item(), expected[name].mean().item(), rtol=5e-3, atol=5e-3
            )


@EVERY
@pytest.mark.parametrize("batch", [1, 7, 60])
def test_the_size_of_a_batch_changes_nothing(small_vit, digit_list, metric, batch):
    expected = values_of(small_vit(), digit_list, metric)
    assert_same(values_of(small_vit(), digit_list, metric, batch), expected, 1e-5)


@EVERY
def test_sub_blocks_are_taps_of_a_pass_too(tmp_path, small_vit, digit_list, metric):
    expected, tiers = stored(tmp_path, small_vit(), digit_list, metric, sub_blocks=True)
    values = values_of(small_vit(), digit_list, metric, sub_blocks=True)
    assert_same(finished(values, tiers, metric), expected, 1e-5)


def test_attention_that_is_not_looked_at_is_absent_with_that_reason(
    tmp_path, small_vit, digit_list
):
    expected, tiers = stored(tmp_path, small_vit(), digit_list, "attention", attention=False)
    values = values_of(small_vit(), digit_list, "attention", attention=False)
    assert_same(finished(values, tiers, "attention"), expected, 1e-5)


def test_what_autocast_allows_does_not_reach_the_metric(small_vit, digit_list):
    """The same states, seen inside autocast and outside."""
    about = streaming._labels(anatomy(small_vit().eval()), asdict(SETTINGS))
    state = torch.randn(5, 17, 16, generator=torch.manual_seed(0))
    found = []
    for reduced in (False, True):
        reducer = TokenSimilarity(about, outlier_mads=5.0)
        seen = Streamed(reducer, Taps())
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            for layer in about["layer"].values:
                seen.keep_state(str(layer), state)
        found.append(reducer.finish(about))
    xr.testing.assert_identical(*found)


def shards(folder, model, images, metric, size):
    """The values of shards of so many images, in a file each."""
    paths = []
    for number, start in enumerate(range(0, len(images.table), size)):
        part = images.rows(start, start + size)
        values = values_of(model, part, metric)
        stop = start + len(part.table)
        values = values.assign_attrs(start=start, stop=stop, weights_digest="w")
        paths.append(folder / f"{number}.nc")
        files.write(values, paths[-1], canonical({"settings": {}, "metric": {}}), "code")
    return paths


@EVERY
@pytest.mark.parametrize("size", [60, 35, 9])
def test_shards_in_any_order_give_what_one_gives(tmp_path, small_vit, digit_list, metric, size):
    paths = shards(tmp_path, small_vit(), digit_list, metric, size)
    expected = values_of(small_vit(), digit_list, metric)
    for order in (paths, paths[::-1]):
        found = streamed.read(order)
        assert set(found.variables) == set(expected.variables)
        for name in expected.variables:
            if expected[name].dtype.kind == "f":
                np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5)
            else:
                assert (found[name].values == expected[name].values).all()


@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_shard_is_said(tmp_path, small_vit, digit_list, missing):
    paths = shards(tmp_path, small_vit(), digit_list, "position", 20)
    del paths[missing]
    with pytest.raises(VitalsError, match="missing" if missing == 0 else "starts at image 40"):
        streamed.read(paths)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("weights_digest", "other", "differ in weights_digest"),
        ("code", "other", "differ in code"),
        ("spec", canonical({"settings": {}, "metric": {"a": 1}}), "differ in metric"),
    ],
)
def test_shards_of_other_origin_are_refused(tmp_path, small_vit, digit_list, key, value, said):
    paths = shards(tmp_path, small_vit(), digit_list, "position", 35)
    changed = files.read(paths[1]).assign_attrs({key: value})
    changed.to_netcdf(paths[1], engine="h5netcdf")
    with pytest.raises(VitalsError, match=said):
        streamed.read(paths)


def test_a_model_that_gives_nan_is_refused_with_the_tap(small_vit, digit_list):
    model = small_vit()
    # after the first batch, whose view is checked
    broken = model.blocks[1].mlp.fc2
    seen = []

    def poison(module, inputs, output):
        seen.append(None)
        return output * (float("nan") if len(seen) > 1 else 1)

    broken.register_forward_hook(poison)
    with pytest.raises(VitalsError, match=r"NaN or infinity at block\.1"):
        values_of(model, digit_list, "position")


def test_a_batch_that_memory_was_too_small_for_is_passed_in_halves(
    monkeypatch, small_vit, digit_list
):
    expected = values_of(small_vit(), digit_list, "similarity")
    update = TokenSimilarity.update_tokens

    def with_little_memory(self, tap, x):
        if tap == "block.0" and len(x) > 5:
            raise torch.OutOfMemoryError
        update(self, tap, x)

    monkeypatch.setattr(TokenSimilarity, "update_tokens", with_little_memory)
    assert_same(values_of(small_vit(), digit_list, "similarity"), expected, 1e-5)
