"""Every figure: it draws what its table holds, says what is absent, and leaves nothing behind."""

from importlib import import_module
from itertools import combinations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from vitals.catalogue import FIGURES
from vitals.errors import VitalsError
from vitals.figures import rows, style
from vitals.metrics import comparison, summary
from vitals.metrics.results import mark_absent

pytestmark = pytest.mark.filterwarnings("error")
EVERY = pytest.mark.parametrize("name", list(FIGURES))
OF_MODELS = pytest.mark.parametrize(
    "name", [name for name, figure in FIGURES.items() if not figure.compared]
)


def draw(name, results, **look):
    if FIGURES[name].compared:  # a file each, of those that it reads
        results = {
            metric: found for metric, found in results.items() if metric in FIGURES[name].metrics
        }
    return import_module(f"vitals.figures.{name}").draw(results, **look)


def words(figure):
    """All that is written in a figure, on one line."""
    texts = [text.get_text() for text in figure.findobj(matplotlib.text.Text)]
    return " ".join(" ".join(texts).split())


def visible(figure):
    return [axes for axes in figure.axes if axes.axison]


@pytest.fixture(scope="module")
def differences(compared, by_model):
    return compared(by_model)


@pytest.fixture
def results(name, by_model, differences):
    return differences if FIGURES[name].compared else by_model


@pytest.fixture(scope="module")
def once():
    return {}


@pytest.fixture
def drawn(name, results, once):
    """The figure and table of all models, drawn once for the tests that only look."""
    if name not in once:
        once[name] = draw(name, results)
    return once[name]


@pytest.fixture(scope="module")
def known(by_model, differences):
    """The summary of all results."""
    everything = {**by_model, "": differences}
    whole = {(model, m): result for model, of in everything.items() for m, result in of.items()}
    return summary.table(whole, study="digits")


@EVERY
def test_it_draws_a_figure_and_a_table(drawn):
    figure, table = drawn
    figure.draw_without_rendering()
    assert isinstance(figure, Figure) and isinstance(table, pd.DataFrame)
    assert list(table.columns) == rows.COLUMNS
    assert (table.dtypes[rows.NUMBERS] == np.float64).all()
    assert figure.get_figwidth() == style.WIDTH


@EVERY
def test_no_panel_is_empty(drawn):
    figure, _ = drawn
    assert all(axes.has_data() for axes in visible(figure))


@EVERY
def test_every_point_of_a_curve_is_in_the_table(name, drawn):
    figure, table = drawn
    values = table["value"].dropna().to_numpy()
    curves = [
        line.get_ydata()
        for axes in visible(figure)
        for line in axes.lines
        if line.get_transform() == axes.transData and len(line.get_ydata()) > 2
    ]
    assert curves or name in ("position", "alignment", "correlations")
    for curve in curves:
        drawn = np.asarray(curve, dtype=float)
        nearest = np.abs(drawn[:, None] - values).min(axis=1)
        assert np.nanmax(nearest) < 1e-12


@EVERY
def test_its_numbers_are_those_of_the_summary(drawn, known):
    _, table = drawn
    keys = ["model", "metric", "variable", "layer", "relative_depth", "feature", "value", "low"]
    found = table[keys].merge(known[keys].drop_duplicates(), how="left", indicator=True)
    derived = {"floor", "majority_accuracy", "r2_all, scaled", "accuracy, scaled"}
    assert set(found[found["_merge"] == "left_only"]["variable"]) <= derived


@EVERY
def test_it_belongs_to_no_pyplot_and_changes_no_setting(name, results):
    before = dict(matplotlib.rcParams)
    draw(name, results)
    assert plt.get_fignums() == []
    assert dict(matplotlib.rcParams) == before


@EVERY
def test_text_grows_with_the_scale(name, results, drawn):
    large, _ = draw(name, results, scale=1.4)
    sizes = [figure.axes[0].title.get_fontsize() for figure in (drawn[0], large)]
    assert sizes[1] == pytest.approx(1.4 * sizes[0])


