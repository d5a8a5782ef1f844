"""Running a shard of images through a model and keeping what the taps saw.

Reading and preparing images, the pass, and encoding and writing run beside each other. What is in
memory is a few batches, whatever the number of images.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitals.activations import capture, layout, store
from vitals.activations.batches import Batch, Fitting, batches, fitting_size
from vitals.activations.host import Arrival, Cast, stacked, to_host
from vitals.activations.layout import (
    FEATURES,
    GALLERY_ATTENTION,
    GALLERY_IMAGES,
    HEAD_INPUT,
    LOGITS,
    PATCH_MEAN,
    TOKEN_ATTENTION,
    TOKEN_STATES,
    Settings,
)
from vitals.activations.pipeline import ahead, behind
from vitals.activations.reader import ATTENTION_MEAN, GALLERY, MODEL, POOLED, TOKENS
from vitals.data import decoded, pixels
from vitals.data.images import FIT, TEST, ImageList
from vitals.errors import VitalsError
from vitals.models.anatomy import CLS, Anatomy, anatomy
from vitals.models.build import Transform
from vitals.progress import announce, progress

PARAMETER_DIMS = {
    "position_embedding": ("token", "channel"),
    "head_weight": ("class", "channel"),
    "head_bias": ("class",),
    "norm_scale": ("channel",),
    "norm_shift": ("channel",),
}
LEVELS = 255  # of a byte: prepared pictures are 0 ... 255, arrays 0 ... 1


@dataclass(frozen=True)
class Subject:
    """The model that is looked at.

    class_names: of each row of its classifier; class_rows: the row of each class of the dataset,
    None where there is no classifier: then labels are the dataset's own.
    """

    name: str
    network: nn.Module
    transform: Transform
    class_names: tuple[str, ...] | None = None
    class_rows: np.ndarray | None = None


@dataclass(frozen=True)
class Machine:
    """What the work runs on: beyond float32 rounding, none of it changes what is stored.

    batch: images of a pass, None for what memory allows; workers: threads that prepare images;
    decoded: a folder where prepared images are kept for the models that prepare them alike.
    """

    device: torch.device
    batch: int | None = None
    workers: int = 1
    decoded: Path | None = None


@dataclass
class Extracted:
    """What a shard came to: images stored, those left out, and how many the model got right."""

    images: int
    left_out: list[str] = field(default_factory=list)
    correct: dict[str, tuple[int, int]] = field(default_factory=dict)  # by split: right, of


def extract(
    subject: Subject,
    images: ImageList,
    shard: int,
    settings: Settings,
    path: Path,
    provenance: dict[str, Any],
    machine: Machine,
) -> Extracted:
    """Write the shard's store at `path`, whole or not at all.

    Raises VitalsError for a shard beyond the last image, for a model whose taps cannot be trusted,
    for an image that cannot be read, for a value that the storage type cannot hold, and for a disk
    that cannot hold the shard.
    """
    start, stop = shard * settings.shard_images, (shard + 1) * settings.shard_images
    part = images.rows(start, stop)
    if part.table.empty:
        raise VitalsError(
            f"shard {shard} has no images: the list has {len(images.table)}, a shard "
            f"{settings.shard_images}"
        )
    members = layout.tiers(images.table["split"].to_numpy(), settings)
    body = anatomy(subject.network.to(machine.device).eval())
    counts = {tier: int(rows[start:stop].sum()) for tier, rows in members.items()}
    arrays = layout.arrays(body, settings, counts, subject.transform.size)
    encoding = store.Encoding(settings.codec, settings.keep_bits)
    size = sum(array.bytes for array in arrays)
    with store.new_shard(path, provenance, encoding, expects_bytes=size) as writer:
        for array in arrays:
            writer.declare(
                array.name, array.dims, array.shape, array.dtype,
                at_most=settings.skip_unreadable, lossy=array.lossy,
            )  # fmt: skip
        part_members = {tier: rows[start:stop] for tier, rows in members.items()}
        return _Shard(writer, subject, body, part, part_members, settings, machine).run()


class _Shard:
    """One shard being filled."""

    def __init__(
        self,
        writer: store.ShardWriter,
        subject: Subject,
        body: Anatomy,
        images: ImageList,
        members: dict[str, np.ndarray],
        settings: Settings,
        machine: Machine,
    ) -> None:
        self.writer, self.subject, self.body, self.images = writer, subject, body, images
        self.members, self.settings, self.machine = members, settings, machine
        self.layers = body.layers(settings.sub_blocks)
        self.taps = capture.Taps(settings.sub_blocks, settings.attention)
        self.roles = layout.roles(body)
        self.on_device = self.roles.to(machine.device)
        self.features = layout.features(body)
        self.labels = self._labels()
        self.stored = np.zeros(len(images.table), dtype=bool)
        self.predicted = np.full(len(images.table), -1)
        self.attention_sum: list[Tensor] = []

    @torch.inference_mode()
    def run(self) -> Extracted:
        """Pass the images batch by batch, and describe what was written."""
        count, name, device = len(self.images.table), self.subject.name, self.machine.device
        size = self.machine.batch or fitting_size(self.body, len(self.layers), device)
        taps = len(self.layers)
        announce(f"extract {name}: {count} images, {taps} taps, in batches of {size}, on {device}")
        fitting = Fitting(size)
        read = ahead(batches(self._prepared(), size, device))
        checked = False
        with behind() as later:
            for batch in progress(read, f"extract {name}", total=-(-count // size)):
                for piece, seen in fitting(self._pass, batch):
                    if not checked:  # before anything is stored
                        capture.check_replay(self.body, seen, name)
                        checked = True
                    later(*self._kept(piece, seen))
        if not self.stored.any():
            raise VitalsError("no image of the shard could be read")
        return self._described()

    def _prepared(self) -> Iterator[np.ndarray | None]:
        """The images as the model takes them, before normalisation, in order."""
        transform, machine = self.subject.transform, self.machine
        stream = pixels.prepared(
            self.images, transform.prepare, machine.workers, self.settings.skip_unreadable
        )
        if machine.decoded is None:
            return stream
        return decoded.kept(
            machine.decoded, transform.key, self.images, stream, self.settings.skip_unreadable
        )

    def _pass(self, batch: Batch) -> capture.Pass:
        """What the taps saw of a batch; where the model is refused, by its name."""
        try:
            return self._seen(batch)
        except VitalsError as error:
            raise VitalsError(f"{self.subject.name}: {error}") from error

    def _seen(self, batch: Batch) -> capture.Pass:
        device = self.machine.device
        images = self.subject.transform(batch.pixels.to(device, non_blocking=True))
        shown = np.flatnonzero(self.members[GALLERY][batch.places])
        precise = self.settings.precision == "float32"
        with torch.autocast(device.type, torch.bfloat16, enabled=not precise):
            return capture.forward(
                self.subject.network, self.body, self.on_device, images,
                torch.from_numpy(shown).to(device), self.taps,
            )  # fmt: skip

    def _kept(self, batch: Batch, seen: capture.Pass) -> tuple[Callable[..., None], ...]:
        """What a pass leaves of a batch, on its way to the host, and the call that stores it."""
        tokens, shown = (self.members[tier][batch.places] for tier in (TOKENS, GALLERY))
        maps = {f"block.{i}": values for i, values in enumerate(seen.attention)}
        heads = {f"block.{i}": values for i, values in enumerate(seen.attention_heads)}
        exact = {FEATURES: stacked([self._pooled(state) for state in seen.states.values()])}
        if self.body.head is not None:
            exact[HEAD_INPUT] = to_host(seen.head_input.float())
        if self.body.classes is not None:
            exact[LOGITS] = to_host(seen.logits.float())
        for name, summary in seen.summaries.items():
            exact[layout.summary(name)] = stacked(summary)
        rounded = {}
        if tokens.any():
            rounded[TOKEN_STATES] = self._cast(seen.states, tokens)
            if maps:
                rounded[TOKEN_ATTENTION] = self._cast(maps, tokens)
        if heads and shown.any():
            rounded[GALLERY_ATTENTION] = Cast(heads, self.settings.storage)
            exact[GALLERY_IMAGES] = _in_unit_range(batch.pixels[torch.from_numpy(shown)])
        self._add_attention(seen.attention_sum)
        return self._store, batch, rounded, exact, Arrival(self.machine.device)

    def _store(
        self, batch: Batch, rounded: dict[str, Cast], exact: dict[str, Tensor], arrival: Arrival
    ) -> None:
        arrival.wait()
        for name, cast in rounded.items():
            self.writer.append(name, cast.array())
        for name, values in exact.items():
            self.writer.append(name, values.numpy())
        self.stored[batch.places] = True
        if LOGITS in exact:
            self.predicted[batch.places] = exact[LOGITS].argmax(dim=1).numpy()

    def _cast(self, values: dict[str, Tensor], rows: np.ndarray) -> Cast:
        """The values of some images of a batch, (image, ...) a layer, in the storage type."""
        if not rows.all():
            chosen = torch.from_numpy(np.flatnonzero(rows)).to(self.machine.device)
            values = {layer: value[chosen] for layer, value in values.items()}
        return Cast(values, self.settings.storage)

    def _pooled(self, state: Tensor) -> Tensor:
        """The features of each image at one tap: (image, feature, channel), float32."""
        patches = state[:, self.body.prefix_tokens :]  # behind the prefix, all are patches
        found = {PATCH_MEAN: patches.mean(dim=1, dtype=torch.float32)}
        if self.on_device.cls is not None:
            found[CLS] = state[:, self.on_device.cls].float()
        return torch.stack([found[feature] for feature in self.features], dim=1)

    def _add_attention(self, sums: list[Tensor]) -> None:
        """Add a batch's sums over images, (head, query, key) a block, to the shard's."""
        if not self.attention_sum:
            self.attention_sum = sums
            return
        for total, more in zip(self.attention_sum, sums, strict=True):
            total += more

    def _labels(self) -> np.ndarray:
        """Of each image, the classifier's row of its class; the dataset's label without one."""
        labels, rows = self.images.labels(), self.subject.class_rows
        return labels if rows is None else rows[labels]

    def _described(self) -> Extracted:
        """Put the coordinates, the mean attention, the parameters and the reasons of absences."""
        table = self.images.table
        for tier, members in self.members.items():
            kept = members & self.stored
            if not kept.any():
                continue
            self._put_taps(tier)
            put = self.writer.put_coordinate
            put(f"{tier}/label", ("image",), self.labels[kept])
            for name in ("image_id", "split"):
                put(f"{tier}/{name}", ("image",), table[name].to_numpy()[kept].astype(str))
            for variable, reason in self._absences(tier):
                self.writer.absent(tier, variable, reason)
        self._put_model()
        left_out = table["image_id"][~self.stored].tolist()
        self.writer.note("left_out", left_out)
        return Extracted(int(self.stored.sum()), left_out, self._correct())

    def _put_taps(self, tier: str) -> None:
        put = self.writer.put_coordinate
        put(f"{tier}/layer", ("layer",), np.array(self.layers))
        put(f"{tier}/depth", ("layer",), np.array(self.body.depths(self.settings.sub_blocks)))
        put(f"{tier}/token_kind", ("token",), np.array(self.body.kinds))
        for name, values in zip(("row", "column"), layout.places(self.body), strict=True):
            put(f"{tier}/{name}", ("token",), values)

    def _put_model(self) -> None:
        writer, images = self.writer, int(self.stored.sum())
        writer.put_coordinate(f"{POOLED}/feature", ("feature",), np.array(self.features))
        if self.body.classes is not None:
            names = self.subject.class_names or tuple(map(str, range(self.body.classes)))
            writer.put_coordinate(f"{POOLED}/class", ("class",), np.array(names))
        if self.attention_sum:
            mean = torch.stack(self.attention_sum).cpu() / images
            dims = ("block", "head", "query", "key")
            writer.put(f"{POOLED}/{ATTENTION_MEAN}", dims, mean.float().numpy())
        for name, value in self.body.parameters.items():
            writer.put(f"{MODEL}/{name}", PARAMETER_DIMS[name], value.float().cpu().numpy())

    def _absences(self, tier: str) -> list[tuple[str, str]]:
        """The variables that a tier has not, and why."""
        found = []
        if not self.attention_sum and tier != GALLERY:
            setting = "activations.attention is false"
            found.append(("attention", self.body.attention_absent or setting))
        if self.body.classes is None and tier == POOLED:
            found += [(name, "the model has no classifier") for name in ("logits", "head_weight")]
        elif "head_weight" not in self.body.parameters and tier == POOLED:
            found.append(("head_weight", "the classifier reads no single normed feature"))
        return found

    def _correct(self) -> dict[str, tuple[int, int]]:
        """How many images of each split the classifier got right, and of how many."""
        if self.body.classes is None:
            return {}
        right, split = self.predicted == self.labels, self.images.table["split"].to_numpy()
        kept = {name: (split == name) & self.stored for name in (FIT, TEST)}
        return {
            name: (int(right[rows].sum()), int(rows.sum()))
            for name, rows in kept.items()
            if rows.any()
        }


def _in_unit_range(pixels: Tensor) -> Tensor:
    return pixels.float() / LEVELS if pixels.dtype == torch.uint8 else pixels
