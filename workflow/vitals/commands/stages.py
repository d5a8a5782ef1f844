"""What each stage of the workflow runs: its inputs read, its result written with its origin.

Each returns the line that it ends with.
"""

import argparse
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from vitals.catalogue import FIGURES, INTERVENE, METRICS, modules
from vitals.errors import VitalsError, unknown

Entry = TypeVar("Entry")


def images(options: argparse.Namespace) -> str:
    """List the images of a study."""
    from vitals.data import images

    settings = {**options.spec, "path": options.data}
    previous = options.output if options.output.is_file() else None
    table = images.build(settings, previous)
    images.write(table, options.output, settings, **_provenance(options))
    counts = table["split"].value_counts()
    return f"{len(table)} images ({counts['fit']} fit, {counts['test']} test) in {options.output}"


def train(options: argparse.Namespace) -> str:
    """Train a model from scratch."""
    from vitals.models import stage

    return stage.train(**_model_inputs(options), data=options.data, studies=options.studies)


def load(options: argparse.Namespace) -> str:
    """Load a model's weights."""
    from vitals.models import stage

    return stage.load(**_model_inputs(options), weights_file=next(iter(options.weights), None))


def _model_inputs(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "spec": options.spec,
        "provenance": _provenance(options),
        "images": options.images,
        "weights": options.output,
        "device": options.device,
    }


def extract(options: argparse.Namespace) -> str:
    """Pass a shard of images and store the taps."""
    from vitals.activations import stage

    return stage.run(
        options.spec, _provenance(options), options.images, options.data, options.model,
        options.output, _machine(options), options.studies,
    )  # fmt: skip


def vary(options: argparse.Namespace) -> str:
    """Pass a shard otherwise, for a null to measure on."""
    return extract(options)


def stream(options: argparse.Namespace) -> str:
    """Pass a shard of images through a metric."""
    from vitals.metrics import streaming

    module, reducer = _reducer(options).split(".")
    return streaming.run(
        getattr(import_module(f"vitals.metrics.{module}"), reducer), options.spec,
        _provenance(options), options.images, options.data, options.model, options.output,
        _machine(options),
    )  # fmt: skip


def intervene(options: argparse.Namespace) -> str:
    """Pass images with one change at a time."""
    from vitals.metrics import intervening

    return intervening.run(
        options.spec, _provenance(options), options.images, options.data, options.model,
        options.output, _machine(options),
    )  # fmt: skip


def merge(options: argparse.Namespace) -> str:
    """Make a metric of what passes of its own have found."""
    from vitals.metrics import inputs, streamed

    _reducer(options)
    besides = inputs.of_tiers(options.activations, METRICS[options.name].besides)
    finish = import_module(f"vitals.metrics.{options.name}").finish
    found = finish(streamed.read(options.streamed), **besides, **options.spec)
    return _written(options, found)


def _reducer(options: argparse.Namespace) -> str:
    streamable = {name: metric.reducer for name, metric in METRICS.items() if metric.reducer}
    return _known("metric that can be streamed", options.name, streamable)


def _machine(options: argparse.Namespace) -> Any:
    from vitals import device
    from vitals.activations.passing import Machine

    return Machine(device.choose(options.device), options.batch, options.workers, options.decoded)


def metric(options: argparse.Namespace) -> str:
    """Reduce stored activations to a metric."""
    from vitals.metrics import files, results

    metric = _known("metric", options.name, METRICS)
    if metric.tiers and not options.activations:
        raise VitalsError(f"{options.name} reads activations: give its shards as --activations")
    compute = import_module(f"vitals.metrics.{options.name}").compute
    if metric.tiers:
        from vitals.metrics import inputs

        given = inputs.of_activations(options.activations, metric.tiers)
        if metric.varied:
            given["variants"] = inputs.of_variants(options.variants)
        found = compute(**given, **options.spec)
    else:
        found = compute(results.joined(files.read_by_metric(options.results)), **options.spec)
    return _written(options, found)


def _written(options: argparse.Namespace, found: Any) -> str:
    from vitals.metrics import files, results

    files.write(found, options.output, **_provenance(options))
    absent = "".join(f"; {name} absent: {why}" for name, why in results.absences(found).items())
    return f"{options.name} in {options.output}{absent}"


def compare(options: argparse.Namespace) -> str:
    """Take the differences of models in a metric."""
    from vitals.metrics import comparison, files

    _known("metric", options.name, METRICS)
    read = files.read_by_model(options.results)
    results = {
        model: _known(f"result of {model}", options.name, found) for model, found in read.items()
    }
    found = comparison.compute(results, **options.spec)
    files.write(found, options.output, **_provenance(options))
    return f"{len(results)} models compared by {options.name} in {options.output}"


