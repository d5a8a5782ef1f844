"""The tidy table of every number of a study."""

import numpy as np
import pytest
import xarray as xr

from activation_datasets import every_tap
from vitals.metrics import bootstrap, comparison, phases, summary
from vitals.metrics.results import describe, mark_absent

COLUMNS = (
    "study model metric variable layer depth relative_depth feature value low high unit status note"
    " top1"
)


def described(values, *dims, units="1", status="published"):
    return describe(xr.DataArray(values, dims=dims), "a variable", units, status, "source")


def result(variables, **coords):
    return xr.Dataset(variables, coords=coords)


def table_of(dataset, model="vit", metric="similarity"):
    return summary.table({(model, metric): dataset}, study="digits")


def layers(*names):
    return {"layer": list(names), "depth": ("layer", np.arange(len(names)))}


def test_the_columns_are_these_and_no_others():
    assert list(table_of(result({"a": described(1.0)})).columns) == COLUMNS.split()
    assert list(summary.table({}, study="digits").columns) == COLUMNS.split()


def test_a_scalar_is_one_row_with_its_interval_unit_and_status():
    dataset = result({"cliff_end": described(2.0, units="layers", status="reconstructed")})
    bootstrap.add_draws(dataset, "cliff_end", xr.DataArray(np.linspace(1, 3, 101), dims="draw"))
    rows = table_of(dataset, metric="phases")
    assert len(rows) == 1
    row = rows.iloc[0]
    assert (row.study, row.model, row.metric, row.variable) == (
        "digits",
        "vit",
        "phases",
        "cliff_end",
    )
    assert (row.value, row.low, row.high) == pytest.approx((2, 1.05, 2.95))
    assert (row.unit, row.status, row.layer, row.feature, row.note) == (
        "layers",
        "reconstructed",
        "",
        "",
        "",
    )
    assert np.isnan(row.depth)


def test_a_curve_is_one_row_a_layer_averaged_over_images():
    values = np.array([[1.0, 3.0], [5.0, np.nan], [0.0, 1.0]])
    dataset = result(
        {"cosine": described(values, "layer", "image")}, **layers("embed", "position", "block.0")
    )
    bootstrap.add_interval(
        dataset, "cosine", bootstrap.mean_draws(dataset["cosine"].fillna(5), 20, 0)
    )
    rows = table_of(dataset)
    assert rows["layer"].tolist() == ["embed", "position", "block.0"]
    assert rows["value"].tolist() == [2, 5, 0.5]  # an undefined image takes no part
    assert rows["depth"].tolist() == [0, 1, 2]
    assert rows["relative_depth"].tolist() == [0, 0.5, 1]
    assert rows[["low", "high"]].notna().all(axis=None)


def test_the_last_block_is_at_relative_depth_one_and_the_final_norm_beyond():
    dataset = result(
        {"a": described(np.zeros(4), "layer")}, **layers("embed", "position", "block.0", "norm")
    )
    assert table_of(dataset)["relative_depth"].tolist() == [0, 0.5, 1, 1.5]


def test_a_block_stands_at_the_tap_it_writes():
    dataset = result({"consensus": described(np.zeros((2, 3)), "block", "image")})
    rows = table_of(dataset)
    assert rows["layer"].tolist() == ["block.0", "block.1"]
    assert rows["depth"].tolist() == [2, 3]
    assert rows["relative_depth"].iloc[-1] == 1


def test_taps_within_blocks_have_rows_of_their_own():
    names, depth = every_tap(2)
    coords = {"layer": names, "depth": ("layer", depth)}
    rows = table_of(result({"a": described(np.zeros(len(names)), "layer")}, **coords))
    assert rows["layer"].tolist() == names
    assert rows["depth"].tolist() == depth.tolist()
    assert rows["relative_depth"].tolist() == (depth / 3).tolist()


def test_other_dims_are_joined_in_their_order_whatever_the_order_of_the_interval():
    values = np.arange(4.0).reshape(2, 2)
    dataset = result(
        {
            "crossing": described(values, "information", "feature"),
            "crossing_low": described(values.T - 1, "feature", "information"),
        },
        information=["r2_all", "r2_self"],
        feature=["cls", "cls+patch_mean"],
    )
    rows = table_of(dataset)
    assert rows["feature"].tolist() == [
        "r2_all,cls",
        "r2_all,cls+patch_mean",
        "r2_self,cls",
        "r2_self,cls+patch_mean",
    ]
    assert rows["value"].tolist() == [0, 1, 2, 3]
    assert rows["low"].tolist() == [-1, 0, 1, 2]
    assert rows["high"].isna().all()


def test_dims_without_coordinates_are_numbered():
    rows = table_of(result({"a": described(np.zeros((2, 2)), "layer", "head")}))
    assert rows["feature"].tolist() == ["0", "1", "0", "1"]
    assert rows["layer"].tolist() == ["0", "0", "1", "1"]


def test_what_is_absent_is_one_row_without_a_value_and_with_its_reason():
    dataset = result({"a": described(1.0)})
    mark_absent(dataset, "cls_inflow", "the model has no [CLS]")
    row = table_of(dataset).iloc[1]
    assert (row.variable, row.note) == ("cls_inflow", "the model has no [CLS]")
    assert np.isnan(row.value)


def test_a_point_that_is_undefined_says_why():
    array = described(np.array([1.0, np.nan]), "feature").assign_attrs(undefined="no crossing")
    assert table_of(result({"a": array}))["note"].tolist() == ["", "no crossing"]


