"""Results of several metrics become the one dataset of a metric that reads them all."""

import numpy as np
import xarray as xr

from vitals.metrics.results import absences, joined, mark_absent

LAYERS = ["embed", "position", "block.0"]


def part(name, images=None):
    dataset = xr.Dataset({name: ("layer", np.arange(3.0))}, coords={"layer": LAYERS})
    if images:
        dataset[f"{name}_by_image"] = ("image", np.zeros(images))
    return dataset


def test_one_result_is_left_as_it_is():
    only = part("cosine", images=4)
    assert joined({"similarity": only}) is only


def test_curves_are_put_together_and_values_by_image_stay_behind():
    whole = joined({"scrambling": part("r2_all", images=4), "probes": part("accuracy", images=7)})
    assert set(whole.data_vars) == {"r2_all", "accuracy"}
    assert whole["layer"].values.tolist() == LAYERS
    assert "image" not in whole.dims


def test_a_variable_keeps_what_is_said_of_it_and_the_whole_says_nothing_of_one_part():
    information = part("r2_all").assign_attrs(spec="of one")
    information["r2_all"].attrs["images"] = 4
    whole = joined({"scrambling": information, "probes": part("accuracy")})
    assert whole["r2_all"].attrs == {"images": 4} and whole.attrs == {}


def test_a_metric_that_is_absent_is_so_for_its_own_reason():
    nothing = xr.Dataset()
    mark_absent(nothing, "classes", "three are left out")
    mark_absent(nothing, "probes", "one class is left")
    reasons = absences(joined({"scrambling": part("r2_all"), "probes": nothing}))
    assert reasons["probes"] == "one class is left"


def test_a_dataset_of_activations_gives_its_reasons_as_they_are():
    dataset = xr.Dataset(attrs={"absent": {"logits": "no classifier"}})
    assert absences(dataset) == {"logits": "no classifier"}
    mark_absent(dataset, "attention", "talking heads")
    assert absences(dataset) == {"logits": "no classifier", "attention": "talking heads"}


def test_what_a_result_lacks_is_kept_and_a_metric_without_any_is_named():
    some, nothing = part("r2_all"), xr.Dataset()
    mark_absent(some, "isi_excess", "not asked for")
    mark_absent(nothing, "accuracy", "no label")
    reasons = absences(joined({"scrambling": some, "probes": nothing}))
    assert reasons == {
        "isi_excess": "not asked for",
        "accuracy": "no label",
        "probes": "no label",
    }
