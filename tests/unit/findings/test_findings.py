"""Each statement of the paper on planted numbers: supported, contradicted and not testable."""

import json

import numpy as np
import pandas as pd
import pytest

import planted_summaries as planted
from planted_summaries import consensus, difference, phases, row
from vitals.findings import files
from vitals.findings import table as findings
from vitals.findings.evidence import Evidence, Missing
from vitals.findings.statements import STATEMENTS
from vitals.findings.verdicts import CONTRADICTED, NOT_TESTABLE, SUPPORTED

PAPER = {"small": "ViT-B/16", "deep": "ViT-L/16"}
# Of each statement, numbers for each verdict; differences are small less deep.
CASES = {
    "deeper_performs_worse": {
        SUPPORTED: difference("accuracy", 0.1),
        CONTRADICTED: difference("accuracy", -0.1),
        NOT_TESTABLE: difference("accuracy", 0.1, spread=0.2),
    },
    "three_phases": {
        SUPPORTED: phases("deep"),
        CONTRADICTED: phases("deep", climb=-0.1),
        NOT_TESTABLE: phases("deep", share=0.6),
    },
    "cls_is_marginalized": {
        SUPPORTED: [row("deep", "marginalization", -0.1)],
        CONTRADICTED: [row("deep", "marginalization", 0.1)],
        NOT_TESTABLE: [row("deep", "marginalization", 0.005)],
    },
    "consensus_rises": {
        SUPPORTED: consensus("deep", 0.2, 0.5),
        CONTRADICTED: consensus("deep", 0.5, 0.2),
        NOT_TESTABLE: consensus("deep", 0.5, 0.505),
    },
    "better_is_less_central": {
        SUPPORTED: [
            *difference("accuracy", 0.1),
            *difference("cls_inflow", -0.5),
            *difference("consensus", 0.1),
        ],
        CONTRADICTED: [
            *difference("accuracy", 0.1),
            *difference("cls_inflow", 0.5),
            *difference("consensus", 0.1),
        ],
        NOT_TESTABLE: [
            *difference("accuracy", 0.0),
            *difference("cls_inflow", -0.5),
            *difference("consensus", 0.1),
        ],
    },
    "tradeoff_is_later": {
        SUPPORTED: [row(planted.PAIR, "crossing_difference", -3.0, 1, feature="r2_all,cls")],
        CONTRADICTED: [row(planted.PAIR, "crossing_difference", 3.0, 1, feature="r2_all,cls")],
        NOT_TESTABLE: [row(planted.PAIR, "crossing_difference", 3.0, 5, feature="r2_all,cls")],
    },
    "extra_layers_diffuse": {
        SUPPORTED: [*difference("isi", -0.1), *difference("accuracy", 0.0)],
        CONTRADICTED: [*difference("isi", -0.1), *difference("accuracy", -0.1)],
        NOT_TESTABLE: [*difference("isi", -1e-6, 1e-7), *difference("accuracy", 0.0)],
    },
    "paper_cliff": {
        SUPPORTED: [
            row("deep", "centered_cosine", 0.022, 0.002, layer="embed"),
            row("deep", "centered_cosine", -0.006, 0.002, layer="position"),
        ],
        CONTRADICTED: [
            row("deep", "centered_cosine", 0.022, 0.002, layer="embed"),
            row("deep", "centered_cosine", 0.1, 0.002, layer="position"),
        ],
        NOT_TESTABLE: [row("deep", "centered_cosine", 0.022, 0.002, layer="embed")],
    },
    "paper_plateau": {
        SUPPORTED: [row("deep", "plateau_length", 13.0, 1.0)],
        CONTRADICTED: [row("deep", "plateau_length", 3.0, 1.0)],
        NOT_TESTABLE: [row("deep", "plateau_length", 13.0, np.nan)],
    },
    "paper_isi_band": {
        SUPPORTED: [
            row("small", "isi", v, 0.001, layer=f"block.{i}", feature="none", depth=i + 2.0)
            for i, v in enumerate([0.001, 0.0095])
        ],
        CONTRADICTED: [row("small", "isi", 0.1, layer="block.0", feature="none")],
        NOT_TESTABLE: [],
    },
    "paper_later_tradeoff": {
        SUPPORTED: [row(planted.PAIR, "crossing_difference", -9.0, 1, feature="r2_all,cls")],
        CONTRADICTED: [row(planted.PAIR, "crossing_difference", -3.0, 1, feature="r2_all,cls")],
        NOT_TESTABLE: [],
    },
    "paper_final_geometry": {
        SUPPORTED: difference("nc1_quotient", -1.0),
        CONTRADICTED: difference("nc1_quotient", 1.0),
        NOT_TESTABLE: difference("nc1_quotient", 0.0),
    },
}


def found(rows, statement, models=("small", "deep"), paper_models=PAPER):
    whole = findings.table(
        planted.table(*rows), study="planted", models=models, paper_models=paper_models
    )
    return whole[whole["statement"] == statement]


