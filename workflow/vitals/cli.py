"""The command `vitals`: one subcommand a stage of the workflow.

Every stage takes its settings as `--spec` (JSON, of which it reads all and nothing else) and the
digest of its code as `--code`, which go into what it writes. It ends with one line that says what
it made, and with one line that says what is wrong where an input is.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from vitals import assignment, runs
from vitals.catalogue import FIGURES, INTERVENE, METRICS, SWEEP, modules
from vitals.device import workers
from vitals.errors import VitalsError, unknown
from vitals.places import place

Entry = TypeVar("Entry")


def main(arguments: list[str] | None = None) -> None:
    """Run one subcommand; exit status 1, and a line that names it, for a wrong or missing input."""
    options = _parser().parse_args(arguments)
    try:
        # a mark, so that the next run sees a job that outlives its own
        with runs.held(), _accelerator(options):
            made = options.run(options)
    except (VitalsError, OSError) as error:
        sys.exit(f"vitals {options.stage}: {error}")
    print(f"vitals {options.stage}: {made}", flush=True)


def _accelerator(options: argparse.Namespace) -> Any:
    """One of the machine's accelerators, for what computes on it and was not told which."""
    reduces = bool(getattr(options, "activations", None))
    computes = getattr(options, "device", None) == "auto" or reduces
    return assignment.one_of_several() if computes else nullcontext()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vitals", description=__doc__.splitlines()[0])
    stages = parser.add_subparsers(dest="stage", required=True, metavar="stage")

    images = _stage(stages, "images", _images, "list the images of a study")
    images.add_argument("--output", type=Path, required=True, help="images.parquet")
    _add_data(images)

    for name, text in (("train", "train a model from scratch"), ("load", "load a model's weights")):
        model = _stage(stages, name, _train if name == "train" else _load, text)
        model.add_argument("--images", type=Path, required=True, help="images.parquet")
        model.add_argument("--output", type=Path, required=True, help="model.safetensors")
        if name == "train":
            _add_data(model)
            _add_studies(model)
        else:
            model.add_argument("--weights", type=Path, nargs="*", default=[],
                               help="a file of weights; timm's own without")  # fmt: skip
        _add_device(model)

    extract = _stage(stages, "extract", _extract, "pass a shard of images and store the taps")
    extract.add_argument("--output", type=Path, required=True, help="activations/{shard}.zarr")
    _add_pass(extract)
    _add_studies(extract)

    vary = _stage(stages, "vary", _extract, "pass a shard otherwise, for a null to measure on")
    vary.add_argument("name", help="patch_shuffled, attention_off")
    vary.add_argument("--output", type=Path, required=True, help="variants/{variant}/{shard}.zarr")
    _add_pass(vary)
    _add_studies(vary)

    intervene = _stage(stages, "intervene", _intervene, "pass images with one change at a time")
    intervene.add_argument("--output", type=Path, required=True, help="intervene.nc")
    _add_pass(intervene)

    stream = _stage(stages, "stream", _stream, "pass a shard of images through a metric")
    stream.add_argument("name", help=", ".join(m.name for m in METRICS.values() if m.reducer))
    stream.add_argument("--output", type=Path, required=True, help="streamed/{metric}/{shard}.nc")
    _add_pass(stream)

    merge = _stage(stages, "merge", _merge, "make a metric of what passes of its own have found")
    merge.add_argument("name", help=", ".join(m.name for m in METRICS.values() if m.reducer))
    merge.add_argument("--streamed", type=Path, nargs="+", required=True,
                       help="streamed/{metric}/{shard}.nc, all of a model")  # fmt: skip
    merge.add_argument("--activations", type=Path, nargs="*", default=[], help="shards of a model")
    merge.add_argument("--output", type=Path, required=True, help="{metric}.nc")

    metric = _stage(stages, "metric", _metric, "reduce stored activations to a metric")
    metric.add_argument("name", help=", ".join(METRICS))
    metric.add_argument("--activations", type=Path, nargs="+", help="shards of a model")
    metric.add_argument("--variants", type=Path, nargs="*", default=[],
                        help="variants/{variant}/{shard}.zarr")  # fmt: skip
    metric.add_argument("--results", type=Path, nargs="*", default=[], help="{metric}.nc it reads")
    metric.add_argument("--output", type=Path, required=True, help="{metric}.nc")

    align = _stage(stages, "align", _align, "compare the geometry of models tap by tap")
    align.add_argument("--activations", type=Path, nargs="+", required=True,
                       help="shards of all models")  # fmt: skip
    align.add_argument("--output", type=Path, required=True, help="compare/alignment.nc")

    gallery = _stage(stages, "gallery", _gallery, "gather images, attention maps and patches")
    gallery.add_argument("--activations", type=Path, nargs="+", required=True,
                         help="shards of a model")  # fmt: skip
    gallery.add_argument("--output", type=Path, required=True, help="gallery.nc")

    for name, run, text, output in (
        ("findings", _findings, "hold a study against the paper's statements", "findings.csv"),
        ("captions", _captions, "say what the figures show in numbers", "captions.json"),
        ("replicate", _replicate, "put a study beside the paper", "replication.md"),
        ("page", _page, "make the page of a study", "index.html"),
    ):
        stage = _stage(stages, name, run, text)
        stage.add_argument("--results", type=Path, nargs="+", required=True,
                           help="summary.csv, and what else it tells of")  # fmt: skip
        stage.add_argument("--output", type=Path, required=True, help=output)
    sweep = _stage(stages, SWEEP, _sweep, "what changes over models of several depths or widths")
    sweep.add_argument("--results", type=Path, nargs="+", required=True,
                       help="{model}/metrics/{metric}.nc of all models")  # fmt: skip
    sweep.add_argument("--reports", type=Path, nargs="+", required=True,
                       help="{model}/model.json of all models")  # fmt: skip
    sweep.add_argument("--output", type=Path, required=True, help="compare/sweep.nc")

    for name, run, text in (
        ("compare", _compare, "difference of models in a metric"),
        ("figure", _figure, "draw a figure"),
        ("summary", _summary, "gather every number in one table"),
        ("depths", _depths, "gather how deep to go with each model in one table"),
    ):
        stage = _stage(stages, name, run, text)
        if name not in ("summary", "depths"):
            stage.add_argument("name", help=", ".join(METRICS if name == "compare" else FIGURES))
        stage.add_argument("--results", type=Path, nargs="+", required=True,
                           help="{model}/metrics/{metric}.nc or compare/{metric}.nc")  # fmt: skip
        if name == "figure":
            stage.add_argument("--accuracy", type=Path, nargs="+", default=[],
                               help="{model}/metrics/accuracy.nc of all models")  # fmt: skip
        stage.add_argument("--output", type=Path, required=True)

    plan = stages.add_parser("plan", help="what a study's activations take of disk and time")
    plan.add_argument("study", type=Path, help="the study's file, as for snakemake --configfile")
    plan.add_argument("--batch", type=int, help="images of a pass; as memory allows without")
    plan.add_argument("--workers", type=int, default=workers(), help="threads of a pass")
    _add_device(plan)
    plan.set_defaults(run=_plan)

    fetch = stages.add_parser("fetch", help="bring published weights into this machine's caches")
    fetch.add_argument("study", type=Path, help="the study's file, as for snakemake --configfile")
    fetch.set_defaults(run=_fetch)

    replication = stages.add_parser("replication", help="a study held against the paper, a page")
    replication.add_argument("study", type=Path, help="artifacts/{study}, run to its end")
    replication.add_argument("--beside", type=Path, nargs="+", default=[],
                             help="folders of studies of other checkpoints, ...: "
                             "then the page is replication_beside.md")  # fmt: skip
    replication.set_defaults(run=_replication)

    verify = stages.add_parser("verify", help="check stored activations against their digests")
    verify.add_argument("stores", type=place, nargs="+", help="shards, or folders of them")
    verify.set_defaults(run=_verify)

    push = stages.add_parser("push", help="take results to an object storage, each when whole")
    push.add_argument("folder", type=Path, help="artifacts/{study}")
    push.add_argument("url", help="s3://bucket/{study}")
    push.set_defaults(run=_push)

    pull = stages.add_parser("pull", help="take results from an object storage")
    pull.add_argument("url", help="s3://bucket/{study}")
    pull.add_argument("folder", type=Path, help="artifacts/{study}")
    pull.set_defaults(run=_pull)

    why = stages.add_parser("why", help="what a result was made from, and what differs now")
    why.add_argument("file", type=Path, help="a result of a study")
    _add_study(why)
    why.set_defaults(run=_why)

    status = stages.add_parser("status", help="what of a study is fresh, stale or missing")
    _add_study(status)
    status.set_defaults(run=_status)

    clean = stages.add_parser("clean", help="remove what no study needs, once that is wanted")
    clean.add_argument("--study", type=Path, nargs="+", default=[],
                       help="files of studies; config.yaml, studies/*.yaml without")  # fmt: skip
    clean.add_argument("--gone", nargs="+", default=[], help="studies to remove altogether")
    clean.add_argument("--decoded", action="store_true", help="prepared images that are kept, too")
    clean.add_argument("--yes", action="store_true", help="remove it without asking")
    clean.set_defaults(run=_clean)
    return parser


