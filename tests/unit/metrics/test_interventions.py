"""What is lost by each change, with paired intervals."""

import numpy as np
import pytest

from activation_datasets import intervened_dataset
from vitals.metrics import interventions
from vitals.metrics.results import absences, mark_absent

QUICK = {"bootstrap_samples": 400}


def test_what_loses_the_same_images_has_no_interval_and_what_loses_others_has_one():
    dataset = intervened_dataset(images=40)
    correct = dataset["correct"].values
    dataset["correct_by_strength"][0] = correct
    dataset["correct_by_strength"][1] = 1 - correct
    result = interventions.compute(dataset, **QUICK)
    change = result["top1_change_by_strength"].mean("image")
    assert change[0] == 0 and change[1] == pytest.approx(1 - 2 * correct.mean())
    low, high = (result[f"top1_change_by_strength_{end}"] for end in ("low", "high"))
    assert low[0] == high[0] == 0
    assert low[1] < change[1] < high[1]


def test_a_change_is_that_of_each_image():
    dataset = intervened_dataset()
    result = interventions.compute(dataset, **QUICK)
    expected = dataset["probability_by_place"] - dataset["probability"]
    found = result["probability_change_by_place"]
    assert found.dims == ("kind", "place", "image")
    np.testing.assert_allclose(found, expected)
    last = dataset["centered_cosine_by_place"][..., -1, :] - dataset["centered_cosine"][-1]
    np.testing.assert_allclose(result["centered_cosine_change_by_place"], last)


def test_a_planted_loss_is_in_its_interval_and_a_planted_nothing_is_not_far_from_it():
    random = np.random.default_rng(1)
    dataset = intervened_dataset(images=2000)
    right = random.uniform(size=2000) < 0.9
    dataset["correct"][:] = right
    skipped = {"kind": "block_skipped", "place": "block.1"}
    dataset["correct_by_place"].loc[skipped] = right & (random.uniform(size=2000) < 0.8)
    result = interventions.compute(dataset, **QUICK).sel(skipped)
    assert result["top1_change_by_place_low"] < -0.18 < result["top1_change_by_place_high"] < -0.1


def test_what_was_not_passed_is_absent_with_its_reason():
    dataset = intervened_dataset().drop_vars(
        ["correct", "correct_by_strength", "correct_by_control", "correct_by_place"]
    )
    mark_absent(dataset, "correct", "the model has no classifier")
    result = interventions.compute(dataset, **QUICK)
    assert absences(result) == {"top1": "the model has no classifier"}
    assert "top1_by_strength" not in result and "probability" in result
