"""After which block an exit with its own probe loses nothing."""

import numpy as np
import pytest
import xarray as xr

from activation_datasets import layer_names, pooled_dataset
from vitals.errors import VitalsError
from vitals.metrics import depth, depth_table, probes
from vitals.metrics.results import absences, mark_absent

QUICK = {"folds": 2, "penalties": (1.0,), "bootstrap_samples": 200}


def probed(accuracies, draws=None):
    """What the probes find, of exits with these accuracies in every draw."""
    accuracies = np.array(accuracies)[:, None]
    drawn = np.repeat(accuracies[..., None], 100, axis=2) if draws is None else draws[:, None]
    names = layer_names(len(accuracies) + 2)[2:]
    return xr.Dataset(
        {
            "accuracy": (("layer", "feature"), accuracies),
            "accuracy_draws": (("layer", "feature", "draw"), drawn),
            "exit_compute": ("place", np.linspace(0, 1, len(accuracies) + 1)),
            "isi": (("null", "layer"), 0.01 * np.arange(len(accuracies))[None]),
            "isi_draws": (
                ("null", "layer", "draw"),
                np.repeat(0.01 * np.arange(len(accuracies))[None, :, None], 100, axis=2),
            ),
        },
        coords={
            "layer": names,
            "feature": ["cls"],
            "place": ["position", *names],
            "null": ["none"],
        },
    )


def one(result):
    return {name: result[name].item() for name in ("useful_depth", "recommended_depth")}


def test_blocks_that_add_nothing_are_useless():
    result = depth.compute(probed([0.4, 0.7, 0.95, 0.95, 0.95, 0.95]))
    assert one(result) == {"useful_depth": 3, "recommended_depth": 3}
    assert result["blocks"] == 6 and result["accuracy_kept"] == 1
    assert result["compute_saved"] == pytest.approx(0.5)
    assert result["extra_isi"] == pytest.approx(0.03)


def test_a_block_that_improves_to_the_end_leaves_none_to_save():
    result = depth.compute(probed([0.4, 0.6, 0.8, 0.9]))
    assert one(result) == {"useful_depth": 4, "recommended_depth": 4}
    assert result["compute_saved"] == 0
    assert np.isnan(result["extra_isi"])


def test_an_exit_before_a_worse_one_is_not_recommended():
    """A dip between: from the first exit on, not every one is as good."""
    result = depth.compute(probed([0.9, 0.6, 0.9, 0.9]))
    assert one(result) == {"useful_depth": 3, "recommended_depth": 3}


def test_the_tolerance_is_what_may_be_lost():
    accuracies = [0.5, 0.87, 0.89, 0.9]
    assert depth.compute(probed(accuracies), tolerance=0.01)["useful_depth"] == 3
    assert depth.compute(probed(accuracies), tolerance=0.03)["useful_depth"] == 2
    assert depth.compute(probed(accuracies), tolerance=0.0)["useful_depth"] == 4


def test_a_recommendation_asks_for_certainty_and_useful_depth_does_not():
    """Measured alike, but in a tenth of the draws the exit loses five points."""
    draws = np.full((3, 100), 0.9)
    draws[1, :10] = 0.85
    draws[0] = 0.5
    result = depth.compute(probed([0.5, 0.9, 0.9], draws))
    assert one(result) == {"useful_depth": 2, "recommended_depth": 3}
    assert (result["useful_depth_low"], result["useful_depth_high"]) == (2, 3)


@pytest.mark.parametrize("useless", [0, 1, 3])
def test_planted_identity_blocks_are_found_by_the_probes(useless):
    """Classes part block by block, then the last blocks change nothing."""
    random = np.random.default_rng(0)
    label = np.arange(300) % 3
    signal = 3 * np.eye(3, 6)[label]
    noise = random.standard_normal((300, 6))
    taps = [share * signal + noise for share in (0.0, 0.0, 0.2, 0.5, 1.0)]
    taps += taps[-1:] * useless
    dataset = pooled_dataset(
        [{"cls": tap} for tap in taps], label, split=np.where(np.arange(300) % 2, "fit", "test")
    )
    result = depth.compute(probes.compute(dataset, **QUICK))
    assert result["blocks"] - result["useful_depth"] == useless
    assert result["blocks"] - result["recommended_depth"] == useless
    assert result["accuracy_kept_low"] == result["accuracy_kept_high"] == 1
    for name in ("compute_saved", "extra_isi", "extra_r2_all"):
        assert name in absences(result)


def test_taps_in_another_order_or_within_blocks_change_nothing():
    found = probed([0.4, 0.7, 0.95, 0.95])
    between = found.isel(layer=[1]).assign_coords(layer=["block.1.attention"])
    mixed = xr.concat([found, between], "layer", data_vars="minimal").isel(layer=[4, 3, 1, 0, 2])
    assert one(depth.compute(mixed)) == one(depth.compute(found))


def test_without_probes_it_is_absent_and_without_a_reason_an_error():
    dataset = xr.Dataset()
    with pytest.raises(VitalsError, match="lacks accuracy"):
        depth.compute(dataset)
    mark_absent(dataset, "probes", "one class")
    assert absences(depth.compute(dataset)) == {"depth": "no accuracy: one class"}


def test_the_table_has_a_line_a_model_and_feature():
    found = depth.compute(probed([0.4, 0.95, 0.95]))
    lacking = xr.Dataset()
    mark_absent(lacking, "depth", "no accuracy: one class")
    table = depth_table.table({"vit": found, "other": lacking}, study="small")
    assert table.columns.tolist() == depth_table.COLUMNS
    first, second = table.to_dict("records")
    assert (first["model"], first["feature"], first["blocks"]) == ("vit", "cls", 3)
    assert first["recommended_depth"] == 2 and first["compute_saved"] == pytest.approx(1 / 3)
    assert first["accuracy_kept_low"] == first["accuracy_kept_high"] == 1
    assert second["note"] == "no accuracy: one class" and np.isnan(second["blocks"])