def _stage(stages: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    stage = stages.add_parser(name, help=text, description=text)
    stage.add_argument("--spec", type=json.loads, required=True, help="settings, as JSON")
    stage.add_argument("--code", default="", help="digest of the code, kept with the result")
    stage.set_defaults(run=run)
    return stage


def _add_pass(stage: argparse.ArgumentParser) -> None:
    stage.add_argument("--images", type=Path, required=True, help="images.parquet")
    stage.add_argument("--model", type=Path, required=True, help="model.safetensors")
    stage.add_argument("--batch", type=int, help="images of a pass; as memory allows without")
    stage.add_argument("--workers", type=int, default=1, help="threads that prepare images")
    stage.add_argument("--decoded", type=Path, help="folder where prepared images are kept")
    _add_data(stage)
    _add_device(stage)


def _add_data(stage: argparse.ArgumentParser) -> None:
    stage.add_argument("--data", help="where the images are, for a dataset with a path")


def _add_study(stage: argparse.ArgumentParser) -> None:
    stage.add_argument("--study", type=Path, default=Path("config.yaml"), help="the study's file")


def _add_studies(stage: argparse.ArgumentParser) -> None:
    stage.add_argument("--studies", type=Path,
                       help="folder of all studies: what lies there is not made again")  # fmt: skip


def _add_device(stage: argparse.ArgumentParser) -> None:
    stage.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")


def _images(options: argparse.Namespace) -> str:
    from vitals.data import images

    settings = {**options.spec, "path": options.data}
    previous = options.output if options.output.is_file() else None
    table = images.build(settings, previous)
    images.write(table, options.output, settings, **_provenance(options))
    counts = table["split"].value_counts()
    return f"{len(table)} images ({counts['fit']} fit, {counts['test']} test) in {options.output}"


def _train(options: argparse.Namespace) -> str:
    from vitals.models.stage import train

    return train(**_model_inputs(options), data=options.data, studies=options.studies)


def _load(options: argparse.Namespace) -> str:
    from vitals.models.stage import load

    return load(**_model_inputs(options), weights_file=next(iter(options.weights), None))


def _model_inputs(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "spec": options.spec,
        "provenance": _provenance(options),
        "images": options.images,
        "weights": options.output,
        "device": options.device,
    }


def _extract(options: argparse.Namespace) -> str:
    from vitals.activations import stage

    return stage.run(
        options.spec, _provenance(options), options.images, options.data, options.model,
        options.output, _machine(options), options.studies,
    )  # fmt: skip


def _stream(options: argparse.Namespace) -> str:
    from vitals.metrics import streaming

    module, reducer = _reducer(options).split(".")
    return streaming.run(
        getattr(import_module(f"vitals.metrics.{module}"), reducer), options.spec,
        _provenance(options), options.images, options.data, options.model, options.output,
        _machine(options),
    )  # fmt: skip


def _intervene(options: argparse.Namespace) -> str:
    from vitals.metrics import intervening

    return intervening.run(
        options.spec, _provenance(options), options.images, options.data, options.model,
        options.output, _machine(options),
    )  # fmt: skip


def _merge(options: argparse.Namespace) -> str:
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


def _metric(options: argparse.Namespace) -> str:
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


def _compare(options: argparse.Namespace) -> str:
    from vitals.metrics import comparison, files

    _known("metric", options.name, METRICS)
    read = files.read_by_model(options.results)
    results = {
        model: _known(f"result of {model}", options.name, found) for model, found in read.items()
    }
    found = comparison.compute(results, **options.spec)
    files.write(found, options.output, **_provenance(options))
    return f"{len(results)} models compared by {options.name} in {options.output}"


def _align(options: argparse.Namespace) -> str:
    from vitals.metrics import alignment, files, inputs

    models = inputs.of_models(options.activations)
    files.write(alignment.compute(models, **options.spec), options.output, **_provenance(options))
    return f"{len(models)} models aligned in {options.output}"


def _sweep(options: argparse.Namespace) -> str:
    from vitals.metrics import files, sweep

    models = files.read_by_model(options.results)
    reports = {path.parent.name: json.loads(path.read_bytes()) for path in options.reports}
    if missing := sorted(models.keys() ^ reports.keys()):
        raise VitalsError(f"expected results and a report of each model, found one of {missing}")
    found = sweep.compute(models, reports, **options.spec)
    files.write(found, options.output, **_provenance(options))
    return f"{len(models)} models swept in {options.output}"


def _figure(options: argparse.Namespace) -> str:
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


def _summary(options: argparse.Namespace) -> str:
    from vitals.metrics import tables

    numbers = tables.write(options.results, options.spec, _provenance(options), options.output)
    return f"{numbers} numbers in {options.output}"


def _fetch(options: argparse.Namespace) -> str:
    from vitals import fetch

    lines = [print(line, flush=True) for line in fetch.fetch(_study(options))]
    return f"{len(lines)} models need no network from here on; HF_HUB_OFFLINE=1 says so"


def _replication(options: argparse.Namespace) -> str:
    from vitals import replication

    name = "replication_beside.md" if options.beside else "replication.md"
    output = options.study / name
    statements = replication.write(options.study, options.beside, output)
    return f"{statements} statements in {output}"


def _replicate(options: argparse.Namespace) -> str:
    from vitals import replication

    folder = options.results[0].parent
    statements = replication.write(folder, [], options.output, _provenance(options))
    return f"{statements} statements in {options.output}"


def _gallery(options: argparse.Namespace) -> str:
    from vitals.metrics import files, gallery

    found = gallery.of_shards(options.activations)
    files.write(found, options.output, **_provenance(options))
    return f"{found.sizes['image']} images in {options.output}"


def _findings(options: argparse.Namespace) -> str:
    from vitals.findings import files

    (summary,) = options.results
    verdicts = files.write(summary, options.output, **options.spec, origin=_provenance(options))
    counted = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    return f"{counted} in {options.output}"


def _captions(options: argparse.Namespace) -> str:
    from vitals.captions import files

    made = files.write(
        *options.results, options.output, figures=list(FIGURES), **options.spec,
        **_provenance(options),
    )  # fmt: skip
    return f"{made} captions in {options.output.parent}"


def _page(options: argparse.Namespace) -> str:
    from vitals.page import contents, page

    settings = {name: value for name, value in options.spec.items() if name != "template"}
    page.write(
        contents.of_files(options.results, **settings), options.output, **_provenance(options)
    )
    return f"{options.output}, {options.output.stat().st_size / 1e6:.1f} MB"


def _depths(options: argparse.Namespace) -> str:
    from vitals.metrics import depth_table

    models = depth_table.write(options.results, options.spec, _provenance(options), options.output)
    return f"{models} models in {options.output}"


def _plan(options: argparse.Namespace) -> str:
    from vitals import device, plan
    from vitals.activations.extract import Machine

    study = _study(options)
    machine = Machine(device.choose(options.device), options.batch, options.workers)
    planned = plan.table(study, machine)
    print(planned.T.to_string(float_format="{:.3g}".format))
    return plan.verdict(study, planned)


def _verify(options: argparse.Namespace) -> str:
    from vitals.activations import store

    shards = [shard for path in options.stores for shard in store.shards(path)]
    torn = [f"{shard}: {name}" for shard in shards for name in store.torn_arrays(shard)]
    if torn:
        raise VitalsError(f"not what was written: {', '.join(torn)}")
    return f"{len(shards)} shards are what was written"


def _push(options: argparse.Namespace) -> str:
    from vitals import object_storage

    return object_storage.push(options.folder, options.url)


def _pull(options: argparse.Namespace) -> str:
    from vitals import object_storage

    return object_storage.pull(options.url, options.folder)


def _why(options: argparse.Namespace) -> str:
    from vitals import status

    for line in status.why(options.file, _study(options)):
        print(line)
    return str(options.file)


def _status(options: argparse.Namespace) -> str:
    from vitals import freshness, status

    judged = list(freshness.verdicts(_study(options)))
    print(*status.lines(judged), sep="\n")
    return status.count(judged)


def _study(options: argparse.Namespace) -> Any:
    import yaml

    from vitals.study import Study

    return Study(yaml.safe_load(options.study.read_text()))


def _clean(options: argparse.Namespace) -> str:
    from vitals import clean

    return clean.run(options.study, options.gone, options.decoded, options.yes)


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
