"""What a study shows of each statement of the paper, as one tidy table."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from vitals.findings.evidence import Evidence
from vitals.findings.statements import STATEMENTS
from vitals.findings.verdicts import Finding, Statement

COLUMNS = [
    "study",
    "statement",
    "claim",
    "source",
    "subject",
    "verdict",
    "reason",
    "quantity",
    "value",
    "low",
    "high",
    "unit",
    "rule",
    "beside",
]


def table(
    summary: pd.DataFrame,
    *,
    study: str,
    models: Sequence[str],
    paper_models: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """One row for each number behind each verdict, one without a number where there is none.

    summary: the table of all numbers; models: in the order of the study; paper_models: which of
    them are one of the paper's, "ViT-S/16", "ViT-B/16" or "ViT-L/16" on ImageNet-1k.
    A statement has a verdict for each `subject`, a model or a pair "a - b": "supported",
    "contradicted", or "not testable here" with its `reason`; `rule` says how it was judged and
    `beside` what must be known with it.
    """
    evidence = Evidence(summary, models, dict(paper_models or {}))
    rows = [
        {"study": study, **_said(statement), **row}
        for statement in STATEMENTS
        for finding in statement.judge(evidence)
        for row in _rows(finding)
    ]
    return pd.DataFrame(rows)[COLUMNS]


def _said(statement: Statement) -> dict[str, str]:
    names = ("claim", "source", "rule", "beside")
    return {"statement": statement.name, **{name: getattr(statement, name) for name in names}}


def _rows(finding: Finding) -> list[dict[str, object]]:
    verdict = {"subject": finding.subject, "verdict": finding.verdict, "reason": finding.reason}
    names = ("quantity", "value", "low", "high", "unit")
    if not finding.numbers:
        nothing = {"quantity": "", "value": np.nan, "low": np.nan, "high": np.nan, "unit": ""}
        return [{**verdict, **nothing}]
    return [
        {**verdict, **{name: getattr(number, name) for name in names}} for number in finding.numbers
    ]
