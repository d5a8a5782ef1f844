"""What the catalogue names is there."""

from pathlib import Path

import pytest
import yaml

from vitals import catalogue, provenance
from vitals.catalogue import FIGURES, METRICS

REPOSITORY = Path(__file__).parents[2]
SCHEMA = yaml.safe_load((REPOSITORY / "workflow" / "schemas" / "study.yaml").read_text())


def test_every_metric_has_settings_a_module_and_a_page():
    assert SCHEMA["properties"]["metrics"]["properties"].keys() == METRICS.keys()
    for name in METRICS:
        assert (REPOSITORY / "docs" / "metrics" / f"{name}.md").is_file()


def test_a_metric_reads_activations_or_the_results_of_metrics_before_it():
    before = set()
    for name, metric in METRICS.items():
        assert bool(metric.tiers) + bool(metric.results) + bool(metric.passed) == 1
        assert set(metric.tiers) <= {catalogue.TOKENS, catalogue.POOLED}
        assert set(metric.results) <= before
        before.add(name)


def test_a_figure_draws_metrics_that_there_are():
    for figure in FIGURES.values():
        assert set(figure.metrics) <= METRICS.keys() | {catalogue.ALIGNMENT, catalogue.SWEEP}


@pytest.mark.parametrize(
    "modules",
    [
        *catalogue.STAGE_MODULES.values(),
        *(metric.modules for metric in METRICS.values()),
        *(figure.modules for figure in FIGURES.values()),
    ],
    ids=lambda modules: modules[0],
)
def test_the_modules_of_every_stage_are_there(modules):
    assert all(provenance._source(module) for module in modules)


def test_a_room_imports_only_from_the_rooms_before_it():
    rooms = ["data", "models", "activations", "metrics", "figures", "findings", "captions", "page"]
    for place, room in enumerate(rooms):
        for path in (provenance.LIBRARY / room).glob("*.py"):
            name = f"vitals.{room}.{path.stem}".removesuffix(".__init__")
            imported = {part.split(".")[1] for part in provenance._imports(name) if "." in part}
            assert not imported & set(rooms[place + 1 :]), name


def test_a_metric_imports_no_other():
    modules = {f"vitals.metrics.{name}" for name in METRICS}
    for module in modules:
        assert not modules & set(provenance._imports(module)) - {module}
