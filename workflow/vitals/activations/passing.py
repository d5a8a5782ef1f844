"""Images on their way through a model, batch by batch, whatever is kept of them.

Reading and preparing images runs beside the pass. What is in memory is a few batches, whatever the
number of images.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import nn

from vitals.activations import capture, layout
from vitals.activations.batches import Batch, Fitting, batches, fitting_size
from vitals.activations.pipeline import ahead
from vitals.activations.variants import PLAIN, Variant
from vitals.data import decoded, pixels
from vitals.data.images import ImageList
from vitals.errors import VitalsError
from vitals.models.anatomy import Anatomy
from vitals.models.build import Transform
from vitals.models.interventions import Attending
from vitals.progress import announce, progress

Kept = TypeVar("Kept", bound=capture.Pass)


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
    """What the work runs on: beyond float32 rounding, none of it changes what is found.

    batch: images of a pass, None for what memory allows; workers: threads that prepare images;
    decoded: a folder where prepared images are kept for the models that prepare them alike.
    """

    device: torch.device
    batch: int | None = None
    workers: int = 1
    decoded: Path | None = None


class Passing(Generic[Kept]):
    """Some images through a model, of which each batch is kept by a `Pass` of its own.

    precision: "float32", or "bfloat16" for autocast; skip_unreadable: whether an image that cannot
    be read is left out; variant: what is another than in a plain pass.
    """

    def __init__(
        self,
        subject: Subject,
        body: Anatomy,
        images: ImageList,
        machine: Machine,
        *,
        precision: str,
        skip_unreadable: bool,
        variant: Variant = PLAIN,
    ) -> None:
        self.variant = variant
        self.subject, self.body, self.images, self.machine = subject, body, images, machine
        self.reduced, self.skip = precision == "bfloat16", skip_unreadable
        self.roles = layout.roles(body).to(machine.device)
        self.stored = np.zeros(len(images.table), dtype=bool)  # the images that have passed
        self.checked = False

    @torch.inference_mode()
    def run(
        self,
        what: str,
        keep: Callable[[Batch], Kept],
        taps: capture.Taps,
        shown: Callable[[Batch], np.ndarray] = lambda batch: np.empty(0, dtype=int),
    ) -> Iterator[Kept]:
        """What each batch has left, in order; the first batch proves that the view is right.

        keep: makes what keeps a batch; shown: places in a batch of the images whose attention is
        kept head by head.
        Raises VitalsError, with the model's name, for one whose taps cannot be trusted, for an
        image that cannot be read, and where none could.
        """
        count, name, device = len(self.images.table), self.subject.name, self.machine.device
        layers = len(self.body.layers(taps.sub_blocks))
        size = self.machine.batch or fitting_size(self.body, layers, device)
        announce(f"{what} {name}: {count} images, {layers} taps, in batches of {size}, on {device}")
        fitting = Fitting(size)
        read = ahead(batches(self._prepared(), size, device))
        for batch in progress(read, f"{what} {name}", total=-(-count // size)):
            for part, kept in fitting(
                lambda part: self._pass(part, keep(part), taps, shown), batch
            ):
                self.stored[part.places] = True
                yield kept
        if not self.stored.any():
            raise VitalsError("no image of the shard could be read")

    def labels(self) -> np.ndarray:
        """Of each image, the classifier's row of its class; the dataset's label without one."""
        labels, rows = self.images.labels(), self.subject.class_rows
        return labels if rows is None else rows[labels]

    def _prepared(self) -> Iterator[np.ndarray | None]:
        """The images as the model takes them, before normalisation, in order."""
        transform, machine = self.subject.transform, self.machine
        stream = pixels.prepared(self.images, transform.prepare, machine.workers, self.skip)
        if machine.decoded is not None:
            stream = decoded.kept(machine.decoded, transform.key, self.images, stream, self.skip)
        return stream if self.variant.arrange is None else iter(self.variant.arrange(stream))

    def _pass(
        self,
        batch: Batch,
        kept: Kept,
        taps: capture.Taps,
        shown: Callable[[Batch], np.ndarray],
    ) -> Kept:
        """What is kept of a batch; where the model is refused, by its name."""
        whole = torch.from_numpy(shown(batch)).to(self.machine.device)
        try:
            if self.checked:
                self._see(batch, whole, taps, kept)
                return kept
            # before anything is kept, a pass that keeps everything shows that the view is right
            seen = self._see(batch, whole, taps, capture.Pass())
        except VitalsError as error:
            raise VitalsError(f"{self.subject.name}: {error}") from error
        capture.check_replay(self.body, seen, self.subject.name)
        self.checked = True
        kept.replay(seen)
        return kept

    def _see(
        self, batch: Batch, whole: torch.Tensor, taps: capture.Taps, seen: capture.Pass
    ) -> capture.Pass:
        device = self.machine.device
        images = self.subject.transform(batch.pixels.to(device, non_blocking=True))
        attend = self.variant.attend
        with (
            torch.autocast(device.type, torch.bfloat16, enabled=self.reduced),
            nullcontext() if attend is None else Attending(attend),
        ):
            return capture.forward(
                self.subject.network, self.body, self.roles, images, whole, taps, seen
            )