@OF_MODELS
def test_one_model_is_enough(name, by_model):
    figure, table = draw(name, {"small": by_model["small"]})
    assert set(table["model"]) == {"small"}
    assert all(axes.has_data() for axes in visible(figure))


@OF_MODELS
def test_without_intervals_the_values_are_drawn_alone(name, by_model):
    ends = ("_low", "_high", "_draws")
    bare = {
        metric: result.drop_vars([v for v in result.data_vars if v.endswith(ends)])
        for metric, result in by_model["small"].items()
    }
    figure, table = draw(name, {"small": bare})
    figure.draw_without_rendering()
    assert table[["low", "high"]].isna().all(axis=None)
    assert all(axes.has_data() for axes in visible(figure))


@OF_MODELS
def test_a_missing_result_is_a_note_and_the_rest_is_drawn(name, by_model):
    metric = FIGURES[name].metrics[0]
    lacking = {key: result for key, result in by_model["small"].items() if key != metric}
    figure, table = draw(name, {"small": lacking, "deep": by_model["deep"]})
    found = table[(table["model"] == "small") & (table["metric"] == metric)]
    assert set(found["note"]) == {f"there is no result of {metric}"}
    assert f"there is no result of {metric}" in words(figure)
    assert all(axes.has_data() for axes in visible(figure))
    assert table[(table["model"] == "deep") & (table["metric"] == metric)]["value"].notna().any()


@OF_MODELS
def test_what_is_absent_everywhere_leaves_its_reason_and_no_axes(name, by_model):
    absent = xr.Dataset()
    mark_absent(absent, "whole", "the model is of another kind")
    results = {model: dict.fromkeys(FIGURES[name].metrics, absent) for model in by_model}
    figure, table = draw(name, results)
    figure.draw_without_rendering()
    assert visible(figure) == []
    assert "the model is of another kind" in words(figure)
    assert table["value"].isna().all()


@OF_MODELS
def test_a_model_has_one_colour_in_every_figure(drawn, by_model):
    figure, _ = drawn
    expected = {to_hex(color) for color in style.colors(by_model, "colorblind").values()}
    lines = [line for axes in visible(figure) for line in axes.lines]
    assert expected <= {to_hex(line.get_color()) for line in lines}


@OF_MODELS
def test_a_model_without_cls_is_drawn_beside_one_that_has_it(name, by_model, without_cls):
    figure, _ = draw(name, {"small": by_model["small"], "patches": without_cls})
    assert all(axes.has_data() for axes in visible(figure))
    if name == "attention":
        assert "patches: no cls_inflow (the model has no [CLS] token)" in words(figure)


SAID_OF_FAMILIES = {
    "similarity": "Depth ½: before the norm that follows positions; i + 1½: after the attention of",
    "position": "rotary: no dominance, dominance_centered (its positions are rotary).",
    "scrambling": "Depth ½: before the norm",
    "overview": "information = task",
    "attention": "clip: no cls_inflow, consensus, entropy (its heads talk to each other).",
    "collapse": "clip: no nc3_alignment, nc4_agreement (the model has no classifier).",
    "probes": "test accuracy, patch_mean",  # what all three have
    "geometry": "Maps: CKA between all taps",
    "alignment": "rotary, cls: the model has no feature 'cls'",
    "tradeoff": "not paired: r2_all over 15, r2_self over 15, accuracy over 20 test images.",
    "interventions": "Change of top-1 accuracy against the model as it is",
    "depth": "Compute: share of the operations of the whole model.",
    "sweep": "6 models; intervals over images and over 2 or more models of each level.",
    "correlations": "Spearman's rank correlation; bold in the map",
    "comparison": "clip: no consensus (its heads talk to each other).",
}


@EVERY
def test_models_of_every_family_are_drawn_side_by_side(name, families, compared):
    results = compared(families) if FIGURES[name].compared else families
    figure, table = draw(name, results)
    figure.draw_without_rendering()
    assert all(axes.has_data() for axes in visible(figure))
    assert SAID_OF_FAMILIES[name] in words(figure).replace("\N{NO-BREAK SPACE}", " ")
    if name in ("similarity", "scrambling", "probes"):
        clip = table[(table["model"] == "clip") & table["depth"].notna()]
        assert {0, 0.5, 1, 1.5, 2, 2.5, 3, 4} <= set(clip["depth"])


