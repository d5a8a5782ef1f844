"""What a study's activations will take: shapes, disk and time, before anything runs."""

import contextlib
import io
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from vitals.activations import layout
from vitals.activations.batches import fitting_size
from vitals.activations.extract import Machine, Subject, extract
from vitals.activations.layout import Settings
from vitals.data import pixels
from vitals.data.images import ImageList
from vitals.models.anatomy import Anatomy, anatomy
from vitals.models.transform import Transform, transform

FEW, MORE = 1, 3  # batches of a short and of a longer trial: their difference is without the start
MOST_TRIED = 96  # images
WRITTEN = 2**27  # bytes, at most, by which the disk is measured


@dataclass(frozen=True)
class Speeds:
    """Seconds an image takes: each part alone, and an extraction with its tokens and without."""

    reading: float
    passing: float
    writing: float
    with_tokens: float
    without_tokens: float

    @property
    def limit(self) -> str:
        """The part that takes longest."""
        parts = {"reading": self.reading, "passing": self.passing, "writing": self.writing}
        return max(parts, key=lambda part: parts[part])


@dataclass(frozen=True)
class Plan:
    """What one model takes: images and bytes (before any codec) by tier, its shards and speeds."""

    body: Anatomy
    layers: int
    parameters: int
    images: Mapping[str, int]
    bytes: Mapping[str, int]
    shards: int
    speeds: Speeds

    @property
    def minutes(self) -> float:
        """Of one extraction after the other."""
        tokens, images = self.images[layout.TOKENS], self.images[layout.POOLED]
        speeds = self.speeds
        return (tokens * speeds.with_tokens + (images - tokens) * speeds.without_tokens) / 60


def of_model(
    skeleton: nn.Module,
    split: np.ndarray,
    sample: ImageList,
    settings: Settings,
    machine: Machine,
    folder: Path,
) -> Plan:
    """The plan of a model: its arrays from its anatomy, its speeds from trials in a folder.

    skeleton: the model without weights, which do not change how long a pass takes; split: of every
    image of the study; sample: some of its images, for the trials.
    """
    body, how = anatomy(skeleton), transform(skeleton)
    members = layout.tiers(split, settings, body)
    counts = {tier: int(rows.sum()) for tier, rows in members.items()}
    sizes = dict.fromkeys(members, 0)
    for array in layout.arrays(body, settings, counts, how.size):
        sizes[array.tier] += array.bytes
    layers, parameters = len(body.layers(settings.sub_blocks)), _parameters(skeleton)
    batch = machine.batch or fitting_size(body, layers, machine.device)
    machine = replace(machine, batch=min(batch, max(1, len(sample.table) // MORE)), decoded=None)
    image_bytes = sum(sizes.values()) // split.size
    trial = _Trial(_filled(skeleton, machine.device), how, sample, settings, machine, folder)
    speeds = trial.speeds(image_bytes)
    shards = -(-split.size // settings.shard_images)
    return Plan(body, layers, parameters, counts, sizes, shards, speeds)


@dataclass(frozen=True)
class _Trial:
    """A model with random weights, passing a few images."""

    network: nn.Module
    transform: Transform
    images: ImageList
    settings: Settings
    machine: Machine
    folder: Path

    def speeds(self, image_bytes: int) -> Speeds:
        """Seconds an image of each part, with so many bytes to write."""
        with_tokens = replace(self.settings, token_images=None)
        without = replace(self.settings, token_images=0)
        return Speeds(
            reading=self._reading(),
            passing=self._passing(),
            writing=_writing(self.folder, image_bytes),
            with_tokens=self._extracting(with_tokens),
            without_tokens=self._extracting(without),
        )

    def _reading(self) -> float:
        stream = pixels.prepared(self.images, self.transform.prepare, self.machine.workers)
        return _seconds(lambda: [None for _ in stream]) / len(self.images.table)

    @torch.inference_mode()
    def _passing(self) -> float:
        count, device = self.machine.batch, self.machine.device
        batch = torch.rand(count, *self.transform.size, device=device)

        def run() -> None:
            self.network(batch).sum().item()  # the sum waits for the device

        run()
        return _seconds(run) / count

    def _extracting(self, settings: Settings) -> float:
        few, more = (self.images.rows(0, n * self.machine.batch) for n in (FEW, MORE))
        self._extract(few, settings)  # warm
        seconds = [
            _seconds(lambda part=part: self._extract(part, settings)) for part in (few, more)
        ]
        return max(0.0, seconds[1] - seconds[0]) / (len(more.table) - len(few.table))

    def _extract(self, images: ImageList, settings: Settings) -> None:
        whole = replace(settings, shard_images=len(images.table))
        subject = Subject("trial", self.network, self.transform)
        quiet = contextlib.redirect_stderr(io.StringIO())  # a trial announces no work
        with quiet, tempfile.TemporaryDirectory(dir=self.folder) as folder:
            extract(subject, images, 0, whole, Path(folder, "0.zarr"), {}, self.machine)


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _filled(skeleton: nn.Module, device: torch.device) -> nn.Module:
    """A model with small random weights in the place of those that it has not."""
    network = skeleton.to_empty(device=device).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.02)
        for buffer in network.buffers():
            buffer.zero_()
    return network


def _writing(folder: Path, image_bytes: int) -> float:
    """Seconds until the bytes of an image are on the disk of a folder."""
    content = np.random.default_rng(0).bytes(min(WRITTEN, 16 * image_bytes))

    def write() -> None:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    return _seconds(write) * image_bytes / len(content)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
