"""The chain of a study: every result, what it is made from, and what says so."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vitals import origin
from vitals.catalogue import ALIGNMENT, CAPTIONED, CHECK, INTERVENE, SWEEP, SWEPT
from vitals.study import Study

FIGURE_KINDS = (".svg", ".png", ".pdf", ".csv")


@dataclass(frozen=True)
class Step:
    """One job of a study.

    stage, name: as for `Study.spec`; model: None for what is of several; outputs: the first says
    what they were made from; inputs: all files that it is given; read: those of them that are known
    by their content, by name. The image list is not among these: `spec` says which images are read.
    """

    stage: str
    name: str | None
    model: str | None
    outputs: tuple[Path, ...]
    inputs: tuple[Path, ...]
    read: dict[str, Path]

    @property
    def label(self) -> str:
        """The stage, with its metric or figure, or the number of its shard."""
        named = self.name is not None and self.name != self.model
        return f"{self.stage} {self.name}" if named else self.stage


def chain(study: Study) -> Iterator[Step]:
    """Every step of a study, each after those that it reads."""
    images = study.folder / "images.parquet"
    yield Step("images", None, None, (images,), (), {})
    for model in study.models:
        yield from _of_model(study, model, images)
    metrics = {
        m: [study.folder / n / "metrics" / f"{m}.nc" for n in study.models] for m in study.metrics
    }
    compared = {metric: study.folder / "compare" / f"{metric}.nc" for metric in study.metrics}
    for metric, output in compared.items():
        yield _step("compare", metric, None, (output,), metrics[metric])
    aligned = study.folder / "compare" / f"{ALIGNMENT}.nc"
    yield _step(
        "align", None, None, (aligned,), [s for m in study.models for s in _shards(study, m)]
    )
    compared[ALIGNMENT] = aligned
    if study.swept:
        compared[SWEEP] = study.folder / "compare" / f"{SWEEP}.nc"
        reports = [study.folder / model / "model.json" for model in study.models]
        read = [path for metric in SWEPT for path in metrics[metric]]
        yield _step(SWEEP, None, None, (compared[SWEEP],), [*read, *reports])
    for figure in study.figures.values():
        outputs = [study.folder / "figures" / f"{figure.name}{kind}" for kind in FIGURE_KINDS]
        read = [
            path
            for metric in figure.metrics
            for path in ([compared[metric]] if figure.compared else metrics[metric])
        ]
        yield _step("figure", figure.name, None, tuple(outputs), [*read, *metrics[CHECK]])
    if "depth" in metrics:
        depths = (study.folder / "depth.json", study.folder / "depth.csv")
        yield _step("depths", None, None, depths, metrics["depth"])
    read = [path for paths in metrics.values() for path in paths]
    yield from _summarised(study, [*read, *compared.values()])


def _summarised(study: Study, results: list[Path]) -> Iterator[Step]:
    """The table of all numbers, and what is told of it: findings, captions and pages."""
    folder = study.folder
    summary = [folder / file for file in ("summary.json", "summary.csv", "differences.csv")]
    yield _step("summary", None, None, tuple(summary), results)
    findings = [folder / file for file in ("findings.json", "findings.csv")]
    yield _step("findings", None, None, tuple(findings), [folder / "summary.csv"])
    tables = [folder / "summary.csv", folder / "findings.csv"]
    captions = [folder / "captions" / f"{name}.rst" for name in CAPTIONED]
    origin_of_captions = folder / "captions" / "captions.json"
    yield _step("captions", None, None, (origin_of_captions, *captions), tables)
    replication = (folder / "replication.json", folder / "replication.md")
    yield _step("replicate", None, None, replication, tables)
    of_models = [folder / m / file for file in ("model.json", "gallery.nc") for m in study.models]
    yield _step("page", None, None, (folder / "index.html",), [*tables, *of_models])


def _of_model(study: Study, model: str, images: Path) -> Iterator[Step]:
    folder = study.folder / model
    report, weights = folder / "model.json", folder / "model.safetensors"
    stage = "train" if model in study.trained else "load"
    yield Step(stage, model, model, (report, weights), (images,), {})
    shards = _shards(study, model)
    for number, shard in enumerate(shards):
        read = origin.names((weights, report), shard)
        yield Step("extract", str(number), model, (shard,), (images, weights, report), read)
    varied = _varied(study, model)
    for name, shard in varied.items():
        read = origin.names((weights, report), shard)
        yield Step("vary", name, model, (shard,), (images, weights, report), read)
    if any(metric.passed for metric in study.metrics.values()):
        passed = folder / f"{INTERVENE}.nc"
        read = origin.names((weights, report), passed)
        yield Step(INTERVENE, model, model, (passed,), (images, weights, report), read)
    for metric in study.metrics.values():
        output = folder / "metrics" / f"{metric.name}.nc"
        if metric.name in study.streamed:
            parts = _streamed(study, model, metric.name)
            for number, part in enumerate(parts):
                read = origin.names((weights, report), part)
                inputs = (images, weights, report)
                yield Step("stream", f"{metric.name}/{number}", model, (part,), inputs, read)
            besides = shards if metric.besides else []
            yield _step("merge", metric.name, model, (output,), [*parts, *besides])
            continue
        if metric.passed:
            yield _step("metric", metric.name, model, (output,), [folder / f"{metric.passed}.nc"])
            continue
        results = [folder / "metrics" / f"{name}.nc" for name in metric.results]
        read = [*shards, *varied.values()] if metric.varied else shards
        yield _step("metric", metric.name, model, (output,), read if metric.tiers else results)
    yield _step("gallery", model, model, (folder / "gallery.nc",), shards)


def _shards(study: Study, model: str) -> list[Path]:
    folder = study.folder / model / "activations"
    return [folder / f"{number}.zarr" / "zarr.json" for number in study.shards]


def _varied(study: Study, model: str) -> dict[str, Path]:
    """The shards of variants by "{variant}/{shard}"."""
    folder = study.folder / model / "variants"
    return {
        f"{variant}/{number}": folder / variant / f"{number}.zarr" / "zarr.json"
        for variant in study.variants
        for number in study.varied_shards
    }


def _streamed(study: Study, model: str, metric: str) -> list[Path]:
    folder = study.folder / model / "streamed" / metric
    return [folder / f"{number}.nc" for number in study.shards]


def _step(
    stage: str, name: str | None, model: str | None, outputs: tuple[Path, ...], read: list[Path]
) -> Step:
    return Step(stage, name, model, outputs, tuple(read), origin.names(read, outputs[0]))
