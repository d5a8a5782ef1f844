"""A study's settings: checked against the schema, completed, and cut into what each stage reads."""

import math
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import yaml

from vitals.catalogue import FIGURES, METRICS, STAGE_MODULES
from vitals.data import images
from vitals.errors import VitalsError, unknown
from vitals.models.registry import check_architecture
from vitals.provenance import canonical, code_digest

TRAINED, PRETRAINED = "trained", "pretrained"


class Study:
    """One study: its models, shards, and the `spec` and `code` of each stage.

    Raises VitalsError, before anything runs, for the first setting that is wrong: the key, the
    value, and what is allowed.
    """

    def __init__(self, settings: Mapping[str, Any], schema: Path) -> None:
        self.settings = _completed(settings, yaml.safe_load(schema.read_text()))
        self.name: str = self.settings["study"]
        self.models: dict[str, dict[str, Any]] = self.settings["models"]
        for name, model in self.models.items():
            _check_model(name, model)
        self._labels = self._checked_images()

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

    @property
    def shards(self) -> range:
        """The shards that the image list makes."""
        return range(-(-len(self._labels) // self.settings["activations"]["shard_images"]))

    def spec(self, stage: str, name: str | None = None) -> str:
        """Canonical JSON of just the settings that a stage reads.

        name: the model of "train" and "load", the metric of "metric" and "compare", the figure of
        "figure".
        """
        return canonical(self._read_by(stage, name))

    def code(self, stage: str, name: str | None = None) -> str:
        """Digest of the modules that a stage runs; name: as for `spec`."""
        if stage == "metric":
            return code_digest(METRICS[name].modules)
        if stage == "figure":
            return code_digest(FIGURES[name].modules)
        return code_digest(STAGE_MODULES[stage])

    def _read_by(self, stage: str, name: str | None) -> dict[str, Any]:
        settings = self.settings
        bootstrap = {f"bootstrap_{key}": value for key, value in settings["bootstrap"].items()}
        match stage:
            case "images":
                return settings["images"]
            case "train":
                model = self.models[name]
                recipe = {**settings["training"], **model["training"]}
                return {**_built(model), "training": recipe}
            case "load":
                model = self.models[name]
                return {**_built(model), "weights": model["weights"]}
            case "extract":
                return settings["activations"]
            case "metric":
                own = settings["metrics"][name]
                return {**own, **bootstrap} if METRICS[name].resampled else own
            case "compare":
                return {"metric": name, **settings["compare"], **bootstrap}
            case "figure":
                return settings["figures"]
            case "summary":
                return {"study": self.name}
        raise ValueError(f"no stage {stage}")

    def _checked_images(self) -> np.ndarray:
        chosen = self.settings["images"]
        labels = images.chosen(chosen["dataset"], chosen["limit"])
        images.stratified_split(labels, chosen["test_share"], chosen["seed"])
        return labels


def _built(model: Mapping[str, Any]) -> dict[str, Any]:
    return {"architecture": model["architecture"], "options": model["options"]}


def _check_model(name: str, model: Mapping[str, Any]) -> None:
    try:
        check_architecture(model["architecture"])
    except VitalsError as error:
        raise VitalsError(f"models.{name}.architecture: {error}") from None
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
