"""What holds for each metric of the catalogue, on one small study."""

import doctest
import importlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from activation_datasets import ODD_CHUNKS, chunked, intervened_dataset, small_study
from vitals.catalogue import METRICS, TOKENS
from vitals.metrics.results import PUBLISHED, RECONSTRUCTED, absences, joined

ENDINGS = ("_head", "_relative", "_defined_share")
PAGES = Path(__file__).parents[3] / "docs" / "metrics"
# Few resamples and, so that no choice hangs by a hair, one penalty each.
SETTINGS = {
    "scrambling": {"penalties": [0.1], "folds": 2},
    "probes": {"penalties": [1.0], "folds": 2},
}
EVERY = pytest.mark.parametrize("metric", METRICS)
# What a study whose every part is there lacks all the same.
ABSENT = {
    # three classes, of which none is ImageNet's
    "accuracy": {"top5", "published_top1", "published_difference"},
    "scrambling": {"isi_by_distance"},  # it is asked for by its distances
    "collapse": {"cls at embed", "cls at position"},  # the same vector for every image
}
# What depends on which resample, or which noise, an image is in by its place.
OF_ORDER = {
    "phases": {"pieces_share"},
    # how many sweeps a fit takes hangs on rounding too
    "scrambling": {"isi_excess", "noise_scale", "test_images_needed", "sweeps"},
    "tradeoff": {"crossing_defined_share", "onset_defined_share", "knee_defined_share"},
}
# Float variables that are no estimates, or whose uncertainty is said in another way.
WITHOUT_INTERVAL = {
    "phases": {
        "pieces_share": "is of the resamples themselves",
        "bic": "says how well the mean curve is fitted",
        "residual_rms": "says how well the mean curve is fitted",
    },
    "scrambling": {
        "error_self": "a sum of one image, of which r2_self is made",
        "error_all": "a sum of one image, of which r2_all is made",
        "total": "a sum of one image, of which both are made",
        "isi_standard_error": "is the uncertainty of isi",
        "test_images_needed": "follows from the uncertainty of isi",
        "penalty": "a choice of the fit",
        "noise_scale": "a choice of the null",
    },
    "probes": {
        "penalty": "a choice of the fit",
        "ridge_penalty": "a choice of the fit",
        "lda_penalty": "a choice of the fit",
        "gradient": "says how far the fit has converged",
    },
    "interventions": {"exit_compute": "is counted, and not estimated"},
    "depth": {
        "recommended_depth": "is chosen so that its loss is certain to be small",
        "compute_saved": "is counted, and not estimated",
    },
    "tradeoff": {
        "crossing_defined_share": "is of the resamples themselves",
        "onset_defined_share": "is of the resamples themselves",
        "knee_defined_share": "is of the resamples themselves",
    },
}


def measured(metric, tokens, pooled, results=None):
    """A metric as the workflow computes it, from tiers or from the results of others."""
    entry = METRICS[metric]
    params = dict(SETTINGS.get(metric, {}))
    if entry.resampled:
        params["bootstrap_samples"] = 20
    compute = importlib.import_module(f"vitals.metrics.{metric}").compute
    if entry.passed:
        return compute(intervened_like(tokens), **params)
    if not entry.tiers:
        parts = {name: (results or of_study)(name) for name in entry.results}
        return compute(joined(parts), **params)
    tiers = {"tokens": tokens, "pooled": pooled}
    first, *others = entry.tiers
    return compute(tiers[first], **{name: tiers[name] for name in others}, **params)


def intervened_like(tokens):
    """Scores under each change of the images of a study, in its order, chunked as it is."""
    images = study()[0]["image_id"].values
    dataset = intervened_dataset(images=images.size).assign_coords(image_id=("image", images))
    order = [images.tolist().index(name) for name in tokens["image_id"].values]
    dataset = dataset.isel(image=order)
    return dataset.chunk({"image": 7}) if tokens.chunks else dataset


@cache
def study():
    return small_study()


@cache
def of_study(metric):
    return measured(metric, *study())


def estimates(result):
    return [n for n in result.data_vars if not n.endswith(("_low", "_high", "_draws"))]


@EVERY
def test_nothing_else_is_absent_from_the_small_study(metric):
    assert len(estimates(of_study(metric))) > 1
    assert set(absences(of_study(metric))) == ABSENT.get(metric, set())


@pytest.mark.parametrize("kind", ODD_CHUNKS)
@EVERY
def test_chunks_and_laziness_change_nothing(metric, kind):
    lazy = [chunked(dataset, kind) for dataset in study()]
    found = measured(metric, *lazy, results=lambda name: chunked(of_study(name), kind))
    xr.testing.assert_allclose(found, of_study(metric), rtol=1e-6, atol=1e-7)


@EVERY
def test_the_order_of_images_changes_no_estimate(metric):
    order = np.random.default_rng(1).permutation(study()[0].sizes["image"])
    moved = [dataset.isel(image=order) for dataset in study()]
    found = measured(metric, *moved, results=lambda name: measured(name, *moved))
    expected = of_study(metric)
    for name in set(estimates(expected)) - OF_ORDER.get(metric, set()):
        values, known = found[name], expected[name]
        if "image" in known.dims:
            values, known = (v.sortby("image_id") for v in (values, known))
        if "null" in known.dims:
            values, known = (v.sel(null="none") for v in (values, known))
        np.testing.assert_allclose(values, known, rtol=1e-4, atol=1e-5, err_msg=name)


@EVERY
def test_every_estimate_has_an_interval_or_a_reason_for_none(metric):
    result, reasons = of_study(metric), WITHOUT_INTERVAL.get(metric, {})
    floats = {name for name in estimates(result) if result[name].dtype.kind == "f"}
    for name in floats - set(reasons):
        assert {f"{name}_low", f"{name}_high"} <= set(result.data_vars), name
        low, high = result[f"{name}_low"], result[f"{name}_high"]
        assert not (low > high).any(), name
    assert set(reasons) <= floats


@EVERY
def test_every_variable_says_what_it_is_and_where_it_is_from(metric):
    for name, variable in of_study(metric).data_vars.items():
        for said in ("long_name", "units", "source"):
            assert variable.attrs.get(said), f"{name} has no {said}"
        assert variable.attrs["status"] in (PUBLISHED, RECONSTRUCTED), name


@EVERY
def test_progress_is_silent_off_a_terminal(metric, capfd):
    measured(metric, *study())
    assert capfd.readouterr() == ("", "")


@EVERY
def test_the_module_shows_a_known_answer(metric):
    module = importlib.import_module(f"vitals.metrics.{metric}")
    assert doctest.DocTestParser().get_examples(module.__doc__)
    assert "Source:" in module.compute.__doc__


@EVERY
def test_the_page_names_every_variable(metric):
    page = (PAGES / f"{metric}.md").read_text()
    assert "## Source" in page and "## Traps" in page
    assert [name for name in estimates(of_study(metric)) if not named(name, page)] == []


def named(variable, page):
    """`variable`, or `{name}_head` where a page says so once for several."""
    said = [variable.removesuffix(end) for end in ENDINGS if f"`{{name}}{end}`" in page]
    return any(f"`{name}`" in page for name in (variable, *said))


def test_the_tiers_of_the_small_study_are_those_of_the_catalogue():
    assert {tier for m in METRICS.values() for tier in m.tiers} == {TOKENS, "pooled"}
