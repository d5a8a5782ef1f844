"""A study: its models, shards, metrics and figures, and what each stage reads of its settings."""

import shlex
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vitals import catalogue, study_file
from vitals.catalogue import METRICS
from vitals.data import datasets, digests, images
from vitals.errors import VitalsError
from vitals.figures import style_file
from vitals.models.registry import PRETRAINED, TRAINED
from vitals.page import template
from vitals.provenance import canonical, code_digest, digest_of

SCHEMA = Path(__file__).parents[1] / "schemas" / "study.yaml"
# What is the machine's: where the data lies and how the work is done change no result.
MACHINE = ("path", "keep_decoded", "skip_unreadable", "batch")
VARIANTS = ("patch_shuffled", "attention_off")
VARIED = {"attention": False, "gallery_images": 0}  # what is kept of a variant otherwise
# What of the activations decides what a metric sees inside a pass.
PASSED = ("shard_images", "attention", "sub_blocks", "precision", "skip_unreadable")


class Study:
    """One study: its models, shards, and the `spec` and `code` of each stage.

    Raises VitalsError, before anything runs, for the first setting that is wrong: the key, the
    value, and what is allowed.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        schema: Path = SCHEMA,
        artifacts: Path = Path("artifacts"),
    ) -> None:
        self.settings = study_file.completed(settings, schema)
        self.name: str = self.settings["study"]
        self.models: dict[str, dict[str, Any]] = self.settings["models"]
        for name, model in self.models.items():
            study_file.check_model(name, model)
            study_file.check_recipe(name, self.recipe(name))
        study_file.check_streaming(self.settings["activations"])
        self._look = self._looked_up()
        self.folder = artifacts / self.name
        frozen = self.folder / "images.parquet"
        previous = frozen if frozen.is_file() else None
        self.listing = images.listed(self.settings["images"], previous)
        study_file.check_folds(self.settings, self.listing)
        self._frozen = None if previous is None else images.read(previous)
        for name, model in self.models.items():
            study_file.check_classes(name, model, self.listing.attrs["classes"])
        self._codes: dict[tuple[str, ...], str] = {}
        # the jobs of every model ask for the same
        self._read_by_shard = cache(self._read_by_shard)
        self._is_frozen = cache(self._is_frozen)

    @property
    def trained(self) -> list[str]:
        """Names of the models that are trained here."""
        return [name for name, model in self.models.items() if model["weights"] == TRAINED]

    @property
    def loaded(self) -> list[str]:
        """Names of the models whose weights come from a file or from timm."""
        return [name for name in self.models if name not in self.trained]

    def weights_file(self, model: str) -> list[str]:
        """The local file that a loaded model's weights come from, if there is one."""
        weights = self.models[model]["weights"]
        return [] if weights in (TRAINED, PRETRAINED) else [weights]

    def weights(self, model: str) -> str:
        """The arguments that tell a command where a loaded model's weights are."""
        file = self.weights_file(model)
        return shlex.join(["--weights", *file]) if file else ""

    @property
    def data(self) -> str:
        """The arguments that tell a command where the images are."""
        path = self.settings["images"]["path"]
        return "" if path is None else shlex.join(["--data", path])

    @property
    def passing(self) -> str:
        """The arguments that tell a command how to pass images: they change no result."""
        batch = self.settings["activations"]["batch"]
        decoded = self.folder / "decoded"
        kept = ["--decoded", str(decoded)] if self.settings["images"]["keep_decoded"] else []
        return shlex.join([*([] if batch is None else ["--batch", str(batch)]), *kept])

    @property
    def sharing(self) -> str:
        """The arguments that tell a command where results of other studies may be taken from."""
        studies = ["--studies", str(self.folder.parent)] if self.settings["sharing"] else []
        return shlex.join(studies)

    @property
    def shards(self) -> range:
        """The shards that the image list makes."""
        return range(-(-len(self.listing) // self.settings["activations"]["shard_images"]))

    @cached_property
    def metrics(self) -> dict[str, catalogue.Metric]:
        """The metrics of the study by name: what reads changed passes only where they are made."""
        made = self.settings["interventions"]["images"] != 0
        passed = set() if made else {metric.name for metric in METRICS.values() if metric.passed}
        return {
            name: metric
            for name, metric in METRICS.items()
            if name not in passed and passed.isdisjoint(metric.results)
        }

    @property
    def swept(self) -> bool:
        """Whether there is what models of several depths or widths are swept by."""
        return self.metrics.keys() >= set(catalogue.SWEPT)

    def sweep_figures(self) -> tuple[str, ...]:
        """The figures that a sweep is told by; raises VitalsError where the study makes none."""
        if not self.swept:
            raise VitalsError(
                "interventions.images: 0, expected 2 or more, or null for all: a sweep is "
                "measured on passes with one change each"
            )
        return (catalogue.SWEEP, "correlations", "depth", "interventions")

    @cached_property
    def figures(self) -> dict[str, catalogue.Figure]:
        """The figures of the study by name: those of whose metrics it has all."""
        drawn = {*self.metrics, catalogue.ALIGNMENT, *([catalogue.SWEEP] if self.swept else [])}
        return {
            name: figure
            for name, figure in catalogue.FIGURES.items()
            if drawn.issuperset(figure.metrics)
        }

    @property
    def variants(self) -> list[str]:
        """The variants of the passes that nulls of scrambling are measured on."""
        return [
            null for null in self.settings["metrics"]["scrambling"]["nulls"] if null in VARIANTS
        ]

    @property
    def varied_shards(self) -> list[int]:
        """The shards that hold tokens: variants are of these alone."""
        activations = self.settings["activations"]
        rank = self.listing.groupby("split").cumcount().to_numpy()  # place within its split
        most = activations["token_images"] or len(self.listing)
        return np.unique(np.flatnonzero(rank < most) // activations["shard_images"]).tolist()

    def changed_passes(self, taps: int) -> float:
        """Passes with a change that interventions make of an image, in whole passes."""
        changes = self.settings["interventions"]
        whole = len(changes["strengths"]) + len(changes["controls"]) * changes["repeats"]
        return whole + len(changes["kinds"]) * taps / 2  # from halfway, in the mean

    @property
    def streamed(self) -> list[str]:
        """The metrics that are computed inside passes of their own, and not from stored tokens."""
        streams = self.settings["activations"]["tokens"] == study_file.STREAM
        return [metric.name for metric in METRICS.values() if streams and metric.reducer]

    @property
    def streamed_besides(self) -> list[str]:
        """Those of them that read stored activations besides."""
        return [name for name in self.streamed if METRICS[name].besides]

    def spec(self, stage: str, name: str | None = None) -> str:
        """Canonical JSON of just the settings that a stage reads.

        name: the model of "train" and "load", the shard of "extract", the metric of "metric",
        "merge" and "compare", "{metric}/{shard}" of "stream", "{variant}/{shard}" of "vary", the
        figure of "figure".
        """
        return canonical(self._read_by(stage, name))

    def code(self, stage: str, name: str | None = None) -> str:
        """Digest of the modules that a stage runs; name: as for `spec`."""
        modules = catalogue.modules(stage, name)
        if modules not in self._codes:  # asked for by every job
            self._codes[modules] = code_digest(modules)
        return self._codes[modules]

    def _read_by(self, stage: str, name: str | None) -> dict[str, Any]:
        settings = self.settings
        bootstrap = {f"bootstrap_{key}": value for key, value in settings["bootstrap"].items()}
        match stage:
            case "images":
                chosen = {key: settings["images"][key] for key in ("test_share", "seed", "limit")}
                named = datasets.identity(settings["images"])
                return {**named, **chosen, "listing": self._listed}
            case "train":
                built = _built(self.models[name])
                return {**built, "training": self.recipe(name), "images": self._listed}
            case "load":
                model = self.models[name]
                return {
                    **_built(model),
                    "weights": self._weights_read(name),
                    "classes": study_file.class_names(model["classes"]),
                    "dataset": digest_of(canonical(self.listing.attrs).encode()),
                }
            case "extract":
                return self._read_by_shard(int(name))
            case "vary":
                variant, shard = name.split("/")
                read = self._read_by_shard(int(shard))
                return {**read, "settings": {**read["settings"], **VARIED}, "variant": variant}
            case catalogue.INTERVENE:
                changes = settings["interventions"]
                return {
                    **changes,
                    "count": changes["images"],
                    "images": images.fingerprint(self._tested(self.listing)),
                    "skip_unreadable": settings["images"]["skip_unreadable"],
                }
            case "stream":
                metric, shard = name.split("/")
                read = self._read_by_shard(int(shard))
                passed = {key: self.kept[key] for key in PASSED}
                of_metric = settings["metrics"][metric]
                return {"settings": passed, "images": read["images"], "metric": of_metric}
            case "merge":
                return bootstrap
            case "metric":
                own = settings["metrics"][name]
                return {**own, **bootstrap} if METRICS[name].resampled else own
            case "compare":
                return {"metric": name, **settings["compare"], **bootstrap}
            case "align":
                return bootstrap
            case catalogue.SWEEP:
                return {**settings["sweep"], **bootstrap}
            case "figure":
                return {**self._look, **self._shown_beside(name)}
            case "summary" | "depths":
                return {"study": self.name}
            case "gallery":
                return {}
            case "findings":
                named = {"study": self.name, "models": list(self.models)}
                return {**named, "paper_models": self.paper_models}
            case "captions" | "replicate":
                return {"study": self.name, "models": list(self.models)}
            case "page":
                return {
                    "study": self.name,
                    "palette": settings["figures"]["palette"],
                    "settings": self._read_by_all(),
                    "template": template.digest(),
                }
        raise ValueError(f"no stage {stage}")

    def recipe(self, model: str) -> dict[str, Any]:
        """How a model is trained here: `training`, and what it overrides of it."""
        return {**self.settings["training"], **self.models[model]["training"]}

    def _read_by_all(self) -> dict[str, Any]:
        """What decides the numbers of a study, stage by stage, as the stages read it."""
        models = {name: "train" if name in self.trained else "load" for name in self.models}
        return {
            "images": self._read_by("images", None),
            "models": {name: self._read_by(stage, name) for name, stage in models.items()},
            "activations": self.kept,
            "interventions": self.settings["interventions"],
            "metrics": {name: self.settings["metrics"][name] for name in self.metrics},
            "sweep": self.settings["sweep"],
            "compare": self.settings["compare"],
            "bootstrap": self.settings["bootstrap"],
        }

    @property
    def kept(self) -> dict[str, Any]:
        """What is kept of a pass, and how: the fields of `activations.layout.Settings`."""
        skip = self.settings["images"]["skip_unreadable"]
        activations = _without(self.settings["activations"], (*MACHINE, "tokens"))
        return {**activations, "skip_unreadable": skip}

    def _read_by_shard(self, shard: int) -> dict[str, Any]:
        """What is kept and how, and the shard's own images: others make nothing of it stale.

        before: images of each split in the shards before, which decide who is in which tier.
        """
        activations = self.settings["activations"]
        start = shard * activations["shard_images"]
        before = self.listing["split"].iloc[:start].value_counts()
        rows = self.listing.iloc[start : start + activations["shard_images"]]
        return {
            "settings": self.kept,
            "images": images.fingerprint(rows),
            "before": {split: int(before.get(split, 0)) for split in (images.FIT, images.TEST)},
        }

    def is_listed(self, stage: str, name: str) -> bool:
        """Whether the frozen list, as it is on disk, holds all that a stage reads of it.

        Then a job of that stage need not wait for a list that other images make stale.
        stage, name: "extract" and a shard, "train", "load" or "intervene" and a model.
        """
        if self._frozen is None:
            return False
        if stage == "load":
            described = {"classes": self._frozen.classes, "shape": self._frozen.shape}
            return canonical(described) == canonical(self.listing.attrs)
        if stage == "extract":
            size = self.settings["activations"]["shard_images"]
            return self._is_frozen(int(name) * size, (int(name) + 1) * size)
        if stage == catalogue.INTERVENE:
            frozen = self._tested(self._frozen.table)
            return images.fingerprint(frozen) == images.fingerprint(self._tested(self.listing))
        return self._is_frozen(0, None)

    def _is_frozen(self, start: int, stop: int | None) -> bool:
        frozen, listing = self._frozen.table.iloc[start:stop], self.listing.iloc[start:stop]
        return images.fingerprint(frozen) == images.fingerprint(listing)

    def _weights_read(self, model: str) -> str:
        """The digest of the file of a model's weights, wherever it lies; or that there is none."""
        for file in self.weights_file(model):
            return digests.of_file(Path(file), self.folder / ".weights.stamps")
        return self.models[model]["weights"]

    def _looked_up(self) -> dict[str, Any]:
        """How figures look, with what their style file says rather than where it lies."""
        figures = self.settings["figures"]
        if figures["style"] is None:
            return {**figures, "house_style": style_file.house_digest()}
        try:
            lines = style_file.lines(Path(figures["style"]))
            for line in lines:
                style_file.setting(line)
        except VitalsError as error:
            raise VitalsError(f"figures.{error}") from None
        return {**figures, "style": lines}

    @property
    def paper_models(self) -> dict[str, str]:
        """The models that are one of the paper's, and which."""
        named = {name: model["paper_model"] for name, model in self.models.items()}
        return {name: of_paper for name, of_paper in named.items() if of_paper}

    def _shown_beside(self, figure: str) -> dict[str, Any]:
        """What a figure is told of the study besides: which of the paper's models are its own."""
        told = catalogue.FIGURES[figure].paper and self.paper_models
        return {"paper_models": told} if told else {}

    def _tested(self, table: pd.DataFrame) -> pd.DataFrame:
        """The images of the passes with one change each."""
        tested = table[table["split"] == images.TEST]
        return tested.head(self.settings["interventions"]["images"] or len(tested))

    @cached_property
    def _listed(self) -> str:
        return images.fingerprint(self.listing)


def _without(settings: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in keys}


def _built(model: Mapping[str, Any]) -> dict[str, Any]:
    return {"architecture": model["architecture"], "options": model["options"]}