def align(options: argparse.Namespace) -> str:
    """Compare the geometry of models tap by tap."""
    from vitals.metrics import alignment, files, inputs

    models = inputs.of_models(options.activations)
    files.write(alignment.compute(models, **options.spec), options.output, **_provenance(options))
    return f"{len(models)} models aligned in {options.output}"


def sweep(options: argparse.Namespace) -> str:
    """Find what changes over models of several depths or widths."""
    from vitals.metrics import files, sweep

    models = files.read_by_model(options.results)
    reports = {path.parent.name: json.loads(path.read_bytes()) for path in options.reports}
    if missing := sorted(models.keys() ^ reports.keys()):
        raise VitalsError(f"expected results and a report of each model, found one of {missing}")
    found = sweep.compute(models, reports, **options.spec)
    files.write(found, options.output, **_provenance(options))
    return f"{len(models)} models swept in {options.output}"


def figure(options: argparse.Namespace) -> str:
    """Draw a figure."""
    from vitals.figures import files as figure_files
    from vitals.figures import look
    from vitals.figures.rows import with_accuracy
    from vitals.metrics import files

    compared = _known("figure", options.name, FIGURES).compared
    read = files.read_by_metric if compared else files.read_by_model
    draw = import_module(f"vitals.figures.{options.name}").draw
    settings = {key: value for key, value in options.spec.items() if key not in look.STYLE}
    with look.chosen(options.spec.get("style")):
        figure, table = draw(read(options.results), **settings)
    table = with_accuracy(table, files.read_by_model(options.accuracy))
    figure_files.write(figure, table, options.output, **_provenance(options))
    return f"figure {options.output} and its table of {len(table)} rows"


def summary(options: argparse.Namespace) -> str:
    """Gather every number in one table."""
    from vitals.metrics import tables

    numbers = tables.write(options.results, options.spec, _provenance(options), options.output)
    return f"{numbers} numbers in {options.output}"


def depths(options: argparse.Namespace) -> str:
    """Gather how deep to go with each model in one table."""
    from vitals.metrics import depth_table

    models = depth_table.write(options.results, options.spec, _provenance(options), options.output)
    return f"{models} models in {options.output}"


def gallery(options: argparse.Namespace) -> str:
    """Gather images, attention maps and patches."""
    from vitals.metrics import files, gallery

    found = gallery.of_shards(options.activations)
    files.write(found, options.output, **_provenance(options))
    return f"{found.sizes['image']} images in {options.output}"


def findings(options: argparse.Namespace) -> str:
    """Hold a study against the paper's statements."""
    from vitals.findings import files

    (summary,) = options.results
    verdicts = files.write(summary, options.output, **options.spec, origin=_provenance(options))
    counted = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    return f"{counted} in {options.output}"


def captions(options: argparse.Namespace) -> str:
    """Say what the figures show in numbers."""
    from vitals.captions import files

    made = files.write(
        *options.results, options.output, figures=list(FIGURES), **options.spec,
        **_provenance(options),
    )  # fmt: skip
    return f"{made} captions in {options.output.parent}"


def replicate(options: argparse.Namespace) -> str:
    """Put a study beside the paper."""
    from vitals import replication

    folder = options.results[0].parent
    statements = replication.write(folder, [], options.output, _provenance(options))
    return f"{statements} statements in {options.output}"


def page(options: argparse.Namespace) -> str:
    """Make the page of a study."""
    from vitals.page import contents, page

    settings = {name: value for name, value in options.spec.items() if name != "template"}
    page.write(
        contents.of_files(options.results, **settings), options.output, **_provenance(options)
    )
    return f"{options.output}, {options.output.stat().st_size / 1e6:.1f} MB"


def _known(kind: str, name: str, catalogue: Mapping[str, Entry]) -> Entry:
    if name not in catalogue:
        raise unknown(kind, name, catalogue)
    return catalogue[name]


def _provenance(options: argparse.Namespace) -> dict[str, Any]:
    """What a stage makes its output from."""
    from vitals import origin, provenance

    return {
        "spec": provenance.canonical(options.spec),
        "code": options.code,
        "modules": provenance.code_parts(modules(options.stage, getattr(options, "name", None))),
        "inputs": origin.identities(_inputs(options)),
    }


def _inputs(options: argparse.Namespace) -> dict[str, Path]:
    """The files that a stage reads, but for images and weights that it is told of by digest."""
    from vitals import origin

    given = vars(options)
    files = [*(given.get("results") or [])]
    files += given.get("streamed") or []
    files += given.get("reports") or []
    files += given.get("accuracy") or []
    if options.stage in ("extract", "vary", "stream", INTERVENE):
        files += [options.model, options.model.with_suffix(".json")]
    stores = [*(given.get("activations") or []), *(given.get("variants") or [])]
    if stores:
        from vitals.activations.shards import ROOT_FILE, shards

        files += [shard / ROOT_FILE for path in stores for shard in shards(path)]
    return origin.names(files, options.output)