@OF_MODELS
def test_no_title_lies_on_another(name, families):
    figure, _ = draw(name, families)
    figure.draw_without_rendering()
    for axes in visible(figure):
        titles = [t for t in (axes.title, axes._left_title, axes._right_title) if t.get_text()]
        boxes = [_inked(title) for title in titles]
        assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def _inked(text):
    """Where the first line of a text is."""
    box = text.get_window_extent()
    lines = text.get_text().count("\n") + 1
    return Bbox.from_extents(box.x0, box.y1 - box.height / lines, box.x1, box.y1)


def test_the_cliff_has_a_tick_for_every_tap_up_to_the_first_block(families):
    figure, _ = draw("position", families)
    ticks = [label.get_text() for label in figure.axes[1].get_xticklabels()]
    assert ticks == ["embed", "norm_pre", "position"]
    assert figure.axes[1].get_xticks().tolist() == [0, 0.5, 1]


def test_classes_left_out_and_a_classifier_asked_about_a_few_are_said(by_model):
    found = by_model["small"]["collapse"].copy(deep=True)
    found["nc4_agreement"].attrs["note"] = "the classifier is asked about 3 of its 1000 classes"
    mark_absent(found, "classes", "left out: 7, with fewer than 2 images in the split 'fit'")
    probed = by_model["small"]["probes"].copy()
    mark_absent(probed, "classes", "left out: 7, 8, with fewer than 5 images in the split 'fit'")
    collapse, _ = draw("collapse", {"small": {"collapse": found}})
    assert "the classifier is asked about 3 of its 1000 classes." in words(collapse)
    assert "classes left out: 7, with fewer than 2 images" in words(collapse)
    probes, _ = draw("probes", {"small": {"probes": probed}})
    assert "classes left out: 7, 8, with fewer than 5 images" in words(probes)


def test_a_model_without_probes_takes_no_feature_from_the_others(by_model):
    absent = xr.Dataset()
    mark_absent(absent, "probes", "one class is left")
    results = {"none": {"probes": absent}, **by_model}
    figure, _ = draw("probes", results)
    assert "one class is left" in words(figure) and "test accuracy, cls" in words(figure)
    assert figure.axes[-2].lines  # all models in one panel


def test_the_similarity_says_how_many_pieces_there_are_and_shades_three(by_model):
    figure, table = draw("similarity", by_model)
    pieces = rows.select(table, model="deep", variable="pieces")["value"].iloc[0]
    assert f"BIC: {pieces:.0f} piece" in words(figure)
    ends = table[table["variable"].isin(["cliff_end", "climb_start"])]
    ends = ends[ends["model"] == "deep"]["value"].tolist()
    shades = figure.axes[3].patches
    assert [shade.get_x() for shade in shades] == [0, *ends]


def test_too_few_taps_for_phases_leave_the_curve_and_the_reason(by_model):
    phases = xr.Dataset()
    mark_absent(phases, "phases", "three pieces need at least 5 taps, found 4")
    figure, _ = draw("similarity", {"small": {**by_model["small"], "phases": phases}})
    assert "three pieces need at least 5 taps, found 4" in words(figure)
    assert len(visible(figure)) == 2


def test_without_its_null_the_index_is_drawn_alone(by_model):
    result = by_model["small"]["scrambling"].sel(null=["none"]).drop_vars("isi_excess")
    mark_absent(result, "isi_excess", "not asked for")
    figure, table = draw("scrambling", {"small": {"scrambling": result}})
    assert set(rows.select(table, variable="isi")["feature"]) == {"none"}
    assert "small: no isi_excess (not asked for)." in words(figure)


