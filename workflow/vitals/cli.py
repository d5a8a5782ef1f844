"""The command `vitals`: one subcommand a stage of the workflow.

Every stage takes its settings as `--spec` (JSON, of which it reads all and nothing else) and the
digest of its code as `--code`, which go into what it writes. It ends with one line that says what
it made, and with one line that says what is wrong where an input is.
"""

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from vitals import assignment, runs
from vitals.catalogue import FIGURES, METRICS
from vitals.commands import stages, studies
from vitals.device import workers
from vitals.errors import VitalsError
from vitals.places import place

Run = Callable[[argparse.Namespace], str]

STREAMED = ", ".join(metric.name for metric in METRICS.values() if metric.reducer)


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
    commands = parser.add_subparsers(dest="stage", required=True, metavar="stage")
    for add in (_add_inputs, _add_passes, _add_metrics, _add_across, _add_told, _add_upkeep):
        add(commands)
    return parser


def _add_inputs(commands: Any) -> None:
    """The images and the models."""
    images = _stage(commands, stages.images, "images.parquet")
    _add_data(images)

    train, load = (
        _stage(commands, run, "model.safetensors") for run in (stages.train, stages.load)
    )
    for model in (train, load):
        model.add_argument("--images", type=Path, required=True, help="images.parquet")
        _add_device(model)
    _add_data(train)
    _add_studies(train)
    load.add_argument("--weights", type=Path, nargs="*", default=[],
                      help="a file of weights; timm's own without")  # fmt: skip


def _add_passes(commands: Any) -> None:
    """What passes images through a model."""
    extract = _stage(commands, stages.extract, "activations/{shard}.zarr")
    _add_pass(extract)
    _add_studies(extract)

    vary = _stage(commands, stages.vary, "variants/{variant}/{shard}.zarr")
    vary.add_argument("name", help="patch_shuffled, attention_off")
    _add_pass(vary)
    _add_studies(vary)

    intervene = _stage(commands, stages.intervene, "intervene.nc")
    _add_pass(intervene)

    stream = _stage(commands, stages.stream, "streamed/{metric}/{shard}.nc")
    stream.add_argument("name", help=STREAMED)
    _add_pass(stream)


def _add_metrics(commands: Any) -> None:
    """What reduces a pass to results of one model."""
    merge = _stage(commands, stages.merge, "{metric}.nc")
    merge.add_argument("name", help=STREAMED)
    merge.add_argument("--streamed", type=Path, nargs="+", required=True,
                       help="streamed/{metric}/{shard}.nc, all of a model")  # fmt: skip
    merge.add_argument("--activations", type=Path, nargs="*", default=[], help="shards of a model")

    metric = _stage(commands, stages.metric, "{metric}.nc")
    metric.add_argument("name", help=", ".join(METRICS))
    metric.add_argument("--activations", type=Path, nargs="+", help="shards of a model")
    metric.add_argument("--variants", type=Path, nargs="*", default=[],
                        help="variants/{variant}/{shard}.zarr")  # fmt: skip
    metric.add_argument("--results", type=Path, nargs="*", default=[], help="{metric}.nc it reads")

    gallery = _stage(commands, stages.gallery, "gallery.nc")
    gallery.add_argument("--activations", type=Path, nargs="+", required=True,
                         help="shards of a model")  # fmt: skip


def _add_across(commands: Any) -> None:
    """What gathers, compares and draws the results of several models."""
    align = _stage(commands, stages.align, "compare/alignment.nc")
    align.add_argument("--activations", type=Path, nargs="+", required=True,
                       help="shards of all models")  # fmt: skip

    sweep = _stage(commands, stages.sweep, "compare/sweep.nc")
    _add_results(sweep, "{model}/metrics/{metric}.nc of all models")
    sweep.add_argument("--reports", type=Path, nargs="+", required=True,
                       help="{model}/model.json of all models")  # fmt: skip

    compare = _stage(commands, stages.compare, "compare/{metric}.nc")
    compare.add_argument("name", help=", ".join(METRICS))
    figure = _stage(commands, stages.figure, "figures/{figure}.svg")
    figure.add_argument("name", help=", ".join(FIGURES))
    figure.add_argument("--accuracy", type=Path, nargs="+", default=[],
                        help="{model}/metrics/accuracy.nc of all models")  # fmt: skip
    summary = _stage(commands, stages.summary, "summary.csv")
    depths = _stage(commands, stages.depths, "depth.csv")
    for stage in (compare, figure, summary, depths):
        _add_results(stage, "{model}/metrics/{metric}.nc or compare/{metric}.nc")


def _add_told(commands: Any) -> None:
    """What tells of a study from its tables."""
    for run, output in (
        (stages.findings, "findings.csv"),
        (stages.captions, "captions.json"),
        (stages.replicate, "replication.md"),
        (stages.page, "index.html"),
    ):
        _add_results(_stage(commands, run, output), "summary.csv, and what else it tells of")


def _add_upkeep(commands: Any) -> None:
    """What a user asks of a study beside its run."""
    plan = _command(commands, studies.plan)
    plan.add_argument("study", type=Path, help="the study's file, as for snakemake --configfile")
    plan.add_argument("--batch", type=int, help="images of a pass; as memory allows without")
    plan.add_argument("--workers", type=int, default=workers(), help="threads of a pass")
    _add_device(plan)

    fetch = _command(commands, studies.fetch)
    fetch.add_argument("study", type=Path, help="the study's file, as for snakemake --configfile")

    replication = _command(commands, studies.replication)
    replication.add_argument("study", type=Path, help="artifacts/{study}, run to its end")
    replication.add_argument("--beside", type=Path, nargs="+", default=[],
                             help="folders of studies of other checkpoints, ...: "
                             "then the page is replication_beside.md")  # fmt: skip

    verify = _command(commands, studies.verify)
    verify.add_argument("stores", type=place, nargs="+", help="shards, or folders of them")

    push = _command(commands, studies.push)
    push.add_argument("folder", type=Path, help="artifacts/{study}")
    push.add_argument("url", help="s3://bucket/{study}")

    pull = _command(commands, studies.pull)
    pull.add_argument("url", help="s3://bucket/{study}")
    pull.add_argument("folder", type=Path, help="artifacts/{study}")

    why = _command(commands, studies.why)
    why.add_argument("file", type=Path, help="a result of a study")
    _add_study(why)

    status = _command(commands, studies.status)
    _add_study(status)

    clean = _command(commands, studies.clean)
    clean.add_argument("--study", type=Path, nargs="+", default=[],
                       help="files of studies; config.yaml, studies/*.yaml without")  # fmt: skip
    clean.add_argument("--gone", nargs="+", default=[], help="studies to remove altogether")
    clean.add_argument("--decoded", action="store_true", help="prepared images that are kept, too")
    clean.add_argument("--yes", action="store_true", help="remove it without asking")


def _stage(commands: Any, run: Run, output: str) -> argparse.ArgumentParser:
    stage = _command(commands, run)
    stage.add_argument("--spec", type=json.loads, required=True, help="settings, as JSON")
    stage.add_argument("--code", default="", help="digest of the code, kept with the result")
    stage.add_argument("--output", type=Path, required=True, help=output)
    return stage


def _command(commands: Any, run: Run) -> argparse.ArgumentParser:
    """A subcommand named and described as the function that it runs."""
    command = commands.add_parser(run.__name__, help=run.__doc__, description=run.__doc__)
    command.set_defaults(run=run)
    return command


def _add_results(stage: argparse.ArgumentParser, what: str) -> None:
    stage.add_argument("--results", type=Path, nargs="+", required=True, help=what)


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