def test_what_is_not_described_has_no_row():
    assert table_of(result({"loose": ("layer", np.zeros(3))})).empty


def test_a_whole_result_keeps_every_headline_once():
    images = np.random.default_rng(0).standard_normal((9, 20))
    similarity = xr.Dataset({"centered_cosine": (("layer", "image"), images)})
    rows = table_of(phases.compute(similarity, bootstrap_samples=10), metric="phases")
    assert set(rows["variable"]) == set(phases.VARIABLES)
    assert not rows.duplicated(["variable", "layer", "feature"]).any()
    assert (
        rows.groupby("variable").size()[["fit", "plateau_length_threshold", "bic"]] == [9, 3, 3]
    ).all()


def test_a_comparison_has_its_pairs_as_models():
    models = {
        name: xr.Dataset({"cosine": described(np.full((3, 4), value), "layer", "image")})
        for name, value in [("s", 1.0), ("b", 3.0)]
    }
    rows = table_of(comparison.compute(models, metric="similarity", positions=5), "all")
    curve = rows[rows["variable"] == "cosine_difference"]
    assert curve["model"].tolist() == ["s - b"] * 3
    assert curve["depth"].tolist() == [0, 1, 2]
    assert curve["value"].tolist() == curve["low"].tolist() == [-2, -2, -2]
    relative = rows[rows["variable"] == "cosine_difference_relative"]
    assert relative["relative_depth"].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert relative["depth"].isna().all()
    assert set(rows["variable"]) == {
        "cosine_difference",
        "cosine_difference_relative",
        "centered_cosine_difference",
        "centered_cosine_difference, s",
        "centered_cosine_difference, b",
    }


def compared(*curves, metric="similarity"):
    """Differences of models whose curves differ by the given ones, in 30 images of noise 1."""
    generator = np.random.default_rng(0)
    models = {
        f"model{i}": xr.Dataset(
            {
                "cosine": described(
                    np.asarray(curve)[:, None] + generator.standard_normal((len(curve), 30)),
                    "layer",
                    "image",
                )
            }
        )
        for i, curve in enumerate(curves)
    }
    return comparison.compute(models, metric=metric, positions=5, bootstrap_samples=500)


def test_the_columns_of_differences_are_these_and_no_others():
    columns = list(summary.differences({}, study="digits").columns)
    assert columns == list(summary.DIFFERENCES)
    found = summary.differences({"similarity": compared([0, 1, 2], [0, 0, 0])}, study="digits")
    assert list(found.columns) == columns and set(found["study"]) == {"digits"}


def test_a_curve_says_where_it_excludes_zero_point_by_point_and_as_a_whole():
    result = compared([0.0, 0.6, 9, 9], [0.0] * 4)
    table = summary.differences({"similarity": result}, study="digits")
    curve = table[table["variable"] == "cosine_difference"].set_index("depth")
    assert set(curve["pair"]) == {"model0 - model1"} and set(curve["unit"]) == {"1"}
    assert curve["points"].tolist() == [4] * 4
    assert curve["excluding"].tolist() == [curve["excludes_zero"].sum()] * 4
    assert curve.loc[[2, 3], "band_excludes_zero"].all() and not curve.loc[0, "band_excludes_zero"]
    assert (curve["band_high"] - curve["band_low"] > curve["high"] - curve["low"]).all()
    stored = result["cosine_difference"]
    assert curve["difference"].tolist() == stored.sel(pair="model0 - model1").values.tolist()
    relative = table[table["variable"] == "cosine_difference_relative"]
    assert relative["relative_depth"].tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_of_curves_that_are_alike_few_points_exclude_zero_and_the_band_none():
    table = summary.differences({"similarity": compared(*[[0.0] * 40] * 5)}, study="digits")
    at_depth = table[table["variable"] == "cosine_difference"]
    assert len(at_depth) == 400 and 0 < at_depth["excludes_zero"].mean() < 0.1
    assert at_depth["band_excludes_zero"].sum() <= 4


def test_a_scalar_stands_for_itself_and_what_is_not_defined_has_no_row():
    draws = np.random.default_rng(0).standard_normal((2, 500))
    array = {"information": ["r2_all", "r2_self"]}
    models = {
        name: result(
            {
                "crossing": described(np.array([value, value]), "information", units="layers"),
                "crossing_draws": (("information", "draw"), value + share * draws),
            },
            **array,
        )
        for name, value, share in [("s", 9.0, 0.1), ("b", 3.0, 0.2), ("none", np.nan, 0.1)]
    }
    found = comparison.compute(models, metric="tradeoff")
    table = summary.differences({"tradeoff": found}, study="digits")
    assert table["pair"].tolist() == ["s - b"] * 2
    assert table["feature"].tolist() == ["r2_all", "r2_self"]
    assert table["excludes_zero"].all() and table["band_excludes_zero"].all()
    assert table["band_low"].isna().all() and (table["points"] == 1).all()
    assert set(table["unit"]) == {"layers"}


def test_a_models_accuracy_stands_beside_each_of_its_numbers():
    accuracy = result({"top1": described(0.75)})
    curve = result({"cosine": described([0.0, 0.5], "layer")}, **layers("embed", "position"))
    results = {("a", "accuracy"): accuracy, ("a", "similarity"): curve, ("b", "similarity"): curve}
    rows = summary.table(results, study="digits")
    assert rows.loc[rows["model"] == "a", "top1"].tolist() == [0.75] * 3
    assert rows.loc[rows["model"] == "b", "top1"].isna().all()
