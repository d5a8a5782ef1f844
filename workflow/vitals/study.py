"""A study's settings: checked against the schema, completed, and cut into what each stage reads."""

import math
import shlex
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import yaml

from vitals import catalogue
from vitals.catalogue import METRICS
from vitals.data import datasets, digests, images
from vitals.errors import VitalsError, unknown
from vitals.figures import style_file
from vitals.models import classes, registry
from vitals.models.registry import PRETRAINED, TRAINED, check_architecture, check_options
from vitals.page import template
from vitals.provenance import canonical, code_digest, digest_of

SCHEMA = Path(__file__).parents[1] / "schemas" / "study.yaml"
# What is the machine's: where the data lies and how the work is done change no result.
MACHINE = ("path", "keep_decoded", "skip_unreadable", "batch")
STREAM = "stream"
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
        self.settings = _completed(settings, yaml.safe_load(schema.read_text()))
        self.name: str = self.settings["study"]
        self.models: dict[str, dict[str, Any]] = self.settings["models"]
        for name, model in self.models.items():
            _check_model(name, model)
            _check_recipe(name, self.recipe(name))
        _check_streaming(self.settings["activations"])
        self._look = self._looked_up()
        self.folder = artifacts / self.name
        frozen = self.folder / "images.parquet"
        previous = frozen if frozen.is_file() else None
        self.listing = images.listed(self.settings["images"], previous)
        _check_folds(self.settings, self.listing)
        self._frozen = None if previous is None else images.read(previous)
        for name, model in self.models.items():
            _check_classes(name, model, self.listing.attrs["classes"])
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

    @property
    def streamed(self) -> list[str]:
        """The metrics that are computed inside passes of their own, and not from stored tokens."""
        streams = self.settings["activations"]["tokens"] == STREAM
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
                    "classes": _class_names(model["classes"]),
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


def _check_streaming(activations: Mapping[str, Any]) -> None:
    if activations["tokens"] == STREAM and activations["token_images"] is None:
        raise VitalsError(
            "activations.tokens = 'stream' needs activations.token_images: of how many images of "
            "each split tokens are kept, for the metrics that read them several times (say 512)"
        )


def _check_folds(settings: Mapping[str, Any], listing: pd.DataFrame) -> None:
    """Raise VitalsError where the fit images listed cannot be dealt into the folds asked for."""
    kept = settings["activations"]["token_images"]
    listed = int((listing["split"] == images.FIT).sum())
    found = listed if kept is None else min(kept, listed)
    folds = settings["metrics"]["scrambling"]["folds"]
    if found < 2 * folds:
        allowed = f"2 to {found // 2} folds, or " if found >= 4 else ""
        raise VitalsError(
            f"metrics.scrambling.folds = {folds} needs tokens of at least {2 * folds} fit images, "
            f"found {found}: expected {allowed}more images (images.limit, images.test_share, "
            "activations.token_images)"
        )


def _check_recipe(model: str, recipe: Mapping[str, Any]) -> None:
    if recipe["stop_after"] is not None and recipe["stop_after"] > recipe["epochs"]:
        raise VitalsError(
            f"models.{model}: training.stop_after = {recipe['stop_after']}: expected at most its "
            f"training.epochs = {recipe['epochs']}"
        )


def _class_names(file: str | None) -> list[str] | None:
    """The names in a file, one a line."""
    return None if file is None else Path(file).read_text().splitlines()


def _built(model: Mapping[str, Any]) -> dict[str, Any]:
    return {"architecture": model["architecture"], "options": model["options"]}


def _check_model(name: str, model: Mapping[str, Any]) -> None:
    try:
        check_architecture(model["architecture"], model["weights"])
    except VitalsError as error:
        raise VitalsError(f"models.{name}.architecture: {error}") from None
    try:
        check_options(model["options"], model["weights"])
    except VitalsError as error:
        raise VitalsError(f"models.{name}.{error}") from None
    if model["classes"] is not None and not Path(model["classes"]).is_file():
        raise VitalsError(
            f"models.{name}.classes = '{model['classes']}': expected a text file, one class a line"
        )
    options, weights = model["options"], model["weights"]
    for whole, part in (("embed_dim", "num_heads"), ("img_size", "patch_size")):
        if options.get(whole, 0) % options.get(part, 1):
            raise VitalsError(
                f"models.{name}.options: {whole} = {options[whole]} is not a multiple of "
                f"{part} = {options[part]}"
            )
    if weights not in (TRAINED, PRETRAINED) and not Path(weights).is_file():
        raise VitalsError(
            f"models.{name}.weights = '{weights}': expected '{TRAINED}', '{PRETRAINED}' or "
            "the path of a file"
        )


def _check_classes(name: str, model: Mapping[str, Any], of_images: Sequence[str]) -> None:
    """VitalsError where a classifier is known to lack a class of the images, before it is loaded.

    What a file's rows are is known once it is read.
    """
    if model["weights"] == TRAINED or model["options"].get("num_classes") == 0:
        return
    known = None
    if model["classes"] is not None:
        known = classes.named(_class_names(model["classes"]))
    elif model["weights"] == PRETRAINED:
        rows = registry.rows(model["architecture"])
        known = None if rows is None else classes.imagenet(rows)
        if rows and known is None:
            raise VitalsError(
                f"models.{name}: nothing says which class each of the {rows} rows of "
                f"{model['architecture']} is: give `classes`, a file with the name of each, or "
                "leave them out by the option num_classes: 0"
            )
    if known is not None:
        try:
            classes.rows(of_images, known)
        except VitalsError as error:
            raise VitalsError(f"models.{name}: {error}") from None


def _completed(settings: Mapping[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """A copy of the settings with every default filled in, checked against the schema."""
    settings = deepcopy(dict(settings))
    validator = _with_defaults(jsonschema.Draft202012Validator)(schema)
    errors = sorted(validator.iter_errors(settings), key=lambda error: list(map(str, error.path)))
    if errors:
        raise _readable(errors[0])
    return settings


def _with_defaults(validator: Any) -> Any:
    """jsonschema's own recipe: a validator that puts defaults in before it looks at a property."""
    check = validator.VALIDATORS["properties"]

    def fill(self: Any, properties: Any, instance: Any, schema: Any) -> Any:
        if isinstance(instance, dict):
            for key, property_schema in properties.items():
                if "default" in property_schema:
                    instance.setdefault(key, deepcopy(property_schema["default"]))
        yield from check(self, properties, instance, schema)

    # JSON Schema takes 30.0 as an integer, and YAML's .inf and .nan are numbers to it
    types = validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda _, value: isinstance(value, int) and not isinstance(value, bool),
            "number": lambda _, value: (
                isinstance(value, int | float)
                and not isinstance(value, bool)
                and math.isfinite(value)
            ),
        }
    )
    return jsonschema.validators.extend(validator, {"properties": fill}, type_checker=types)


def _readable(error: jsonschema.ValidationError) -> VitalsError:
    key = ".".join(map(str, error.path))
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        key = f"key in {key}" if key else "key"
        return unknown(key, str(next(k for k in error.instance if k not in known)), known)
    if error.validator == "required":
        missing = next(name for name in error.validator_value if name not in error.instance)
        return VitalsError(f"{key or 'the study'} lacks '{missing}'")
    if error.validator == "enum":
        return unknown(f"value of {key}:", str(error.instance), map(str, error.validator_value))
    allowed = error.schema.get("description", "")
    return VitalsError(f"{key} = {error.instance!r}: {error.message} ({allowed})")
