"""The page says what the tables say: of each statement, of each model, of each estimator."""

import pandas as pd
import pytest

from vitals import cli, replication
from vitals.errors import VitalsError
from vitals.metrics import summary

MODELS = {"vit_small": 2, "vit_base": 2, "vit_large": 4}


def row(model, metric, variable, value, layer="", feature="", **columns):
    """A row of a summary, whose interval reaches 0.1 to either side."""
    depth = float(layer.removeprefix("block.")) if "block." in layer else float("nan")
    said = dict.fromkeys(summary.COLUMNS, "")
    said |= {"model": model, "metric": metric, "variable": variable, "layer": layer}
    said |= {"feature": feature, "value": value, "low": value - 0.1, "high": value + 0.1}
    return {**said, "depth": depth, **columns}


def numbers():
    """Three models whose order by NC1 hangs on its estimator."""
    rows = []
    for place, (model, blocks) in enumerate(MODELS.items()):
        rows.append(row(model, "accuracy", "top1", 0.5 + place / 10))
        for block in range(blocks):
            for variable, sign in (("nc1_quotient", 1), ("nc1_pinv", -1)):
                value = 10 + sign * place + block
                rows.append(row(model, "collapse", variable, value, f"block.{block}", "cls"))
        rows.append(row(model, "collapse", "nc1_quotient", 99, "norm", "cls", depth=9))
    rows.append(row("vit_base - vit_small", "accuracy", "top1_difference", 0.1))
    rows.append(row("compare", "accuracy", "comparison", float("nan")))
    return pd.DataFrame(rows)


def findings(verdict="supported"):
    said = {
        **{"study": "three", "statement": "deeper_performs_worse", "claim": "Deeper is worse."},
        **{"source": "abstract", "subject": "vit_large - vit_base", "verdict": verdict},
        **{"reason": "", "quantity": "accuracy", "value": -0.2, "low": -0.3, "high": -0.1},
        **{"unit": "1", "rule": "Supported where it is below zero.", "beside": "By checkpoint."},
    }
    untested = {"verdict": "not testable here", "reason": "no classes", "quantity": ""}
    nothing = dict.fromkeys(("value", "low", "high"), "")
    other = {**said, **untested, **nothing, "statement": "other", "claim": "Another."}
    return pd.DataFrame([said, other])


@pytest.fixture
def folder(tmp_path):
    def write(name, **settings):
        (tmp_path / name).mkdir()
        numbers().to_csv(tmp_path / name / "summary.csv", index=False)
        findings(**settings).to_csv(tmp_path / name / "findings.csv", index=False)
        return tmp_path / name

    return write


@pytest.fixture
def said(folder):
    return replication.page(replication.read(folder("three"))).splitlines()


def test_models_stand_with_their_accuracy_and_equal_depths_are_said(said):
    assert "| vit_small | 2 | 0.5 [0.4, 0.6] | – |" in said
    equal = "vit_small and vit_base have 2 blocks each: between them the width changes, "
    assert f"{equal}and not the depth." in said
    assert replication.Tables("three", numbers(), findings()).models == list(MODELS)


def test_a_statement_has_its_rule_its_verdict_and_its_numbers(said):
    start = said.index("## Deeper is worse.")
    assert said[start + 2] == "*abstract.* Supported where it is below zero."
    assert said[start + 4] == "By checkpoint."
    verdict = "| three | vit_large - vit_base | supported | accuracy -0.2 [-0.3, -0.1] |"
    assert verdict in said[start:]
    assert "| three | vit_large - vit_base | not testable here | no classes |" in said


def test_estimators_that_order_the_models_otherwise_are_seen(said):
    rows = [line for line in said if line.startswith("| estimator of collapse")]
    assert rows[0].endswith("| vit_small < vit_base < vit_large |")
    assert "`nc1_quotient` | 11 [10.9, 11.1] | 12 [11.9, 12.1] | 15 [14.9, 15.1]" in rows[0]
    assert rows[1].endswith("| vit_base < vit_small < vit_large |")


def test_other_studies_stand_beside(folder):
    tables = [replication.read(folder("three")), replication.read(folder("b", verdict="no"))]
    said = replication.page(tables[0], tables[1:])
    assert "| b | vit_large - vit_base | no | accuracy" in said


def test_the_command_writes_the_page_beside_the_tables(folder, capsys):
    study = folder("three")
    cli.main(["replication", str(study)])
    page = study / "replication.md"
    assert capsys.readouterr().out == f"vitals replication: 2 statements in {page}\n"
    assert page.read_text().startswith("# Replication: three\n")


def test_a_study_that_has_not_run_to_its_end_is_refused(tmp_path):
    with pytest.raises(VitalsError, match=r"no summary.csv in .*: expected the folder of a study"):
        replication.read(tmp_path)
