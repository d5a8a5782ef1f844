"""Every known answer of every metric beside what is computed, at float32 and from float16 storage.

    python benchmarks/known_answers.py

Writes known_answers.csv and known_answers.md beside this file, and fails where a result is farther
from what is known than its tolerance.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from known_cases import Case, cases
from paired import machine, markdown

from vitals.progress import progress

HERE = Path(__file__).parent
STORAGE = {"float32": np.float32, "float16": np.float16}


def main() -> None:
    """Compute each case and write the table."""
    table = pd.DataFrame([row for case in progress(cases(), "cases") for row in rows(case)])
    table.to_csv(HERE / "known_answers.csv", index=False)
    (HERE / "known_answers.md").write_text(page(table))
    wrong = table[~table["within"]]
    if len(wrong):
        sys.exit(f"{len(wrong)} of {len(table)} answers are not what is known:\n{wrong}")


def rows(case: Case) -> list[dict]:
    """A row for each variable of a case."""
    found = {name: case.find(storage) for name, storage in STORAGE.items()}
    return [_row(case, variable, found) for variable in case.expected]


def _row(case: Case, variable: str, found: dict[str, dict[str, float]]) -> dict:
    expected = case.expected[variable]
    values = {name: found[name].get(variable, np.nan) for name in STORAGE}
    errors = {name: abs(value - expected) for name, value in values.items()}
    within = all(
        errors[name] <= tolerance for name, tolerance in zip(STORAGE, case.tolerance, strict=True)
    )
    return {
        "metric": case.metric,
        "case": case.name,
        "variable": variable,
        "expected": expected,
        **values,
        **{f"error, {name}": error for name, error in errors.items()},
        **dict(zip((f"allowed, {name}" for name in STORAGE), case.tolerance, strict=True)),
        "within": within,
    }


def page(table: pd.DataFrame) -> str:
    """The table, and what its columns are."""
    within = f"{table['within'].sum()} of {len(table)}"
    shown = table.drop(columns="within").set_index("metric")
    shown["case"] = shown["case"].str.replace("|", r"\|")
    values = ["expected", *STORAGE]
    shown[values] = shown[values].map(lambda value: f"{value:.7g}")
    return (
        "# What is known, and what is computed\n\n"
        "Data whose answer is known in closed form, through each metric's `compute`, from tokens, "
        "attention, features\nor curves stored in float32 and in float16. Where data is random, "
        "what is allowed is the sampling error.\n\n"
        f"{within} are within what is allowed.\n\n"
        f"{markdown(shown, 2)}\n"
        f"{machine('numpy', 'torch', 'scikit-learn', 'xarray')}.\n\n"
        "Repeat: `python benchmarks/known_answers.py`.\n"
    )


if __name__ == "__main__":
    main()
