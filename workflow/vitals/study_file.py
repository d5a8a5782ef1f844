"""What a study's file says: completed with every default, and checked before anything runs."""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import yaml

from vitals.data import images
from vitals.errors import VitalsError, unknown
from vitals.models import classes, registry
from vitals.models.registry import PRETRAINED, TRAINED, check_architecture, check_options

STREAM = "stream"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C, where PyYAML was built with it


def completed(settings: Mapping[str, Any], schema: Path) -> dict[str, Any]:
    """A copy of the settings with every default filled in, checked against a JSON schema in YAML.

    Raises VitalsError for the first that is wrong: the key, the value, and what is allowed.
    """
    settings = deepcopy(dict(settings))
    rules = yaml.load(schema.read_text(), LOADER)
    validator = _with_defaults(jsonschema.Draft202012Validator)(rules)
    errors = sorted(validator.iter_errors(settings), key=lambda error: list(map(str, error.path)))
    if errors:
        raise _readable(errors[0])
    return settings


def check_model(name: str, model: Mapping[str, Any]) -> None:
    """Raise VitalsError where a model cannot be built as its settings say, or a file is missing."""
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


def check_recipe(model: str, recipe: Mapping[str, Any]) -> None:
    """Raise VitalsError where training is to stop after more epochs than it has."""
    if recipe["stop_after"] is not None and recipe["stop_after"] > recipe["epochs"]:
        raise VitalsError(
            f"models.{model}: training.stop_after = {recipe['stop_after']}: expected at most its "
            f"training.epochs = {recipe['epochs']}"
        )


def check_classes(name: str, model: Mapping[str, Any], of_images: Sequence[str]) -> None:
    """Raise VitalsError where a classifier is known to lack a class of the images.

    What a file's rows are is known once it is read.
    """
    if model["weights"] == TRAINED or model["options"].get("num_classes") == 0:
        return
    known = None
    if model["classes"] is not None:
        known = classes.named(class_names(model["classes"]))
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


def check_streaming(activations: Mapping[str, Any]) -> None:
    """Raise VitalsError where nothing says of how many images a streamed study keeps tokens."""
    if activations["tokens"] == STREAM and activations["token_images"] is None:
        raise VitalsError(
            "activations.tokens = 'stream' needs activations.token_images: of how many images of "
            "each split tokens are kept, for the metrics that read them several times (say 512)"
        )


def check_folds(settings: Mapping[str, Any], listing: pd.DataFrame) -> None:
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


def class_names(file: str | None) -> list[str] | None:
    """The names in a file, one a line."""
    return None if file is None else Path(file).read_text().splitlines()


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
