"""The figure of geometry: its maps hold what the result holds, and say why where there is none."""

import matplotlib
import numpy as np
import pytest

from vitals.figures import geometry, rows
from vitals.metrics.results import mark_absent

pytestmark = pytest.mark.filterwarnings("error")


def words(figure):
    texts = [text.get_text() for text in figure.findobj(matplotlib.text.Text)]
    return " ".join(" ".join(texts).split())


def map_of(axes):
    (mesh,) = axes.collections
    return np.asarray(mesh.get_array()).reshape(2 * [axes.get_xticks()[-1].astype(int) + 1])


def test_a_map_is_the_alignment_of_the_mean_patch_between_taps(by_model):
    figure, table = geometry.draw(by_model)
    for axes, (model, found) in zip(figure.axes[6:8], by_model.items(), strict=True):
        expected = found["geometry"]["cka"].sel(feature="patch_mean")
        np.testing.assert_allclose(map_of(axes), expected.transpose("other_layer", "layer"))
        ticks = [label.get_text() for label in axes.get_xticklabels()]
        assert ticks == ["embed", "norm"] and axes.get_title("left") == model
    assert not rows.select(table, variable="cka")["feature"].str.startswith("cls").any()


def test_curves_are_of_the_feature_that_every_model_has(by_model, without_cls):
    figure, table = geometry.draw({"small": by_model["small"], "patches": without_cls})
    dimension = rows.select(table, variable="intrinsic_dimension")
    assert set(dimension["feature"]) == {"patch_mean"} and set(dimension["model"]) == {
        "small",
        "patches",
    }
    assert len(figure.axes[2].lines) >= 2


def test_without_pooled_features_the_rest_is_drawn_with_the_reason(by_model):
    found = by_model["small"]["geometry"]
    ends = ("", "_low", "_high", "_draws")
    names = [name + end for name in ("cka", "intrinsic_dimension") for end in ends]
    bare = found.drop_vars(names, errors="ignore")
    for name in ("cka", "intrinsic_dimension"):
        mark_absent(bare, name, "the pooled features are not there")
    figure, _ = geometry.draw({"small": {"geometry": bare}})
    figure.draw_without_rendering()
    assert "no alignment: the pooled features are not there" in words(figure).replace("\n", " ")
    assert "small: no intrinsic_dimension, cka (the pooled features are not there)" in words(figure)
    assert all(axes.has_data() for axes in figure.axes if axes.axison)
    assert sum(axes.axison for axes in figure.axes) == len(geometry.CURVES) - 1