def test_the_papers_band_is_drawn_behind_the_model_that_it_is_of(by_model):
    paper = {"small": "ViT-B/16", "deep": "ViT-L/16"}
    figure, table = draw("scrambling", by_model, paper_models=paper)
    bands = rows.select(table, variable="paper_band")
    assert bands["model"].tolist() == ["small"]  # of no other does the paper report one
    assert bands[["low", "high"]].to_numpy().tolist() == [[0.004, 0.009]]
    boxes = {axes.get_title("left"): axes.patches for axes in figure.axes[1:4:2]}
    (box,) = boxes["small"]
    assert (box.get_y(), box.get_height()) == pytest.approx((0.004, 0.005))
    assert not boxes["deep"] and "the paper's band" in words(figure)
    assert "the paper's band" not in words(draw("scrambling", by_model)[0])


def test_every_null_that_there_is_is_drawn(by_model):
    result = by_model["small"]["scrambling"]
    other = result.sel(null=["noise_matched"]).assign_coords(null=["patch_shuffled"])
    both = xr.concat([result, other], "null", data_vars="minimal")
    figure, table = draw("scrambling", {"small": {"scrambling": both}})
    assert set(rows.select(table, variable="isi")["feature"]) == set(both["null"].values)
    assert "index, patches shuffled" in words(figure)
    assert "attention off" not in words(figure)


def test_a_null_that_was_asked_for_and_is_not_there_says_why(by_model):
    result = by_model["small"]["scrambling"].copy()
    mark_absent(result, "attention_off", "it needs a forward pass of its own")
    figure, _ = draw("scrambling", {"small": {"scrambling": result}})
    assert "small: no null attention_off (it needs a forward pass of its own)." in words(figure)


@pytest.mark.parametrize("name", ["similarity", "scrambling", "probes"])
def test_models_are_named_beside_their_curves_and_no_name_lies_on_another(name, by_model):
    figure, _ = draw(name, {**by_model, "third": by_model["small"], "fourth": by_model["deep"]})
    figure.draw_without_rendering()
    for axes in figure.axes[-2:]:
        assert {text.get_text() for text in axes.texts} == {"small", "deep", "third", "fourth"}
        boxes = [text.get_window_extent() for text in axes.texts]
        assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
        assert all(box.x1 <= figure.bbox.x1 for box in boxes)


def test_both_summaries_of_heads_are_mapped(by_model):
    figure, _ = draw("attention", by_model)
    result = by_model["small"]["attention"]
    maps = [axes for axes in figure.axes if axes.get_title("left") == "small"]
    for axes, name in zip(maps, ("cls_inflow_head", "consensus_head"), strict=True):
        (mesh,) = axes.collections
        expected = result[name].transpose("head", "block")
        np.testing.assert_allclose(np.reshape(mesh.get_array(), expected.shape), expected)


def test_the_overview_has_the_landmarks_of_every_model(by_model):
    figure, table = draw("overview", by_model)
    crossing = rows.select(table, model="deep", variable="crossing")
    assert crossing["feature"].tolist() == ["r2_all,cls"]
    moments = [axes for axes in figure.axes if axes.get_title("left") == "landmarks"]
    places = [line.get_xdata()[0] for line in moments[0].lines if len(line.get_xdata()) == 1]
    assert crossing["value"].item() in places


def test_collapse_and_comparison_say_how_many_images(by_model, compared):
    collapse, _ = draw("collapse", by_model)
    assert "n = 40 fit images (NC1, NC2, NC3) and 20 test images (NC4, NCC)" in words(collapse)
    figure, _ = draw("comparison", compared(by_model))
    assert "n = 60 images (similarity, attention); 20 images (scrambling, probes)." in words(figure)


def test_an_interval_without_end_leaves_the_axis_as_it_is(by_model):
    result = by_model["small"]["collapse"].copy(deep=True)
    result["nc1_quotient_high"][:] = np.inf
    figure, _ = draw("collapse", {"small": {"collapse": result}})
    assert figure.axes[0].get_ylim()[1] < 10 * result["nc1_quotient"].max()


