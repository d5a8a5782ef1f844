"""Accuracy is counted over all rows of a classifier, and held against what is published."""

import numpy as np
import pytest
import xarray as xr

from activation_datasets import computed
from vitals.errors import VitalsError
from vitals.metrics import accuracy
from vitals.metrics.results import absences

FEW = {"bootstrap_samples": 200}


def answered(right, labels, classes, split=None, published=None):
    """Logits of a model that is right where it is told to be, else takes the next class."""
    labels = np.asarray(labels)
    said = np.where(right, labels, (labels + 1) % classes)
    logits = np.eye(classes, dtype=np.float32)[said]
    split = np.full(labels.size, "test") if split is None else split
    return xr.Dataset(
        {"logits": (("image", "class"), logits)},
        coords={"label": ("image", labels), "split": ("image", split)},
        attrs={} if published is None else {"published": {"top1": published, "source": "a table"}},
    )


@pytest.mark.parametrize("share", [0, 0.25, 1])
def test_top1_is_the_share_of_test_images_that_are_right(share):
    right = np.arange(40) < 40 * share
    found = computed(accuracy.compute, answered(right, np.arange(40) % 8, 8), **FEW)
    assert found["top1"].item() == found["top1_all"].item() == share
    assert found["top1_low"].item() <= share <= found["top1_high"].item()


def test_fit_images_count_in_top1_of_all_alone():
    split = np.repeat(["fit", "test"], 20)
    found = accuracy.compute(answered(split == "test", np.arange(40) % 8, 8, split), **FEW)
    assert (found["top1"].item(), found["top1_all"].item()) == (1, 0.5)


def test_the_own_class_among_the_five_largest_counts_in_top5():
    logits = np.tile(np.arange(10.0), (10, 1))  # class 9 is first, class 5 fifth
    dataset = answered(np.ones(10, bool), np.arange(10), 10).assign(
        logits=(("image", "class"), logits)
    )
    found = accuracy.compute(dataset, **FEW)
    assert (found["top1"].item(), found["top5"].item()) == (0.1, 0.5)


def test_all_rows_of_the_classifier_compete():
    dataset = answered(np.ones(6, bool), [0, 1] * 3, 9)
    dataset["logits"][:, 8] = 2  # a class that no image has
    assert accuracy.compute(dataset, **FEW)["top1"].item() == 0


def test_the_interval_is_that_of_a_share():
    right = np.random.default_rng(0).random(2000) < 0.8
    found = accuracy.compute(answered(right, np.arange(2000) % 10, 10), bootstrap_samples=1000)
    half = 1.96 * np.sqrt(right.mean() * (1 - right.mean()) / 2000)
    width = (found["top1_high"] - found["top1_low"]).item() / 2
    assert width == pytest.approx(half, rel=0.1)


def test_a_model_without_a_classifier_has_none():
    dataset = xr.Dataset(attrs={"absent": {"logits": "the model has no classifier"}})
    found = accuracy.compute(dataset)
    assert not found.data_vars
    assert set(absences(found).values()) == {"the model has no classifier"}


def validation_set(wrong):
    """The shape of ImageNet's: 50 images of each of 1,000 classes, so many of them wrong."""
    right = np.arange(50_000) >= wrong
    return answered(right, np.arange(50_000) % 1000, 1000, published=90.0)


def test_on_the_whole_validation_set_it_is_held_against_what_is_published():
    found = accuracy.compute(validation_set(5_100), bootstrap_samples=100)
    assert found["published_top1"].item() == pytest.approx(0.9)
    assert found["published_difference"].item() == pytest.approx(-0.002)
    low, high = (found[f"published_difference_{end}"].item() for end in ("low", "high"))
    assert low < -0.002 < high
    assert found["published_top1"].attrs["source"] == "a table"


@pytest.mark.parametrize("wrong", [5_200, 4_800])
def test_a_difference_beyond_the_tolerance_is_a_fault_of_the_set_up(wrong):
    message = r"\A[^\n]*(89.60|90.40)%, 90.00% is published \(a table\): 0.40 points[^\n]*\Z"
    with pytest.raises(VitalsError, match=message):
        accuracy.compute(validation_set(wrong), bootstrap_samples=100)
    accuracy.compute(validation_set(wrong), tolerance=0.5, bootstrap_samples=100)


def test_on_other_images_nothing_is_held_against_it():
    dataset = answered(np.zeros(40, bool), np.arange(40) % 8, 8, published=90.0)
    reasons = absences(accuracy.compute(dataset, **FEW))
    assert "here are 40 images of 8 classes" in reasons["published_difference"]
