"""Weights that exist already: of timm's or torchvision's tags, of a hub, or in a file of one's own.

What is known of them before a model is made: what timm builds for them, how many rows their
classifier has, and what these rows are called.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import vitals.models.torchvision_operators  # noqa: F401  (must come before timm)

# isort: split
import numpy as np
import timm
import torch
from safetensors import safe_open

from vitals.errors import VitalsError, one_line
from vitals.models import classes, published, torchvision_weights
from vitals.models.classes import Classes
from vitals.models.published import PublishedAccuracy
from vitals.models.registry import HUB, PRETRAINED, TORCHVISION, check_architecture

NPZ = ".npz"
# Where the formats that timm reads keep a classifier, and which dimension of it counts its rows.
CLASSIFIERS = {
    "head.weight": 0,
    "head/bias": -1,  # of Google's arrays: the kernel is (channel, row)
    "visual.proj": 1,  # of OpenAI's CLIP: (channel, row)
    "visual.head.proj.weight": 0,  # of OpenCLIP
    "visual.trunk.head.weight": 0,
}
BLOCK = re.compile(r"(?:^|[./])(?:blocks\.|resblocks\.|encoderblock_)(\d+)[./]")
STACKED_BLOCKS = "Transformer/encoderblock/LayerNorm_0/scale"  # (block, channel)


@dataclass(frozen=True)
class Checkpoint:
    """Weights, and what timm builds for them.

    name: what timm loads them by; architecture, options: what timm builds, without weights, to take
    them; rows: of their classifier, 0 for none; classes: of these rows, None where nobody says;
    file: where they are, None for timm's and a hub's; blocks: in the file, None where it is not
    told; preparation: of images, what differs from the architecture's own, by timm's names;
    tensors: what reads them, by timm's names, where timm itself does not know theirs; published:
    their accuracy, None where it is not known.
    """

    name: str
    architecture: str
    options: Mapping[str, Any]
    rows: int
    classes: Classes | None
    file: Path | None = None
    blocks: int | None = None
    preparation: Mapping[str, Any] = field(default_factory=dict)
    tensors: Callable[[], Mapping[str, torch.Tensor]] | None = None
    published: PublishedAccuracy | None = None

    def __str__(self) -> str:
        """How errors name these weights."""
        return self.name if self.file is None else f"{self.name} in {self.file}"

    def asked_rows(self, options: Mapping[str, Any]) -> int:
        """Rows of the classifier under a model's options: all there are, or 0 to leave it out.

        Raises VitalsError for another number: weights have no rows but their own.
        """
        asked = options.get("num_classes", self.rows)
        if asked not in (self.rows, 0):
            raise VitalsError(
                f"options.num_classes = {asked}: the classifier of {self} has {self.rows} rows; "
                f"expected {self.rows}, or 0 to leave it out"
            )
        return asked


def find(architecture: str, file: Path | None = None) -> Checkpoint:
    """The weights of an architecture: those of a file, or without one those that its name says.

    Raises VitalsError as `registry.check_architecture` does, for a file that is not there or holds
    no weights, and for a hub's repository that cannot be had.
    """
    check_architecture(architecture, PRETRAINED if file is None else str(file))
    if architecture.startswith(TORCHVISION):
        return _of_torchvision(architecture, file)
    if file is not None:
        return _of_file(architecture, file)
    if architecture.startswith(HUB):
        return _of_hub(architecture)
    rows = timm.models.get_pretrained_cfg(architecture).num_classes
    return Checkpoint(
        architecture,
        architecture,
        {},
        rows,
        classes.imagenet(rows),
        published=published.of_timm(architecture),
    )


def row_classes(
    checkpoint: Checkpoint, rows: int, given: Sequence[str] | None, dataset: Sequence[str]
) -> Classes | None:
    """What the classes of a classifier's rows are, None where there is no classifier.

    given: names that the user gives; dataset: the classes of the images, which a file with as many
    rows is taken to have in the same order.
    Raises VitalsError where nobody says what the rows are, or for a wrong number of names.
    """
    if given is not None:
        if len(given) != rows:
            raise VitalsError(f"classes: {len(given)} names for the {rows} rows of {checkpoint}")
        return classes.named(given)
    if rows == 0:
        return None
    if checkpoint.classes is not None:
        return checkpoint.classes
    if checkpoint.file is not None and rows == len(dataset):
        return classes.named(dataset)
    raise VitalsError(
        f"nothing says which class each of the {rows} rows of {checkpoint} is: give `classes`, the "
        "name of each row, or the option num_classes: 0 to leave them out (the images have "
        f"{len(dataset)} classes)"
    )


def _of_torchvision(name: str, file: Path | None) -> Checkpoint:
    weights = torchvision_weights.weights_of(name)
    preparation = torchvision_weights.preparation(weights)
    rows = len(weights.meta["categories"])
    return Checkpoint(
        name,
        torchvision_weights.architecture(name),
        {"img_size": preparation["input_size"][-1]},
        rows,
        classes.imagenet(rows),
        file,
        preparation=preparation,
        tensors=partial(torchvision_weights.tensors, weights, file),
        published=torchvision_weights.accuracy(weights),
    )


def _of_file(architecture: str, file: Path) -> Checkpoint:
    if not file.is_file():
        raise VitalsError(f"no weights at {file}")
    try:
        shapes = _shapes(file)
    except Exception as error:  # of the unpickler's, numpy's or safetensors' own kinds
        raise VitalsError(f"{file} cannot be read as weights: {one_line(error)}") from error
    rows = _rows(shapes)
    tagged = classes.imagenet(rows) if _tagged_rows(architecture) == rows else None
    return Checkpoint(architecture, architecture, {}, rows, tagged, file, _blocks(shapes))


def _tagged_rows(architecture: str) -> int | None:
    """Rows of the classifier that timm publishes under a tag."""
    return timm.models.get_pretrained_cfg(architecture).num_classes if "." in architecture else None


def _of_hub(name: str) -> Checkpoint:
    try:
        config, architecture, saved = timm.models.load_model_config_from_hf(name.removeprefix(HUB))
        made = timm.models.PretrainedCfg(**config)
    except Exception as error:  # of the hub's own kinds
        raise VitalsError(
            f"{name} cannot be had from the hub: {one_line(error)} (run `vitals fetch` with the "
            "study's file where there is a network)"
        ) from error
    try:
        check_architecture(architecture)
    except VitalsError as error:
        raise VitalsError(f"{name} holds another kind of model: {error}") from error
    channels, *sides = made.input_size
    options = {"in_chans": channels, **saved}
    if made.fixed_input_size:
        options.setdefault("img_size", tuple(sides))
    options.pop("num_classes", None)  # said by rows
    rows = made.num_classes
    named = _hub_classes(made.label_names, made.label_descriptions, rows)
    return Checkpoint(name, architecture, options, rows, named or classes.imagenet(rows))


def _hub_classes(
    names: Iterable[str] | Mapping[str, str] | None,
    descriptions: Mapping[str, str] | None,
    rows: int,
) -> Classes | None:
    if not names:
        return None
    if isinstance(names, Mapping):  # JSON has no keys but strings
        by_row = {int(row): name for row, name in names.items()}
        names = [by_row.get(row, "") for row in range(rows)]
    return classes.named(list(names), descriptions)


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a file, by its name there."""
    if file.suffix == NPZ:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name].shape for name in arrays.files}
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as tensors:
            names = tensors.keys()
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in names}
    tensors = timm.models.load_state_dict(str(file), device="meta")
    return {name: tuple(t.shape) for name, t in tensors.items() if isinstance(t, torch.Tensor)}


def _rows(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Rows of the classifier of a file, 0 where it has none."""
    for name, shape in shapes.items():
        for classifier, dimension in CLASSIFIERS.items():
            if re.fullmatch(rf"(module\.|.*/)?{re.escape(classifier)}", name):
                return shape[dimension]
    return 0


def _blocks(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """How many blocks a file has, None where its names do not tell."""
    for name, shape in shapes.items():
        if name.endswith(STACKED_BLOCKS):
            return shape[0]
    own = (name for name in shapes if "patch_embed" not in name)  # a backbone has its own blocks
    found = [int(match[1]) for name in own if (match := BLOCK.search(name))]
    return max(found) + 1 if found else None
