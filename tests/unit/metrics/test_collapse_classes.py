"""Neural collapse of chosen classes, and of models that differ in labels, norms and width."""

import numpy as np
import pytest
import xarray as xr

from activation_datasets import pooled_dataset
from collapse_features import QUICK, C, D, collapsed, halves, simplex
from vitals.errors import VitalsError
from vitals.metrics import collapse
from vitals.metrics.results import absences

NAMES = np.array([f"class {chr(ord('a') + row)}" for row in range(C)])
CHOSEN = ["class d", "class l", "class f"]


def studied(**coords):
    x, label = collapsed()
    dataset = pooled_dataset([{"cls": x}], label, split=halves(x, label))
    return dataset.assign_coords(coords)


def head(dataset):
    return dataset.assign(head_weight=(("class", "channel"), simplex()))


@pytest.mark.parametrize(
    "dataset",
    [
        head(studied()).assign_coords({"class": NAMES}),
        studied(class_name=("image", NAMES[studied()["label"].values])),
        studied(label=("image", NAMES[studied()["label"].values])),
    ],
    ids=["rows of the classifier", "names of the images", "labels that are names"],
)
def test_classes_are_chosen_by_name(dataset):
    by_name = collapse.compute(dataset, classes=CHOSEN, **QUICK)
    by_label = collapse.compute(studied(), classes=[3, 11, 5], **QUICK)
    assert by_name.attrs["classes"] == 3
    for name in ("nc1_quotient", "nc1_quotient_draws", "nc2_etf_gap", "ncc_accuracy"):
        xr.testing.assert_equal(by_name[name], by_label[name])


def test_a_name_is_the_same_class_in_models_of_other_width_and_other_rows():
    """A label is not: the rows of two classifiers differ."""
    narrow = head(studied()).assign_coords({"class": NAMES})
    order = np.random.default_rng(0).permutation(C)
    wide = pooled_dataset(
        [{"cls": np.pad(narrow["pooled"].values[0, :, 0], ((0, 0), (0, 30)))}],
        np.argsort(order)[narrow["label"].values],
        split=narrow["split"].values,
        head_weight=np.zeros((C, D + 30)),
    ).assign_coords({"class": NAMES[order]})
    first, second = (collapse.compute(d, classes=CHOSEN, **QUICK) for d in (narrow, wide))
    for name in ("nc1_quotient", "nc1_quotient_draws", "ncc_accuracy"):
        xr.testing.assert_allclose(first[name], second[name])


def test_an_unknown_name_is_refused_with_what_is_allowed():
    named = head(studied()).assign_coords({"class": NAMES})
    with pytest.raises(VitalsError, match=r"unknown class 'clas d': did you mean 'class d'\?"):
        collapse.compute(named, classes=["clas d", "class l"], **QUICK)
    with pytest.raises(VitalsError, match=r"unknown class 'class d': \(known: 0, 1, 10, 11"):
        collapse.compute(studied(), classes=CHOSEN, **QUICK)


def without_norm(logits):
    x, label = collapsed()
    layers = [{"cls": 2 * x}, {"cls": x}]
    weight = simplex() + 1
    return pooled_dataset(
        layers,
        label,
        split=halves(x, label),
        names=["block.0", "block.1"],
        head_weight=weight,
        head_bias=np.arange(C),
        logits=logits(x, weight),
    )


def test_a_model_without_a_final_norm_is_read_as_it_is():
    result = collapse.compute(without_norm(lambda x, w: x @ w.T + np.arange(C)), **QUICK)
    assert (result["nc3_alignment"] > 0.98).all()
    assert result["nc4_agreement"].notnull().all()
    assert "no final norm" in result["nc3_alignment"].attrs["note"]
    assert not absences(result)


def test_a_classifier_behind_something_unknown_is_absent():
    result = collapse.compute(without_norm(lambda x, w: np.tanh(x) @ w.T), **QUICK)
    assert not {*collapse.NC3, *collapse.NC4} & set(result)
    assert "does not give the model's logits" in absences(result)["nc4_agreement"]


def test_a_classifier_without_a_bias_has_none_where_the_logits_say_so():
    dataset = without_norm(lambda x, w: x @ w.T).drop_vars("head_bias")
    assert collapse.compute(dataset, **QUICK)["nc4_margin"].notnull().all()