def test_a_regime_that_rules_collapse_is_said(by_model):
    result = by_model["small"]["collapse"].assign_attrs(
        regime_warning="at D = 9 and C = 10, beware"
    )
    figure, _ = draw("collapse", {"small": {"collapse": result}})
    assert "at D = 9 and C = 10, beware." in words(figure)


def test_the_crossing_is_given_in_layers_and_relative_to_depth(by_model):
    figure, table = draw("tradeoff", by_model)
    crossing, relative = (
        rows.select(table, model="deep", variable=name, feature="r2_all,cls")["value"].iloc[0]
        for name in ("crossing", "crossing_relative")
    )
    assert f"crossing at {crossing:.1f} layers ({relative:.2f})" in words(figure)


def test_curves_that_do_not_cross_say_so(by_model):
    tradeoff = by_model["small"]["tradeoff"].copy(deep=True)
    tradeoff["crossing"][:] = np.nan
    figure, _ = draw("tradeoff", {"small": {**by_model["small"], "tradeoff": tradeoff}})
    assert "the normalised curves do not cross" in words(figure)


def test_one_model_has_no_differences(compared, by_model):
    figure, _ = draw("comparison", compared({"small": by_model["small"]}))
    assert visible(figure) == []
    assert "a difference needs two models, found small" in words(figure)


def test_a_comparison_says_what_one_model_lacks(compared, by_model, without_cls):
    models = {**by_model, "patches": without_cls}
    figure, table = draw("comparison", compared(models))
    assert "patches: no cls_inflow (the model has no [CLS] token)" in words(figure)
    inflow = rows.select(table, variable="cls_inflow_difference_relative")
    assert inflow[inflow["value"].notna()]["model"].unique().tolist() == ["small - deep"]


def test_of_many_models_neighbours_are_compared(by_model, stored):
    models = {f"vit{i}": by_model["small"]["similarity"] for i in range(5)}
    found = comparison.compute(models, metric="similarity", bootstrap_samples=5)
    _, table = draw("comparison", {"similarity": stored(found)})
    pairs = [f"vit{i} - vit{i + 1}" for i in range(4)]
    assert table[table["value"].notna()]["model"].unique().tolist() == pairs


def test_accuracy_stands_in_every_row_of_a_model_and_in_none_of_a_pair():
    accuracies = {"small": xr.Dataset({"top1": 0.5}), "deep": xr.Dataset()}  # no classifier
    table = pd.DataFrame({"model": ["small", "deep", "small", "small - deep"]})
    found = rows.with_accuracy(table, {m: {"accuracy": a} for m, a in accuracies.items()})
    np.testing.assert_array_equal(found["top1"], [0.5, np.nan, 0.5, np.nan])


@pytest.mark.parametrize("name", ["sweep", "correlations"])
def test_too_few_models_for_a_sweep_are_said_once(name):
    absent = xr.Dataset()
    mark_absent(absent, "sweep", "a sweep needs 4 models, found 3")
    figure, table = draw(name, {"sweep": absent})
    assert words(figure) == "a sweep needs 4 models, found 3" and not visible(figure)
    assert table["value"].isna().all()


def test_curves_of_many_models_say_which_feature_they_are_of(by_model):
    figure, _ = draw("depth", {f"vit{i}": by_model["small"] for i in range(9)})
    assert "Curves of cls alone, without bands: 9 models." in words(figure)


def test_the_legend_of_interventions_names_the_changes_that_were_made(by_model):
    result = by_model["small"]["interventions"].sel(kind=["cls_mean", "block_skipped", "exit"])
    figure, _ = draw("interventions", {"small": {"interventions": result}})
    named = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"by the mean; skipped", "exit"} <= named
    assert not any("zero" in text or "to [CLS]" in text for text in named)


def test_more_models_than_colours_still_differ():
    many = style.colors(map(str, range(14)), "colorblind")
    assert len(set(many.values())) == 14


def test_an_unknown_palette_is_refused(by_model):
    with pytest.raises(VitalsError, match="palette 'no such'"):
        draw("probes", by_model, palette="no such")
