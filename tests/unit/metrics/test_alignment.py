"""The alignment between models: known answers at two widths, honest intervals, what is lacking."""

import numpy as np
import pytest
import xarray as xr

from activation_datasets import pooled_dataset
from vitals.errors import VitalsError
from vitals.metrics import alignment, kernel_alignment, summary
from vitals.metrics.results import absences, mark_absent

IMAGES = 80
QUICK = {"bootstrap_samples": 20}


def gaussians(channels, taps=1, images=IMAGES, seed=0):
    return np.random.default_rng(seed).standard_normal((taps, images, channels))


def model(taps, feature="patch_mean", names=None, order=None):
    """A pooled tier of one feature; `names` of its taps; its images in another order."""
    images = len(taps[0])
    found = pooled_dataset([{feature: tap} for tap in taps], np.zeros(images, int), names=names)
    return found if order is None else found.isel(image=order)


def cka(first, second, **params):
    result = alignment.compute({"a": first, "b": second}, **{**QUICK, **params})
    return result["cka"].isel(pair=0, feature=0)


def of_wider(x, channels, seed=1):
    """3XQ + 1 with Q of orthonormal rows, (channel, more channels)."""
    q = np.linalg.qr(gaussians(x.shape[1], images=channels, seed=seed)[0])[0].T
    return 3 * x @ q + 1


STORAGE = pytest.mark.parametrize("storage, tolerance", [(np.float32, 1e-5), (np.float16, 2e-3)])


@STORAGE
@pytest.mark.parametrize("channels", [12, 40, 200])
def test_a_turn_a_scale_and_an_offset_leave_one_at_any_width(channels, storage, tolerance):
    x = gaussians(12)[0]
    found = cka(model([x.astype(storage)]), model([of_wider(x, channels).astype(storage)]))
    assert found.item() == pytest.approx(1, abs=tolerance)


@pytest.mark.parametrize("storage", [np.float32, np.float16])
def test_independent_gaussians_of_two_widths_are_near_zero(storage):
    values = [
        cka(
            model([gaussians(30, seed=seed)[0].astype(storage)]),
            model([gaussians(90, seed=1000 + seed)[0].astype(storage)]),
        ).item()
        for seed in range(20)
    ]
    assert np.mean(values) == pytest.approx(0, abs=0.02)
    x, y = gaussians(30)[0], gaussians(90, seed=1000)[0]
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    biased = np.square(x.T @ y).sum() / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
    assert biased > 0.3


def test_between_taps_of_one_model_it_is_the_alignment_within_it():
    taps = gaussians(7, 3).cumsum(axis=0)
    within = kernel_alignment.alignment(lambda: [taps])
    found = kernel_alignment.alignment_between(lambda: [(taps, taps)])
    np.testing.assert_allclose(found.cka, within.cka, atol=1e-12)
    np.testing.assert_allclose(found.cka_without, within.cka_without, atol=1e-12)


@pytest.mark.parametrize("room", [1, 8 * 5 * 9 * 4 * 2, 2**29])
def test_how_many_sums_are_in_memory_changes_nothing(monkeypatch, room):
    first, second = gaussians(5, 3), gaussians(9, 4, seed=1)
    second[:, :, :5] += first[:1]
    whole = kernel_alignment.alignment_between(lambda: [(first, second)])
    monkeypatch.setattr(kernel_alignment, "SUM_BYTES", room)
    parts = kernel_alignment.alignment_between(
        lambda: ((first[:, i : i + 30], second[:, i : i + 30]) for i in range(0, IMAGES, 30))
    )
    np.testing.assert_allclose(parts.cka, whole.cka, atol=1e-12)
    np.testing.assert_allclose(parts.cka_without, whole.cka_without, atol=1e-12)


def test_each_tap_is_found_again_where_it_is_in_the_other_model():
    taps = gaussians(6, 3)
    other = [of_wider(taps[i], 9) for i in (2, 0, 1)]
    found = cka(model(taps), model(other))
    assert found.dims == ("first_layer", "second_layer")
    assert found.argmax("second_layer").values.tolist() == [1, 2, 0]
    np.testing.assert_allclose(found.max("second_layer"), 1, atol=1e-9)


def test_the_interval_holds_the_value_that_many_images_have():
    """X and X + E have CKA 1/2; 95 % of intervals should hold it, of 60 experiments."""
    held = []
    for seed in range(60):
        x, extra = gaussians(6, 2, seed=seed)
        result = alignment.compute(
            {"a": model([x]), "b": model([of_wider(x + extra, 10)])}, bootstrap_samples=200
        )
        low, high = (result[f"cka_{end}"].item() for end in ("low", "high"))
        held.append(low <= 0.5 <= high)
    assert np.mean(held) >= 0.85


