"""A model from its settings: a timm architecture with options, and weights from a file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vitals.models.torchvision_operators  # noqa: F401  (must come before timm)

# isort: split
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from vitals.errors import VitalsError, one_line
from vitals.models.anatomy import check_kind, input_shape
from vitals.models.registry import check_architecture
from vitals.provenance import canonical, digest_of
from vitals.whole import whole_file


@dataclass(frozen=True)
class Transform:
    """From pixels in [0, 1] to what the model takes: (pixels − mean) / std, channel by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """(image, channel, row, column) -> the same, normalised."""
        mean, std = (
            torch.tensor(values, dtype=pixels.dtype, device=pixels.device)[:, None, None]
            for values in (self.mean, self.std)
        )
        return (pixels - mean) / std


def create(
    architecture: str, options: dict[str, Any], classes: int, shape: tuple[int, int, int]
) -> nn.Module:
    """A timm model with fresh weights, for images of this shape and this many classes.

    Raises VitalsError for an unknown architecture, options that timm refuses, or another shape.
    """
    try:
        return _created(architecture, {**options, "num_classes": classes}, shape)
    except RuntimeError as error:  # a tag that timm does not know
        raise VitalsError(f"timm refuses {architecture}: {one_line(error)}") from error


def load_weights(
    architecture: str,
    options: dict[str, Any],
    classes: int,
    file: str | None,
    shape: tuple[int, int, int],
) -> nn.Module:
    """A timm model with its published weights, or with those of a local file, for these classes.

    A file goes through timm's own mapping of parameter names for the architecture.
    Raises VitalsError as `create` does, and for weights that cannot be had or are of another shape.
    """
    if file and not Path(file).is_file():
        raise VitalsError(f"no weights at {file}")
    # timm replaces the head of weights for another number of classes by a random one, unless told
    # that theirs is the number asked for: then it says which shapes differ
    overlay = {"num_classes": classes, **({"file": file, "custom_load": False} if file else {})}
    loaded = {"num_classes": classes, "pretrained": True, "pretrained_cfg_overlay": overlay}
    try:
        return _created(architecture, {**options, **loaded}, shape)
    except VitalsError:
        raise
    except Exception as error:  # of the hub's, the unpickler's or safetensors' own kinds
        raise VitalsError(
            f"the weights of {architecture} could not be loaded from {file or 'its hub'} for "
            f"{classes} classes: {one_line(error)}"
        ) from error


def _created(architecture: str, options: dict[str, Any], shape: tuple[int, int, int]) -> nn.Module:
    check_architecture(architecture)
    try:
        model = timm.create_model(architecture, **options)
    except (TypeError, AssertionError) as error:
        raise VitalsError(
            f"timm refuses these options of {architecture}: {one_line(error)}"
        ) from error
    check_kind(model)
    if input_shape(model) != shape:
        raise VitalsError(
            f"{architecture} takes images of {input_shape(model)} (channels, rows, columns), "
            f"the dataset gives {shape}"
        )
    return model.eval()


def transform(model: nn.Module) -> Transform:
    """The normalisation that timm resolves for a model, its mean for grey images."""
    channels = input_shape(model)[0]
    config = timm.data.resolve_data_config(model=model)
    mean, std = (tuple(map(float, config[key])) for key in ("mean", "std"))
    if channels == len(mean):
        return Transform(mean, std)
    return Transform(*((sum(values) / len(values),) * channels for values in (mean, std)))


def weights_digest(model: nn.Module) -> str:
    """Digest of every parameter and buffer, by name."""
    digests = {
        name: digest_of(value.detach().cpu().contiguous().numpy().tobytes())
        for name, value in model.state_dict().items()
    }
    return digest_of(canonical(digests).encode())


def save(model: nn.Module, about: dict[str, Any], weights: Path, report: Path) -> None:
    """Write the weights, and beside them what a reader needs to build the model again."""
    about = {**about, "weights_digest": weights_digest(model)}
    with whole_file(weights) as partial:
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, partial)
    with whole_file(report) as partial:
        partial.write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")


def load(weights: Path, report: Path) -> tuple[nn.Module, Transform, dict[str, Any]]:
    """The model, its transform and its report, as `save` wrote them.

    Raises VitalsError for weights that are not the ones that the report describes.
    """
    about = json.loads(report.read_text())
    model = create(about["architecture"], about["options"], about["classes"], tuple(about["shape"]))
    try:
        model.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        raise VitalsError(f"{weights} cannot be read: {one_line(error)}") from error
    if weights_digest(model) != about["weights_digest"]:
        raise VitalsError(f"{weights} does not hold the weights that {report} describes")
    kept = {name: tuple(values) for name, values in about["transform"].items()}
    return model.eval(), Transform(**kept), about
