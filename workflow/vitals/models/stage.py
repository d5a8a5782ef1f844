"""The stages that make a model: trained here, or loaded, from files to files."""

from pathlib import Path
from typing import Any

import torch

from vitals import device as devices
from vitals.data import images as image_lists
from vitals.models import build, training
from vitals.provenance import versions


def train(
    spec: dict[str, Any], provenance: dict[str, str], images: Path, weights: Path, device: str
) -> str:
    """Train a model of a spec on the images, and write its weights and report; says what it made.

    spec: architecture, options, and `training`, the fields of `training.Recipe`.
    """
    listed = image_lists.read(images)
    recipe = training.Recipe(**spec["training"])
    chosen = devices.choose(device)
    torch.manual_seed(recipe.seed)
    source = listed.source
    model = build.create(spec["architecture"], spec["options"], listed.classes, source.shape)
    losses = training.train(model, listed, build.transform(model), recipe, chosen)
    return _save(model, spec, provenance, listed, weights, chosen, {"loss": losses})


def load(
    spec: dict[str, Any], provenance: dict[str, str], images: Path, weights: Path, device: str
) -> str:
    """Load the weights of a spec, and write them as the stages below read them.

    spec: architecture, options, and `weights`, "pretrained" or the path of a file.
    """
    listed = image_lists.read(images)
    file = None if spec["weights"] == "pretrained" else spec["weights"]
    model = build.load_weights(
        spec["architecture"], spec["options"], listed.classes, file, listed.source.shape
    )
    return _save(model, spec, provenance, listed, weights, devices.choose(device), {})


def _save(
    model: torch.nn.Module,
    spec: dict[str, Any],
    provenance: dict[str, str],
    listed: image_lists.ImageList,
    weights: Path,
    device: torch.device,
    more: dict[str, Any],
) -> str:
    transform = build.transform(model)
    accuracy = training.accuracy(model, listed, transform, device)
    about = {
        "architecture": spec["architecture"],
        "options": spec["options"],
        "classes": model.num_classes,
        "shape": listed.source.shape,
        "transform": {"mean": transform.mean, "std": transform.std},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "accuracy": accuracy,
        "images_digest": listed.digest,
        "device": str(device),
        "versions": versions(),
        **provenance,
        **more,
    }
    build.save(model, about, weights, weights.with_suffix(".json"))
    shares = ", ".join(f"{value:.1%} on {split}" for split, value in accuracy.items())
    return f"{about['parameters']:,} parameters in {weights}; top-1 {shares}"
