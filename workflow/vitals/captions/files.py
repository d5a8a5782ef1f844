"""Captions on disk: one .rst file a figure, one of the study, and where they come from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from vitals.captions import sentences
from vitals.captions.numbers import Told
from vitals.findings.files import read
from vitals.metrics.table_files import write_origin
from vitals.whole import whole_file


def write(
    summary: Path,
    findings: Path,
    output: Path,
    *,
    study: str,
    models: Sequence[str],
    figures: Sequence[str],
    **origin: Any,
) -> int:
    """Write {figure}.rst and study.rst beside `output`, which says what they were made from.

    Returns how many captions there are.
    """
    told = Told(read(summary))
    captions = {name: sentences.of_figure(name, told, models) for name in figures}
    captions["study"] = sentences.of_study(study, _verdicts(read(findings)))
    texts = {output.with_name(f"{name}.rst"): text for name, text in captions.items()}
    for path, text in texts.items():
        with whole_file(path) as partial:
            partial.write_text(text)
    write_origin(output, texts, origin)
    return len(captions)


def _verdicts(findings: pd.DataFrame) -> dict[str, list[str]]:
    """Of each claim, the verdict on each subject; those that cannot be tested as one."""
    said: dict[str, list[str]] = {}
    for claim, rows in findings.groupby("claim", sort=False):
        subjects = rows.drop_duplicates("subject")
        told = [
            f"{row['subject']}: **{row['verdict']}**"
            for _, row in subjects.iterrows()
            if row["verdict"] != "not testable here"
        ]
        said[str(claim)] = told or ["**not testable here**"]
    return said
