"""The figure of alignment: a map for each pair of models, of what the result holds."""

import matplotlib
import numpy as np
import pytest

from activation_datasets import layer_names, pooled_dataset
from vitals.figures import alignment as figure_of
from vitals.metrics import alignment

pytestmark = pytest.mark.filterwarnings("error")
QUICK = {"bootstrap_samples": 20}


def tier(blocks, features=("cls", "patch_mean"), images=40):
    names = [*layer_names(blocks + 2), "norm"]
    shape = (len(names), len(features), images, blocks + 1)
    walk = np.random.default_rng(blocks).standard_normal(shape).cumsum(axis=0)
    taps = [dict(zip(features, tap, strict=True)) for tap in walk]
    return pooled_dataset(taps, np.zeros(images, int), names=names)


@pytest.fixture(scope="module")
def pooled():
    return {"small": tier(4), "deep": tier(6), "patches": tier(5, ("patch_mean",))}


def words(figure):
    texts = [text.get_text() for text in figure.findobj(matplotlib.text.Text)]
    return " ".join(" ".join(texts).split())


def test_each_map_is_the_alignment_of_the_mean_patch_of_its_pair(pooled, stored):
    result = stored(alignment.compute(pooled, **QUICK))
    figure, table = figure_of.draw({"alignment": result})
    figure.draw_without_rendering()
    for axes, pair in zip(figure.axes, result["pair"].values, strict=False):
        expected = (
            result["cka"].sel(pair=pair, feature="patch_mean").dropna("first_layer", how="all")
        )
        expected = expected.dropna("second_layer", how="all").transpose(
            "second_layer", "first_layer"
        )
        (mesh,) = axes.collections
        np.testing.assert_allclose(np.reshape(mesh.get_array(), expected.shape), expected)
        assert f"{axes.get_xlabel()} - {axes.get_ylabel()}" == pair
    assert not table["feature"].str.startswith("cls").any()
    assert "patches, cls: the model has no feature 'cls'" in words(figure)


def test_a_pair_without_an_alignment_says_why(pooled, stored):
    found = {**pooled, "bare": pooled["small"].drop_vars("pooled")}
    result = stored(alignment.compute(found, **QUICK))
    figure, _ = figure_of.draw({"alignment": result})
    figure.draw_without_rendering()
    assert "bare: the pooled features are not there" in words(figure)
    assert "no alignment of small and bare" in words(figure)


def test_one_model_has_a_note(pooled, stored):
    result = stored(alignment.compute({"small": pooled["small"]}, **QUICK))
    figure, table = figure_of.draw({"alignment": result})
    figure.draw_without_rendering()
    assert "an alignment needs two models" in words(figure) and len(table) == 1