@pytest.mark.parametrize("chunks", [{"image": 7}, {"layer": 1, "image": 33}, {"channel": 2}])
def test_chunks_and_laziness_change_nothing(chunks):
    first, second = model(gaussians(6, 3)), model(gaussians(9, 4, seed=1).cumsum(axis=0))
    whole = alignment.compute({"a": first, "b": second}, **QUICK)
    lazy = alignment.compute({"a": first.chunk(chunks), "b": second.chunk(chunks)}, **QUICK)
    xr.testing.assert_identical(lazy, whole)


def test_the_same_images_in_another_order_are_matched_by_name():
    x, order = gaussians(6)[0], np.random.default_rng(1).permutation(IMAGES)
    found = cka(model([x]), model([of_wider(x, 9)], order=order))
    assert found.item() == pytest.approx(1, abs=1e-9)


def test_other_images_are_refused():
    first, second = model(gaussians(6)), model(gaussians(6))
    second["image_id"] = first["image_id"].str.replace("image-0", "another")
    with pytest.raises(VitalsError, match="pooled of 'b' is over other images than that of 'a'"):
        alignment.compute({"a": first, "b": second})
    with pytest.raises(VitalsError, match="pooled of 'b' is over other images"):
        alignment.compute({"a": first, "b": first.isel(image=slice(50))})


def test_depths_say_which_taps_a_model_of_a_pair_has():
    names = {
        "small": ["embed", "position", "block.0", "norm"],
        "clip": ["embed", "norm_pre", "position", "block.0", "block.1", "norm"],
    }
    models = {
        of: model(gaussians(4, len(taps), seed=len(taps)), names=taps) for of, taps in names.items()
    }
    result = alignment.compute(models, **QUICK)
    layers = ["embed", "norm_pre", "position", "block.0", "block.1", "norm"]
    assert result["first_layer"].values.tolist() == result["second_layer"].values.tolist() == layers
    first, second = (
        result[f"{side}_depth"].sel(pair="small - clip") for side in ("first", "second")
    )
    np.testing.assert_array_equal(first, [0, np.nan, 1, 2, np.nan, 3])
    np.testing.assert_array_equal(second, [0, 0.5, 1, 2, 3, 4])
    there = np.isfinite(result["cka"].isel(pair=0, feature=0))
    assert (there == np.isfinite(first) & np.isfinite(second)).all()


def test_what_a_model_lacks_leaves_other_pairs_theirs():
    x = gaussians(5, 2)
    both = xr.concat([model(x, "cls"), model(x)], "feature", data_vars="minimal")
    bare = model(x).drop_vars("pooled")
    mark_absent(bare, "pooled", "its tokens are pooled otherwise")
    few = model(x[:, :4])
    result = alignment.compute(
        {"both": both, "bare": bare, "mean": model(x), "again": both}, **QUICK
    )
    assert absences(result) == {
        "cka, bare": "its tokens are pooled otherwise",
        "cka, mean, cls": "the model has no feature 'cls'",
    }
    there = np.isfinite(result["cka"]).any(["first_layer", "second_layer"])
    expected = {"both - mean": ["patch_mean"], "both - again": ["cls", "patch_mean"]}
    for pair in result["pair"].values:
        features = there["feature"].values[there.sel(pair=pair)]
        assert sorted(features) == expected.get(pair, ["patch_mean"] * ("bare" not in pair))
    assert "needs 5 images, found 4" in absences(alignment.compute({"a": few, "b": few}))["cka, a"]


def test_one_model_has_no_pair():
    result = alignment.compute({"only": model(gaussians(4))})
    assert absences(result) == {"cka": "an alignment needs two models, found only"}
    assert not result.data_vars


def test_a_feature_that_is_the_same_for_every_image_has_no_alignment():
    taps = gaussians(4, 2)
    taps[0] = 0.1
    found = cka(model(taps), model(gaussians(4, 2, seed=1)))
    assert np.isnan(found[0]).all() and np.isfinite(found[1]).all()


def test_the_summary_has_a_row_for_each_two_taps_of_a_pair_and_none_for_those_it_lacks():
    models = {
        "small": model(gaussians(4, 2)),
        "large": model(gaussians(6, 3, seed=1)),
        "larger": model(gaussians(6, 4, seed=2)),
    }
    result = alignment.compute(models, **QUICK)
    rows = summary.table({("compare", "alignment"): result}, study="digits")
    counts = rows.groupby("model").size()
    assert counts.to_dict() == {"small - large": 6, "small - larger": 8, "large - larger": 12}
    assert rows[["value", "low", "high", "depth", "relative_depth"]].notna().all(axis=None)
    some = rows[rows["model"] == "small - large"].iloc[-1]
    assert (some.layer, some.depth, some.feature) == ("position", 1, "patch_mean,block.0")
    assert some.relative_depth == 1 and some.metric == "alignment" and some.variable == "cka"


def test_every_variable_is_described():
    result = alignment.compute({"a": model(gaussians(4)), "b": model(gaussians(5))}, **QUICK)
    for name, array in result.data_vars.items():
        assert {"long_name", "units", "status", "source"} <= array.attrs.keys(), name
    assert result["cka"].attrs["images"] == IMAGES
