"""Captions say the numbers of the summary, with their intervals and units."""

import json

import pytest
from docutils.core import publish_parts

import planted_summaries as planted
from planted_summaries import row
from vitals.captions import files, sentences
from vitals.captions.numbers import LAST_BLOCK, Told
from vitals.catalogue import FIGURES
from vitals.findings import table as findings

ROWS = [
    row("deep", "climb_start", 6.25, 0.25, unit="layers"),
    row("deep", "centered_cosine", -0.0123, 0.001, layer="embed", depth=0.0),
    *(row("deep", "isi", v, layer=f"block.{i}", depth=i + 2.0, feature="none")
      for i, v in enumerate([0.0, 0.5])),
    row("deep", "cls_inflow", float("nan"), layer="", note="the model has no [CLS] token"),
    row(planted.PAIR, "crossing_difference", -3.0, 1.0, feature="r2_all,cls", unit="layers"),
]  # fmt: skip


@pytest.fixture
def told():
    return Told(planted.table(*ROWS))


def test_a_number_has_its_interval_and_unit(told):
    assert told.number("deep", "climb_start") == "6.25 [6, 6.5] layers"
    assert told.number("deep", "centered_cosine", "embed") == "−0.0123 [−0.0133, −0.0113]"


def test_the_last_block_is_the_deepest_there_is(told):
    assert told.number("deep", "isi", LAST_BLOCK) == "0.5 [0.49, 0.51]"


def test_what_is_not_there_says_why(told):
    assert told.number("deep", "cls_inflow") == "(the model has no [CLS] token)"
    assert told.number("deep", "knee") == "(absent)"


def test_a_figure_without_a_sentence_of_its_own_has_its_name(told):
    assert sentences.of_figure("another", told, ["deep"]) == "Figure another.\n"


def test_every_figure_says_what_it_shows():
    assert set(sentences.SHOWN) == set(FIGURES)


def test_the_levels_of_a_sweep_are_no_pair_of_models(told):
    levels = row("4 - 2", "accuracy_difference", 0.1, metric="sweep")
    assert Told(planted.table(*ROWS, levels)).pairs() == told.pairs() == [planted.PAIR]


@pytest.mark.parametrize("name", [*sentences.OF_MODELS, *sentences.OF_PAIRS])
def test_every_figure_has_a_caption_of_every_model_or_pair(name, told):
    caption = sentences.of_figure(name, told, ["small", "deep"])
    subjects = [planted.PAIR] if FIGURES[name].compared else ["small", "deep"]
    assert all(f"**{subject}**" in caption for subject in subjects)
    shown = publish_parts(caption, writer="html")["body"]
    assert "<li>" in shown and "system-message" not in shown


def test_the_captions_of_a_study_are_files_that_say_their_origin(tmp_path):
    summary = planted.table(*ROWS)
    summary.to_csv(tmp_path / "summary.csv", index=False)
    found = findings.table(summary, study="planted", models=["small", "deep"])
    found.to_csv(tmp_path / "findings.csv", index=False)
    made = files.write(
        tmp_path / "summary.csv", tmp_path / "findings.csv", tmp_path / "captions.json",
        study="planted", models=["small", "deep"], figures=["tradeoff", "comparison"], code="c",
    )  # fmt: skip
    assert made == 3
    assert "crossing −3 [−4, −2] layers" in (tmp_path / "comparison.rst").read_text()
    study = (tmp_path / "study.rst").read_text()
    assert "in later layers. deep - small: **supported**." in study
    said = json.loads((tmp_path / "captions.json").read_text())
    assert set(said["files"]) == {"tradeoff.rst", "comparison.rst", "study.rst"}
