"""The stages that make a model: trained here, or loaded, from files to files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from vitals import device as devices
from vitals.data import images as image_lists
from vitals.data.images import FIT, TEST
from vitals.errors import VitalsError
from vitals.models import build, checkpoints, classes, training
from vitals.models.checkpoints import Checkpoint
from vitals.models.classes import Classes
from vitals.provenance import versions
from vitals.reuse import FINGERPRINT, TAKEN_FROM, elsewhere, fingerprint


def train(
    spec: dict[str, Any],
    provenance: dict[str, str],
    images: Path,
    data: str | None,
    weights: Path,
    device: str,
    studies: Path | None = None,
) -> str:
    """Train a model of a spec on the images, and write its weights and report; says what it made.

    spec: architecture, options, and `training`, the fields of `training.Recipe`; data: where the
    images are; studies: the folder of all studies, where the same training may lie and is then
    taken; None to train in any case.
    """
    listed = image_lists.read(images, data)
    provenance = {
        **provenance,
        FINGERPRINT: fingerprint(
            stage="train",
            settings={**spec, "images": listed.digest},
            code=provenance.get("code", ""),
            classes=listed.classes,
            shape=listed.shape,
        ),
    }
    # a result of unknown code is nobody else's
    if studies and provenance.get("code") and (said := _taken(weights, provenance, studies)):
        return said
    recipe = training.Recipe(**spec["training"])
    chosen = devices.choose(device)
    torch.manual_seed(recipe.seed)
    named = classes.named(listed.classes)
    model = build.create(spec["architecture"], spec["options"], len(named.names), listed.shape)
    transform = build.transform(model)
    fit = training.examples(listed.of_split(FIT), transform)
    losses = training.train(model, fit, transform, recipe, chosen)
    test = training.examples(listed.of_split(TEST), transform)
    accuracy = {
        split: training.accuracy(model, part, transform, chosen)
        for split, part in ((FIT, fit), (TEST, test))
    }
    about = {
        **_about(spec, provenance, chosen, named, listed.classes),
        "built": {"architecture": spec["architecture"], "options": spec["options"]},
        "accuracy": accuracy,
        "loss": losses,
    }
    shares = ", ".join(f"{value:.1%} on {split}" for split, value in accuracy.items())
    return f"{_saved(model, about, weights)}; top-1 {shares}"


def load(
    spec: dict[str, Any],
    provenance: dict[str, str],
    images: Path,
    weights_file: Path | None,
    weights: Path,
    device: str,
) -> str:
    """Load the weights of a spec, and write them as the stages below read them; says what it made.

    spec: architecture, options, `weights`, "pretrained" or a file's digest, and `classes`, the
    names of the classifier's rows or None where the weights say them; weights_file: the file, None
    for published weights. Of the images only their classes and shape are read.
    """
    listed = image_lists.read(images, None)
    chosen = devices.choose(device)
    checkpoint = checkpoints.find(spec["architecture"], weights_file)
    rows = checkpoint.asked_rows(spec["options"])
    named = checkpoints.row_classes(checkpoint, rows, spec["classes"], listed.classes)
    about = _about(spec, provenance, chosen, named, listed.classes)
    model = build.load_weights(checkpoint, spec["options"])
    build.check_shape(model, spec["architecture"], listed.shape)
    kept = {key: value for key, value in spec["options"].items() if key != "num_classes"}
    about["built"] = {
        "architecture": checkpoint.architecture,
        "options": {**checkpoint.options, **kept},
    }
    about["published"] = _published(checkpoint, model, kept)
    return _saved(model, about, weights)


def _published(
    checkpoint: Checkpoint, model: torch.nn.Module, options: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The published accuracy of weights, where the model and its images are as they were for it."""
    found, transform = checkpoint.published, asdict(build.transform(model))
    if found is None or set(options) - {"img_size"} or not found.holds(transform):
        return None
    return {"top1": found.top1, "source": found.source}


def _taken(weights: Path, provenance: dict[str, str], studies: Path) -> str | None:
    """Write a model of the same fingerprint that lies elsewhere; None if there is no whole one.

    It is written anew and not linked: the workflow sets the times of files that it knows, and
    linked files have one time.
    """
    for report in elsewhere(weights.with_suffix(".json"), studies):
        try:
            if json.loads(report.read_bytes()).get(FINGERPRINT) != provenance[FINGERPRINT]:
                continue
            model, _, about = build.load(report.with_suffix(weights.suffix), report)
        except (OSError, ValueError, VitalsError):  # torn, or on its way out
            continue
        about = {**about, **provenance, TAKEN_FROM: str(report.parent)}
        said = _saved(model, about, weights)
        return f"{said}: the same training lies in {report.parent}, and is taken"
    return None


def _about(
    spec: dict[str, Any],
    provenance: dict[str, str],
    device: torch.device,
    named: Classes | None,
    dataset: Sequence[str],
) -> dict[str, Any]:
    """What a report says before there is a model; VitalsError for classes that it has not."""
    rows = None if named is None else classes.rows(dataset, named)
    return {
        "architecture": spec["architecture"],
        "options": spec["options"],
        "class_names": None if named is None else named.names,
        "class_rows": None if rows is None else rows.tolist(),
        "precision": "float32",
        "device": str(device),
        "versions": versions(),
        **provenance,
    }


def _saved(model: torch.nn.Module, about: dict[str, Any], weights: Path) -> str:
    report = weights.with_suffix(".json")
    build.save(model, about, weights, report)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return f"{parameters:,} parameters in {weights}"
