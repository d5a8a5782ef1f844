"""A pass whose taps are handed on as they come, and of which nothing else is kept."""

from typing import Protocol

import torch
from torch import Tensor

from vitals.activations.capture import Pass, Taps
from vitals.activations.folding import Folded
from vitals.activations.host import stacked
from vitals.errors import VitalsError


class Receiver(Protocol):
    """What reduces the taps of the images of one batch."""

    def update_state(self, tap: str, state: Tensor) -> None:
        """The state at the next tap: (image, token, channel)."""

    def update_attention(self, block: str, maps: Tensor) -> None:
        """The head-mean attention of the next block: (image, query, key)."""


class Streamed(Pass):
    """A pass of a batch that a receiver reduces tap by tap, in float32 at least."""

    def __init__(self, receiver: Receiver, taps: Taps) -> None:
        super().__init__(taps=taps)
        self.receiver = receiver
        self.layers: list[str] = []
        self.extremes: list[Tensor] = []
        self.blocks = 0

    def keep_state(self, layer: str, state: Tensor) -> None:
        """The state at a tap: (image, token, channel)."""
        self.layers.append(layer)
        self.extremes.append(torch.stack(state.aminmax()))
        with torch.autocast(state.device.type, enabled=False):
            self.receiver.update_state(layer, state)

    def keep_attention(self, folded: Folded) -> None:
        """The attention of the next block."""
        with torch.autocast(folded.mean.device.type, enabled=False):
            self.receiver.update_attention(str(self.blocks), folded.mean)
        self.blocks += 1

    def check_finite(self) -> None:
        """Raise VitalsError, naming the tap, where the model gave what is no number."""
        finite = stacked(self.extremes).isfinite().all(dim=1)
        if not finite.all():
            layer = self.layers[int((~finite).nonzero()[0])]
            raise VitalsError(f"the model gives NaN or infinity at {layer}")
