"""The replication page: each statement of the paper with what a study shows of it, as Markdown.

Written from the tables of studies alone: `summary.csv` and `findings.csv`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vitals.errors import VitalsError
from vitals.metrics.table_files import write_origin
from vitals.whole import whole_file

SUMMARY, FINDINGS = "summary.csv", "findings.csv"
# The same question asked of other estimators, by metric: if they order the models otherwise, what
# is said of the models hangs on the estimator. At the last tap of the residual stream.
CHOICES = {
    "centring of tokens": (
        "similarity",
        ("cosine", "centered_cosine", "robust_centered_cosine", "squared_cosine"),
    ),
    "estimator of scrambling": ("scrambling", ("isi", "isi_excess", "recovered")),
    "estimator of collapse": ("collapse", ("nc1_quotient", "nc1_cdnv", "nc1_pinv")),
    "probe": ("probes", ("accuracy", "ridge_accuracy", "lda_accuracy", "knn_accuracy")),
    "landmark of the trade-off": ("tradeoff", ("crossing", "onset", "knee")),
}
FEATURES = ("", "none", "cls", "r2_all,cls", "patch_mean", "r2_all,patch_mean")


@dataclass(frozen=True)
class Tables:
    """What a study found: its numbers, and its verdicts on statements."""

    name: str
    summary: pd.DataFrame
    findings: pd.DataFrame

    @property
    def models(self) -> list[str]:
        """The models, in the order of the summary."""
        of_models = (self.summary["metric"] == "accuracy") & (self.summary["variable"] == "top1")
        return list(dict.fromkeys(self.summary.loc[of_models, "model"]))


def read(folder: Path) -> Tables:
    """The tables in the folder of a study; VitalsError for one that is not there."""
    for name in (SUMMARY, FINDINGS):
        if not (folder / name).is_file():
            raise VitalsError(
                f"no {name} in {folder}: expected the folder of a study that has run to its end"
            )
    tables = (pd.read_csv(folder / name, keep_default_na=False) for name in (SUMMARY, FINDINGS))
    numbers = ("value", "low", "high", "depth", "top1")
    whole = [
        table.assign(**{c: pd.to_numeric(table[c]) for c in numbers if c in table})
        for table in tables
    ]
    return Tables(folder.name, *whole)


def write(
    study: Path, beside: Sequence[Path], output: Path, origin: Mapping[str, Any] | None = None
) -> int:
    """Write the page of the folder of a study; how many statements are on it.

    beside: folders of other studies; origin: written into a JSON file beside the page.
    """
    tables = [read(folder) for folder in (study, *beside)]
    with whole_file(output) as partial:
        partial.write_text(page(tables[0], tables[1:]))
    if origin is not None:
        write_origin(output.with_suffix(".json"), [output], origin)
    return tables[0].findings["statement"].nunique()


def page(study: Tables, beside: Sequence[Tables] = ()) -> str:
    """The page of a study; beside: others, of other checkpoints, classes or settings.

    The models with their accuracy and blocks; each statement with its rule, which says what
    supports and what contradicts it, and the verdict of each model or pair with its numbers; how
    verdicts stand in the other studies; and how other choices of the estimator order the models.
    """
    parts = [
        f"# Replication: {study.name}\n",
        "\n".join(_models(study)),
        *("\n".join(_statement(study, beside, rows)) for _, rows in _by_statement(study)),
        "\n".join(_sensitivity(study)),
    ]
    return "\n".join(parts)


def _models(study: Tables) -> Iterator[str]:
    yield "## Models\n"
    yield from _head("model", "blocks", "top-1", "published, less")
    for model in study.models:
        published = _number(study, model, "accuracy", "published_difference")
        top1 = _number(study, model, "accuracy", "top1")
        yield _row(model, str(_blocks(study, model)), top1, published)
    yield ""
    for group in _of_equal_depth(study):
        yield (
            f"{' and '.join(group)} have {_blocks(study, group[0])} blocks each: between them the "
            "width changes, and not the depth.\n"
        )


def _statement(study: Tables, beside: Sequence[Tables], rows: pd.DataFrame) -> Iterator[str]:
    first = rows.iloc[0]
    yield f"## {first['claim']}\n"
    yield f"*{first['source']}.* {first['rule']}\n"
    if first["beside"]:
        yield f"{first['beside']}\n"
    yield from _head("study", "of", "verdict", "numbers")
    for tables in (study, *beside):
        of_statement = tables.findings["statement"] == first["statement"]
        for subject, found in tables.findings[of_statement].groupby("subject", sort=False):
            numbers = found[found["quantity"] != ""]
            said = "; ".join(
                f"{row.quantity} {_spelled(row.value, row.low, row.high)}"
                for row in numbers.itertuples()
            )
            yield _row(tables.name, str(subject), found.iloc[0]["verdict"], said or _why(found))
    yield ""


def _sensitivity(study: Tables) -> Iterator[str]:
    yield "## Does it hang on the estimator?\n"
    yield (
        "The models by the same question asked otherwise, smallest value first, at the last tap of "
        "the residual stream. Where the order changes within a choice, the choice decides.\n"
    )
    yield from _head("choice", "variable", *study.models, "order")
    for choice, (metric, variables) in CHOICES.items():
        for variable in variables:
            rows = {m: _last(study, m, metric, variable) for m in study.models}
            there = {m: row for m, row in rows.items() if row is not None}
            if there:
                order = sorted(there, key=lambda model: there[model].value)
                cells = [_spelled(*rows[m][["value", "low", "high"]]) if m in there else "absent"
                         for m in study.models]  # fmt: skip
                yield _row(choice, f"`{variable}`", *cells, " < ".join(order))
    yield ""


def _by_statement(study: Tables) -> Iterator[tuple[object, pd.DataFrame]]:
    yield from study.findings.groupby("statement", sort=False)


def _why(found: pd.DataFrame) -> str:
    return str(found.iloc[0]["reason"])


def _last(study: Tables, model: str, metric: str, variable: str) -> pd.Series | None:
    """The deepest row of a variable on the residual stream, of the first feature that there is."""
    table = study.summary
    rows = table[(table["model"] == model) & (table["metric"] == metric)]
    rows = rows[(rows["variable"] == variable) & (rows["layer"] != "norm")].dropna(subset="value")
    for feature in FEATURES:
        own = rows[rows["feature"] == feature]
        if len(own):
            return own.iloc[own["depth"].fillna(0).to_numpy().argmax()]
    return None


def _number(study: Tables, model: str, metric: str, variable: str) -> str:
    row = _last(study, model, metric, variable)
    return "–" if row is None else _spelled(row["value"], row["low"], row["high"])


def _blocks(study: Tables, model: str) -> int:
    layers = study.summary.loc[study.summary["model"] == model, "layer"]
    return layers[layers.str.fullmatch(r"block\.\d+")].nunique()


def _of_equal_depth(study: Tables) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for model in study.models:
        groups.setdefault(_blocks(study, model), []).append(model)
    return [group for group in groups.values() if len(group) > 1]


def _spelled(value: float, low: float, high: float) -> str:
    return f"{value:.4g}" if pd.isna(low) else f"{value:.4g} [{low:.4g}, {high:.4g}]"


def _head(*names: str) -> Iterator[str]:
    yield _row(*names)
    yield _row(*["---"] * len(names))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
