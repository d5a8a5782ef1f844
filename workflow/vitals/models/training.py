"""Training a Vision Transformer from scratch on a study's fit split."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from vitals.data import pixels
from vitals.data.images import ImageList
from vitals.errors import VitalsError
from vitals.models.build import Transform
from vitals.progress import announce, progress

IMAGES_PER_BLOCK = 256


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: AdamW on a one-cycle schedule.

    warmup: share of the steps over which the learning rate rises; smoothing: of the labels;
    stop_after: epochs after which training stops on the schedule of all, None for all.
    """

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    warmup: float
    smoothing: float
    seed: int
    stop_after: int | None = None

    @property
    def passes(self) -> int:
        """Passes over the fit split that are made."""
        return self.epochs if self.stop_after is None else self.stop_after


@dataclass(frozen=True)
class Examples:
    """Prepared images in memory, and their classes.

    pixels: bytes of pictures, or values in [0, 1], (image, channel, row, column); labels: (image,).
    """

    pixels: torch.Tensor
    labels: torch.Tensor


def examples(images: ImageList, transform: Transform) -> Examples:
    """All images of a list in memory, as the transform prepares them; says how much that takes.

    Raises VitalsError for an image that cannot be read, or is not the one that was listed.
    """
    labels = torch.tensor(images.labels())
    if images.shape is not None:
        return Examples(torch.from_numpy(images.pixels()), labels)
    prepared = np.empty((len(labels), *transform.size), dtype=np.uint8)
    announce(f"training: {len(labels)} pictures in memory, {prepared.nbytes / 1e9:.1f} GB")
    stream = pixels.prepared(images, transform.prepare, torch.get_num_threads())
    for place, picture in enumerate(stream):
        prepared[place] = picture
    return Examples(torch.from_numpy(prepared), labels)


def train(
    model: nn.Module, fit: Examples, transform: Transform, recipe: Recipe, device: torch.device
) -> list[float]:
    """Train the model in place on images of the fit split; the mean loss of each epoch.

    The same recipe, images and device give the same weights; one that stops earlier gives those
    that the whole one had then.
    Raises VitalsError for a recipe of so few steps that none of them warms up.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    images, labels = fit.pixels.to(device), fit.labels.to(device)
    steps = -(-len(labels) // recipe.batch)
    if recipe.warmup * recipe.epochs * steps <= 1:
        raise VitalsError(
            f"training.warmup = {recipe.warmup} of {recipe.epochs * steps} steps is no step: "
            "expected more than one; train for more epochs, or in smaller batches"
        )
    announce(
        f"training: {recipe.passes} epochs of {steps} steps, {len(labels)} images, on {device}"
    )

    optimizer = torch.optim.AdamW(
        _parameter_groups(model, recipe.weight_decay), lr=recipe.learning_rate, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, recipe.epochs * steps, pct_start=recipe.warmup
    )
    model.to(device).train()
    losses = []
    for _ in progress(range(recipe.passes), "training"):
        total = 0.0
        for rows in torch.randperm(len(labels), generator=generator).split(recipe.batch):
            rows = rows.to(device)
            loss = F.cross_entropy(
                model(transform(images[rows])), labels[rows], label_smoothing=recipe.smoothing
            )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows)
        losses.append(total / len(labels))
    model.eval()
    return losses


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Weight decay for matrices alone: not for biases, norms, and what timm names as without."""
    spared = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()
    named = list(model.named_parameters())
    decayed = [p for name, p in named if p.ndim > 1 and name not in spared]
    others = [p for name, p in named if p.ndim <= 1 or name in spared]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


@torch.inference_mode()
def accuracy(
    model: nn.Module, examples: Examples, transform: Transform, device: torch.device
) -> float:
    """Top-1 accuracy, in [0, 1]."""
    model.to(device).eval()
    right = 0
    blocks = (part.split(IMAGES_PER_BLOCK) for part in (examples.pixels, examples.labels))
    for images, labels in zip(*blocks, strict=True):
        predicted = model(transform(images.to(device))).argmax(dim=1)
        right += int((predicted.cpu() == labels).sum())
    return right / len(examples.labels)
