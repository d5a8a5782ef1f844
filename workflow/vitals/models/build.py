"""A model from its settings: a timm architecture with options, and weights from elsewhere."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import vitals.models.torchvision_operators  # noqa: F401  (must come before timm)

# isort: split
import timm
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.layers import set_fused_attn
from torch import nn

from vitals.errors import VitalsError, one_line
from vitals.models import checkpoints
from vitals.models.anatomy import check_kind, input_shape
from vitals.models.checkpoints import NPZ, Checkpoint
from vitals.models.filled import Filled
from vitals.models.registry import (
    HUB,
    PRETRAINED,
    TORCHVISION,
    TRAINED,
    check_architecture,
    check_options,
)
from vitals.models.transform import Transform, transform
from vitals.provenance import canonical, digest_of
from vitals.whole import whole_file

MOST_NAMED = 5  # of the parameters that an error lists


def create(
    architecture: str,
    options: Mapping[str, Any],
    classes: int,
    shape: tuple[int, int, int] | None = None,
) -> nn.Module:
    """A timm model with fresh weights, for this many classes, in evaluation mode.

    shape: channel, row and column of the images, None for pictures, which are made to fit.
    Raises VitalsError for an unknown architecture, options that timm refuses, or another shape.
    """
    check_architecture(architecture)
    check_options(options, TRAINED)
    model = _created(architecture, {**options, "num_classes": classes})
    check_shape(model, architecture, shape)
    return model


def skeleton(
    architecture: str, options: Mapping[str, Any], classes: int | None = None
) -> nn.Module:
    """The same model without weights, on torch's meta device: its shapes cost no memory.

    classes: rows of the classifier, None for those of the published weights.
    Raises VitalsError as `create` does.
    """
    check_options(options, PRETRAINED)
    named, made = architecture, dict(options)
    if architecture.startswith((HUB, TORCHVISION)):
        checkpoint = checkpoints.find(architecture)
        named, made = checkpoint.architecture, {**checkpoint.options, **options}
        made["pretrained_cfg_overlay"] = dict(checkpoint.preparation)
        classes = checkpoint.rows if classes is None else classes
    check_architecture(named)
    rows = {} if classes is None else {"num_classes": classes}
    return _created(named, {**rows, **made, "device": "meta"})


def load_weights(checkpoint: Checkpoint, options: Mapping[str, Any]) -> nn.Module:
    """A timm model with published weights or those of a file, all of them and nothing else.

    A file goes through timm's own mapping of names for the architecture; another `img_size` resizes
    position embeddings as timm does. The classifier is the weights' own; `num_classes: 0` among
    the options leaves it out.
    Raises VitalsError for weights that cannot be had, that are of another shape, or that do not
    give every parameter its value.
    """
    check_options(options, PRETRAINED)
    rows, asked = checkpoint.rows, checkpoint.asked_rows(options)
    # timm replaces the head of weights for another number of classes by a random one, unless told
    # that theirs is the number asked for: then it says which shapes differ
    overlay: dict[str, Any] = {**checkpoint.preparation, "num_classes": rows}
    if checkpoint.tensors is None and checkpoint.file is not None:
        arrays = checkpoint.file.suffix == NPZ  # Google's, which timm reads by their own names
        overlay |= {"file": str(checkpoint.file), "custom_load": arrays}
    loaded = {"num_classes": rows, "pretrained": True, "pretrained_cfg_overlay": overlay}
    with Filled() as filled:
        model = _loaded(checkpoint, {**options, **loaded})
    _check_whole(checkpoint, model, filled.missing(model))
    if asked != rows:
        model.reset_classifier(0)
    return model


def check_shape(model: nn.Module, name: str, shape: tuple[int, int, int] | None) -> None:
    """Raise VitalsError where images of a fixed shape are not what the model takes."""
    if shape is not None and input_shape(model) != tuple(shape):
        raise VitalsError(
            f"{name} takes images of {input_shape(model)} (channels, rows, columns), "
            f"the dataset gives {tuple(shape)}"
        )


def _created(name: str, options: dict[str, Any]) -> nn.Module:
    set_fused_attn(True)  # modules ask once, when they are made
    try:
        model = timm.create_model(name, **options)
    except (TypeError, AssertionError) as error:
        raise VitalsError(f"timm refuses these options of {name}: {one_line(error)}") from error
    check_kind(model)
    return model.eval()


def _loaded(checkpoint: Checkpoint, options: dict[str, Any]) -> nn.Module:
    try:
        if checkpoint.tensors is None:
            return _created(checkpoint.name, options)
        overlay = {**options["pretrained_cfg_overlay"], "state_dict": checkpoint.tensors()}
        made = {**checkpoint.options, **options, "pretrained_cfg_overlay": overlay}
        return _created(checkpoint.architecture, made)
    except VitalsError:
        raise
    except Exception as error:  # of the hub's, the unpickler's or safetensors' own kinds
        raise VitalsError(
            f"the weights of {checkpoint} could not be loaded: {one_line(error)}{_hint(checkpoint)}"
        ) from error


def _hint(checkpoint: Checkpoint) -> str:
    if checkpoint.file is not None:
        return ""
    return " (run `vitals fetch` with the study's file where there is a network)"


def _check_whole(checkpoint: Checkpoint, model: nn.Module, missing: list[str]) -> None:
    if missing:
        more = ", ..." if len(missing) > MOST_NAMED else ""
        raise VitalsError(
            f"the weights of {checkpoint} give no value to {len(missing)} parameters of "
            f"the model: {', '.join(missing[:MOST_NAMED])}{more}"
        )
    if checkpoint.blocks not in (None, len(model.blocks)):
        raise VitalsError(
            f"the weights of {checkpoint} have {checkpoint.blocks} blocks, the model has "
            f"{len(model.blocks)}"
        )


def weights_digest(model: nn.Module) -> str:
    """Digest of every parameter and buffer, by name."""
    digests = {
        name: digest_of(value.detach().cpu().contiguous().numpy().tobytes())
        for name, value in model.state_dict().items()
    }
    return digest_of(canonical(digests).encode())


def save(model: nn.Module, about: dict[str, Any], weights: Path, report: Path) -> None:
    """Write the weights, and beside them what a reader needs to build the model again.

    about: at least `built`, the architecture and options of `create`.
    """
    about = {
        **about,
        "classes": model.num_classes,
        "shape": input_shape(model),
        "transform": asdict(transform(model)),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "weights_digest": weights_digest(model),
    }
    with whole_file(weights) as partial:
        save_file(
            {name: value.contiguous() for name, value in model.state_dict().items()},
            partial,
            {"weights_digest": about["weights_digest"]},  # which they are, without reading them
        )
    with whole_file(report) as partial:
        partial.write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")


def load(weights: Path, report: Path) -> tuple[nn.Module, Transform, dict[str, Any]]:
    """The model, its transform and its report, as `save` wrote them.

    The model is in evaluation mode, with timm's fused attention.
    Raises VitalsError for weights that are not the ones that the report describes.
    """
    about = json.loads(report.read_text())
    model = create(**about["built"], classes=about["classes"], shape=tuple(about["shape"]))
    try:
        model.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        raise VitalsError(f"{weights} cannot be read: {one_line(error)}") from error
    if weights_digest(model) != about["weights_digest"]:
        raise VitalsError(f"{weights} does not hold the weights that {report} describes")
    fields = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in about["transform"].items()
    }
    return model.eval(), Transform(**fields), about
