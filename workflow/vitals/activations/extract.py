"""Running a shard of images through a model and keeping what the taps saw.

The pass, and encoding and writing, run beside each other.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitals.activations import capture, layout, store
from vitals.activations.batches import Batch
from vitals.activations.host import Arrival
from vitals.activations.keeping import Keeping, Kept
from vitals.activations.layout import LOGITS, Settings
from vitals.activations.passing import Machine, Passing, Subject
from vitals.activations.pipeline import behind
from vitals.activations.reader import ATTENTION_MEAN, GALLERY, MODEL, NOT_PASSED, POOLED
from vitals.activations.variants import Variant, variant_of
from vitals.data.images import FIT, TEST, ImageList
from vitals.errors import VitalsError
from vitals.models.anatomy import Anatomy, anatomy

PARAMETER_DIMS = {
    "position_embedding": ("token", "channel"),
    "head_weight": ("class", "channel"),
    "head_bias": ("class",),
    "norm_scale": ("channel",),
    "norm_shift": ("channel",),
}


@dataclass
class Extracted:
    """What a shard came to: images stored and left out, how many were right; why none."""

    images: int
    left_out: list[str] = field(default_factory=list)
    correct: dict[str, tuple[int, int]] = field(default_factory=dict)  # by split: right, of
    absent: str = ""


def extract(
    subject: Subject,
    images: ImageList,
    shard: int,
    settings: Settings,
    path: Path,
    provenance: dict[str, Any],
    machine: Machine,
    variant: str | None = None,
) -> Extracted:
    """Write the shard's store at `path`, whole or not at all.

    variant: a name of `variants.VARIANTS`, None for the plain pass. Of one that a model has not,
    the store holds the reason, "not_passed", and nothing else.
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
    changed = variant_of(variant, body, part.table["split"].to_numpy())
    if changed.absent:
        with store.new_shard(path, provenance) as writer:
            writer.note(NOT_PASSED, changed.absent)
        return Extracted(0, absent=changed.absent)
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
        return _Shard(writer, subject, body, part, part_members, settings, machine, changed).run()


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
        variant: Variant,
    ) -> None:
        self.writer, self.subject, self.body, self.images = writer, subject, body, images
        self.members, self.settings = members, settings
        self.taps = capture.Taps(settings.sub_blocks, settings.attention)
        self.passing: Passing[Kept] = Passing(
            subject, body, images, machine,
            precision=settings.precision, skip_unreadable=settings.skip_unreadable,
            variant=variant,
        )  # fmt: skip
        self.keeping = Keeping(body, settings, members, self.passing.roles, machine.device)
        self.labels = self.passing.labels()
        self.predicted = np.full(len(images.table), -1)

    @torch.inference_mode()
    def run(self) -> Extracted:
        """Pass the images batch by batch, and describe what was written."""
        passed = self.passing.run("extract", self._kept, self.taps, self._shown)
        with behind() as later:
            for kept in passed:
                later(self._store, kept, kept.send())
        return self._described()

    def _kept(self, batch: Batch) -> Kept:
        return Kept(self.keeping, batch, self.taps)

    def _shown(self, batch: Batch) -> np.ndarray:
        return self.keeping.places(batch, GALLERY)

    def _store(self, kept: Kept, arrival: Arrival) -> None:
        arrival.wait()
        for name, cast in kept.rounded.items():
            self.writer.append(name, cast.array())
            cast.release()
        for name, values in kept.exact.items():
            self.writer.append(name, values.numpy())
        if LOGITS in kept.exact:
            self.predicted[kept.batch.places] = kept.exact[LOGITS].argmax(dim=1).numpy()

    def _described(self) -> Extracted:
        """Put the coordinates, the mean attention, the parameters and the reasons of absences."""
        table, stored = self.images.table, self.passing.stored
        for tier, members in self.members.items():
            kept = members & stored
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
        left_out = table["image_id"][~stored].tolist()
        self.writer.note("left_out", left_out)
        return Extracted(int(stored.sum()), left_out, self._correct())

    def _put_taps(self, tier: str) -> None:
        put = self.writer.put_coordinate
        put(f"{tier}/layer", ("layer",), np.array(self.keeping.layers))
        put(f"{tier}/depth", ("layer",), np.array(self.body.depths(self.settings.sub_blocks)))
        put(f"{tier}/token_kind", ("token",), np.array(self.body.kinds))
        for name, values in zip(("row", "column"), layout.places(self.body), strict=True):
            put(f"{tier}/{name}", ("token",), values)

    def _put_model(self) -> None:
        writer, images = self.writer, int(self.passing.stored.sum())
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
        kept = {name: (split == name) & self.passing.stored for name in (FIT, TEST)}
        return {
            name: (int(right[rows].sum()), int(rows.sum()))
            for name, rows in kept.items()
            if rows.any()
        }
