"""Running a shard of images through a model and keeping what the taps saw.

Reading and preparing images, the pass, and encoding and writing run beside each other. What is in
memory is a few batches, whatever the number of images.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vitals.activations import capture, layout, store
from vitals.activations.batches import Batch, Fitting, batches, fitting_size
from vitals.activations.host import Arrival
from vitals.activations.keeping import Keeping, Kept
from vitals.activations.layout import LOGITS, Settings
from vitals.activations.pipeline import ahead, behind
from vitals.activations.reader import ATTENTION_MEAN, GALLERY, MODEL, POOLED
from vitals.data import decoded, pixels
from vitals.data.images import FIT, TEST, ImageList
from vitals.errors import VitalsError
from vitals.models.anatomy import Anatomy, anatomy
from vitals.models.build import Transform
from vitals.progress import announce, progress

PARAMETER_DIMS = {
    "position_embedding": ("token", "channel"),
    "head_weight": ("class", "channel"),
    "head_bias": ("class",),
    "norm_scale": ("channel",),
    "norm_shift": ("channel",),
}


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
    body = anatomy(subject.network.to(machine.device).eval())
    members = layout.tiers(images.table["split"].to_numpy(), settings, body)
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
        self.taps = capture.Taps(settings.sub_blocks, settings.attention)
        roles = layout.roles(body).to(machine.device)
        self.keeping = Keeping(body, settings, members, roles, machine.device)
        self.labels = self._labels()
        self.stored = np.zeros(len(images.table), dtype=bool)
        self.predicted = np.full(len(images.table), -1)
        self.checked = False

    @torch.inference_mode()
    def run(self) -> Extracted:
        """Pass the images batch by batch, and describe what was written."""
        count, name, device = len(self.images.table), self.subject.name, self.machine.device
        taps = len(self.keeping.layers)
        size = self.machine.batch or fitting_size(self.body, taps, device)
        announce(f"extract {name}: {count} images, {taps} taps, in batches of {size}, on {device}")
        fitting = Fitting(size)
        read = ahead(batches(self._prepared(), size, device))
        with behind() as later:
            for batch in progress(read, f"extract {name}", total=-(-count // size)):
                for _, kept in fitting(self._pass, batch):
                    later(self._store, kept, kept.send())
        if not self.stored.any():
            raise VitalsError("no image of the shard could be read")
        return self._described()

    def _prepared(self) -> Iterator[np.ndarray | None]:
        """The images as the model takes them, before normalisation, in order."""
        transform, machine, skip = (
            self.subject.transform,
            self.machine,
            self.settings.skip_unreadable,
        )
        stream = pixels.prepared(self.images, transform.prepare, machine.workers, skip)
        if machine.decoded is None:
            return stream
        return decoded.kept(machine.decoded, transform.key, self.images, stream, skip)

    def _pass(self, batch: Batch) -> Kept:
        """What is stored of a batch; where the model is refused, by its name."""
        kept = Kept(self.keeping, batch, self.taps)
        try:
            if self.checked:
                self._see(batch, kept)
                return kept
            # before anything is stored, a pass that keeps everything shows that the view is right
            seen = self._see(batch, capture.Pass())
        except VitalsError as error:
            raise VitalsError(f"{self.subject.name}: {error}") from error
        capture.check_replay(self.body, seen, self.subject.name)
        self.checked = True
        kept.replay(seen)
        return kept

    def _see(self, batch: Batch, seen: capture.Pass) -> capture.Pass:
        device = self.machine.device
        images = self.subject.transform(batch.pixels.to(device, non_blocking=True))
        shown = torch.from_numpy(self.keeping.places(batch, GALLERY)).to(device)
        reduced = self.settings.precision == "bfloat16"
        with torch.autocast(device.type, torch.bfloat16, enabled=reduced):
            return capture.forward(
                self.subject.network, self.body, self.keeping.roles, images, shown, self.taps, seen
            )

    def _store(self, kept: Kept, arrival: Arrival) -> None:
        arrival.wait()
        for name, cast in kept.rounded.items():
            self.writer.append(name, cast.array())
            cast.release()
        for name, values in kept.exact.items():
            self.writer.append(name, values.numpy())
        places = kept.batch.places
        self.stored[places] = True
        if LOGITS in kept.exact:
            self.predicted[places] = kept.exact[LOGITS].argmax(dim=1).numpy()

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
            for name in ("image_id", "split", "class_name"):
                put(f"{tier}/{name}", ("image",), table[name].to_numpy()[kept].astype(str))
            for variable, reason in self._absences(tier):
                self.writer.absent(tier, variable, reason)
        self._put_model()
        left_out = table["image_id"][~self.stored].tolist()
        self.writer.note("left_out", left_out)
        return Extracted(int(self.stored.sum()), left_out, self._correct())

    def _put_taps(self, tier: str) -> None:
        put = self.writer.put_coordinate
        put(f"{tier}/layer", ("layer",), np.array(self.keeping.layers))
        put(f"{tier}/depth", ("layer",), np.array(self.body.depths(self.settings.sub_blocks)))
        put(f"{tier}/token_kind", ("token",), np.array(self.body.kinds))
        for name, values in zip(("row", "column"), layout.places(self.body), strict=True):
            put(f"{tier}/{name}", ("token",), values)

    def _put_model(self) -> None:
        writer, images = self.writer, int(self.stored.sum())
        writer.put_coordinate(f"{POOLED}/feature", ("feature",), np.array(self.keeping.features))
        if self.body.classes is not None:
            names = self.subject.class_names or tuple(map(str, range(self.body.classes)))
            writer.put_coordinate(f"{POOLED}/class", ("class",), np.array(names))
        if self.keeping.attention_sum:
            mean = torch.stack(self.keeping.attention_sum).cpu() / images
            dims = ("block", "head", "query", "key")
            writer.put(f"{POOLED}/{ATTENTION_MEAN}", dims, mean.float().numpy())
        for name, value in self.body.parameters.items():
            writer.put(f"{MODEL}/{name}", PARAMETER_DIMS[name], value.float().cpu().numpy())

    def _absences(self, tier: str) -> list[tuple[str, str]]:
        """The variables that a tier has not, and why."""
        found = []
        if not layout.sees_attention(self.body, self.settings):
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