def of_the_one_planted(rows, statement):
    """The rows of the one subject that has numbers."""
    table = found(rows, statement)
    numbered = table[table["value"].notna()]
    return numbered if len(numbered) else table


def test_every_statement_has_a_case_of_each_verdict():
    assert CASES.keys() == {statement.name for statement in STATEMENTS}
    assert all(set(cases) == {SUPPORTED, CONTRADICTED, NOT_TESTABLE} for cases in CASES.values())


@pytest.mark.parametrize(
    ("statement", "verdict"), [(name, verdict) for name, of in CASES.items() for verdict in of]
)
def test_planted_numbers_have_their_verdict(statement, verdict):
    table = of_the_one_planted(CASES[statement][verdict], statement)
    assert set(table["verdict"]) == {verdict}
    assert (table["reason"] != "").all() == (verdict == NOT_TESTABLE)
    assert (table["rule"] != "").all() and (table["claim"] != "").all()


def test_a_difference_is_turned_to_the_deeper_less_the_shallower():
    (number,) = of_the_one_planted(
        difference("accuracy", 0.1), "deeper_performs_worse"
    ).itertuples()
    assert number.subject == "deep - small"
    assert (number.value, number.low, number.high) == pytest.approx((-0.1, -0.11, -0.09))


def test_what_is_not_of_the_paper_is_not_held_against_it():
    rows = [row("deep", "plateau_length", 14.0, 1.0)]
    table = found(rows, "paper_plateau", paper_models={})
    assert set(table["verdict"]) == {NOT_TESTABLE}
    assert "no model of this study is the paper's ViT-S/16" in table["reason"].iloc[0]


def test_models_of_one_depth_say_nothing_of_depth():
    table = found(difference("accuracy", 0.1), "deeper_performs_worse", models=["small"])
    assert table["reason"].tolist() == ["it needs two models of different depth"]
    table = found([], "better_is_less_central", models=["small"])
    assert table["reason"].tolist() == ["it needs two models"]


def test_few_taps_are_no_evidence_against_three_phases():
    rows = [r for r in phases("deep") if r["variable"] != "pieces_share"]
    table = found([*rows, row("deep", "pieces_share", 1.0, feature="2")], "three_phases")
    assert set(table["verdict"]) == {NOT_TESTABLE}


def test_a_missing_number_gives_the_reason_of_the_summary():
    absent = row("deep", "marginalization", np.nan, note="the model has no [CLS] token")
    table = found([absent], "cls_is_marginalized")
    reason = table.loc[table["subject"] == "deep", "reason"].item()
    assert reason == "no marginalization (the model has no [CLS] token)"


def test_a_statement_has_a_row_for_each_number_and_its_subjects():
    rows = [*difference("isi", -0.1), *difference("accuracy", 0.0)]
    table = found(rows, "extra_layers_diffuse")
    quantities = ["isi_difference_relative", "accuracy_difference_relative, cls"]
    assert table["quantity"].tolist() == quantities
    assert table["value"].tolist() == pytest.approx([0.1, 0.0])
    assert list(table.columns) == findings.COLUMNS


def test_models_without_cls_are_judged_by_their_mean_patch():
    rows = [{**r, "feature": "patch_mean"} for r in difference("accuracy", 0.1)]
    table = of_the_one_planted(rows, "deeper_performs_worse")
    assert table["quantity"].tolist() == ["accuracy_difference_relative, patch_mean"]


def test_models_are_judged_by_their_own_classifiers_on_all_test_images():
    few = row(planted.PAIR, "top1_difference", -0.2, metric="interventions")
    every = row(planted.PAIR, "top1_difference", 0.1, metric="accuracy")
    rows = [few, every, *difference("accuracy", -0.1)]
    (number,) = of_the_one_planted(rows, "deeper_performs_worse").itertuples()
    assert (number.quantity, number.verdict) == ("top1_difference", SUPPORTED)
    assert number.value == pytest.approx(-0.1)


def test_an_interval_that_is_not_there_decides_nothing():
    evidence = Evidence(planted.table(row("deep", "marginalization", -1.0, np.nan)), ["deep"])
    with pytest.raises(Missing, match="there is no interval"):
        evidence.number("deep", "marginalization")


def test_the_table_is_written_with_its_origin_and_read_back(tmp_path):
    summary = planted.table(row("deep", "marginalization", -0.1))
    summary.to_csv(tmp_path / "summary.csv", index=False)
    settings = {"study": "planted", "models": ["small", "deep"]}
    verdicts = files.write(
        tmp_path / "summary.csv", tmp_path / "findings.csv", **settings, origin={"code": "c"}
    )
    assert verdicts[SUPPORTED] == 1
    expected = findings.table(summary, **settings)
    pd.testing.assert_frame_equal(
        files.read(tmp_path / "findings.csv"), expected, check_dtype=False
    )
    said = json.loads((tmp_path / "findings.json").read_text())
    assert said["code"] == "c" and set(said["files"]) == {"findings.csv"}
