"""What there is: stages, metrics and figures, what each reads, and which modules it runs.

Adding a metric is a line here, beside its module, its rule, its figure and its page.
"""

from dataclasses import dataclass

TOKENS, POOLED = "tokens", "pooled"
CHECK = "accuracy"  # what no figure is drawn before
INTERVENE = "intervene"  # passes with one change each
ALIGNMENT = "alignment"  # of all models at once, from their activations: it lies with comparisons
SWEEP = "sweep"  # of all models at once, from their results: likewise
SWEPT = ("phases", "scrambling", "attention", "collapse", "interventions", "depth")  # what it reads

STAGE_MODULES = {
    "images": ("vitals.data.images",),
    "train": ("vitals.models.stage",),
    "load": ("vitals.models.stage",),
    "extract": ("vitals.activations.stage",),
    "vary": ("vitals.activations.stage",),
    INTERVENE: ("vitals.metrics.intervening",),
    "stream": ("vitals.metrics.streaming",),
    "merge": ("vitals.metrics.streamed", "vitals.metrics.files"),
    "compare": ("vitals.metrics.comparison", "vitals.metrics.files"),
    "align": ("vitals.metrics.alignment", "vitals.metrics.inputs", "vitals.metrics.files"),
    SWEEP: ("vitals.metrics.sweep", "vitals.metrics.files"),
    "summary": ("vitals.metrics.tables",),
    "gallery": ("vitals.metrics.gallery", "vitals.metrics.files"),
    "findings": ("vitals.findings.files",),
    "captions": ("vitals.captions.files",),
    "replicate": ("vitals.replication",),
    "page": ("vitals.page.contents", "vitals.page.page"),
    "depths": ("vitals.metrics.depth_table",),
}


@dataclass(frozen=True)
class Metric:
    """What a metric reads: tiers of the activations, or the results of other metrics.

    varied: whether it reads variants of the passes besides, where a study asks for them; passed:
    the stage of a model whose passes it reads, from the file of that name; resampled:
    whether it resamples the images itself, rather than take the draws of others; reducer: what
    keeps its values of each image inside a pass, as "module.Class"; besides: the tiers that it then
    still reads.
    """

    name: str
    tiers: tuple[str, ...] = ()
    results: tuple[str, ...] = ()
    varied: bool = False
    passed: str | None = None
    resampled: bool = True
    reducer: str | None = None
    besides: tuple[str, ...] = ()

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that this metric's stage runs."""
        source = "vitals.metrics.inputs" if self.tiers else "vitals.metrics.results"
        return (f"vitals.metrics.{self.name}", "vitals.metrics.files", source)


METRICS = {
    metric.name: metric
    for metric in (
        Metric(CHECK, tiers=(POOLED,)),
        Metric("similarity", tiers=(TOKENS,), reducer="token_similarity.TokenSimilarity"),
        Metric("phases", results=("similarity",)),
        Metric(
            "position", tiers=(TOKENS,), reducer="embedding_norms.EmbeddingNorms", besides=(TOKENS,)
        ),
        Metric("scrambling", tiers=(TOKENS,), varied=True),
        Metric(
            "attention",
            tiers=(TOKENS, POOLED),
            reducer="attention_measures.AttentionMeasures",
            besides=(POOLED,),
        ),
        Metric("collapse", tiers=(POOLED,)),
        Metric("probes", tiers=(POOLED,)),
        Metric("tradeoff", results=("scrambling", "probes"), resampled=False),
        Metric("geometry", tiers=(TOKENS, POOLED)),
        Metric("interventions", passed=INTERVENE),
        Metric("depth", results=("scrambling", "probes", "interventions"), resampled=False),
    )
}


@dataclass(frozen=True)
class Figure:
    """A figure, and the metrics whose results it draws; `compared` where it draws differences.

    paper: whether it shows what the paper reports beside what is measured.
    """

    name: str
    metrics: tuple[str, ...]
    compared: bool = False
    paper: bool = False

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that this figure's stage runs."""
        return (f"vitals.figures.{self.name}", "vitals.figures.files", "vitals.metrics.files")


UNCOMPARED = (CHECK, "position", "interventions", "depth")  # by the figure of comparisons
FIGURES = {
    figure.name: figure
    for figure in (
        Figure(
            "overview",
            ("similarity", "phases", "scrambling", "attention", "collapse", "probes", "tradeoff"),
        ),
        Figure("similarity", ("similarity", "phases")),
        Figure("position", ("position", "similarity")),
        Figure("scrambling", ("scrambling",), paper=True),
        Figure("attention", ("attention",)),
        Figure("collapse", ("collapse",)),
        Figure("probes", ("probes",)),
        Figure("tradeoff", ("scrambling", "probes", "tradeoff")),
        Figure("geometry", ("geometry",)),
        Figure("interventions", ("interventions",)),
        Figure("depth", ("depth", "interventions")),
        Figure("alignment", (ALIGNMENT,), compared=True),
        Figure("sweep", (SWEEP,), compared=True),
        Figure("correlations", (SWEEP,), compared=True),
        # what has differences over relative depth, or in depth
        Figure("comparison", tuple(m for m in METRICS if m not in UNCOMPARED), compared=True),
    )
}


STUDY = "study"
CAPTIONED = (STUDY, *FIGURES)  # what the report has a caption of


def modules(stage: str, name: str | None = None) -> tuple[str, ...]:
    """The modules that a stage runs; name: as for `Study.spec`."""
    if stage == "metric":
        return METRICS[name].modules
    if stage == "figure":
        return FIGURES[name].modules
    if stage == "stream":
        module = METRICS[name.split("/")[0]].reducer.split(".")[0]
        return (*STAGE_MODULES[stage], f"vitals.metrics.{module}")
    if stage == "merge":
        source = ("vitals.metrics.inputs",) if METRICS[name].besides else ()
        return (*STAGE_MODULES[stage], f"vitals.metrics.{name}", *source)
    return STAGE_MODULES[stage]
