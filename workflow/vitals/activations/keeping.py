"""One batch of a pass, reduced to what is stored as each tap gives it.

A state is cast, pooled and let go before the next block runs: the model then works in memory that
is warm, as it does when nobody looks.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from vitals.activations import layout
from vitals.activations.attention import TokenRoles
from vitals.activations.batches import Batch
from vitals.activations.capture import Pass, Taps
from vitals.activations.folding import Folded
from vitals.activations.host import Arrival, Buffers, Cast, stacked, to_host
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
from vitals.activations.reader import GALLERY, TOKENS
from vitals.models.anatomy import CLS, Anatomy

LEVELS = 255  # of a byte: prepared pictures are 0 ... 255, arrays 0 ... 1


@dataclass
class Keeping:
    """What is kept of every batch of a shard, and what is summed over them.

    members: by tier, which images of the shard are in it; attention_sum: by block, over the images
    that have passed, (head, query, key).
    """

    body: Anatomy
    settings: Settings
    members: dict[str, np.ndarray]
    roles: TokenRoles
    device: torch.device
    attention_sum: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.buffers = Buffers(self.device)
        self.layers = self.body.layers(self.settings.sub_blocks)
        self.blocks = [f"block.{number}" for number in range(len(self.body.blocks))]
        self.features = layout.features(self.body)

    def places(self, batch: Batch, tier: str) -> np.ndarray:
        """Places in a batch of its images that are in a tier."""
        return np.flatnonzero(self.members[tier][batch.places])

    def add_attention(self, sums: list[Tensor]) -> None:
        """Add a batch's sums over images to the shard's, once the whole batch has passed."""
        if not self.attention_sum:
            self.attention_sum = [torch.zeros_like(total) for total in sums]
        for total, more in zip(self.attention_sum, sums, strict=True):
            total += more
            self.buffers.give(more)


class Kept(Pass):
    """A pass of a batch of which only what is stored remains."""

    def __init__(self, keeping: Keeping, batch: Batch, taps: Taps) -> None:
        super().__init__(taps=taps, buffers=keeping.buffers)
        self.keeping, self.batch = keeping, batch
        self.shown = keeping.places(batch, GALLERY)
        self.tokens = keeping.places(batch, TOKENS)
        self.chosen: Tensor | None = None  # the images with tokens, where these are not all
        if len(self.tokens) < len(batch):
            self.chosen = torch.from_numpy(self.tokens).to(keeping.device)
        self.rounded: dict[str, Cast] = {}
        self.pooled: list[Tensor] = []
        self.exact: dict[str, Tensor] = {}

    def keep_state(self, layer: str, state: Tensor) -> None:
        """The state at a tap: (image, token, channel)."""
        self.pooled.append(self._pooled(state))
        self._put(TOKEN_STATES, self.keeping.layers, self._of_tier(state))

    def keep_attention(self, folded: Folded) -> None:
        """The attention of the next block."""
        blocks = self.keeping.blocks
        self._put(TOKEN_ATTENTION, blocks, self._of_tier(folded.mean))
        self._put(GALLERY_ATTENTION, blocks, folded.heads)
        self.keeping.buffers.give(folded.mean)
        self.attention_sum.append(folded.total)
        for name, summary in folded.summaries.items():
            self.summaries.setdefault(name, []).append(summary)

    def send(self) -> Arrival:
        """Begin the copies to the host; when they have arrived."""
        self.keeping.add_attention(self.attention_sum)
        for cast in self.rounded.values():
            cast.send()
        self.exact[FEATURES] = stacked(self.pooled)
        if self.head_input is not None:
            self.exact[HEAD_INPUT] = to_host(self.head_input.float())
        if self.keeping.body.classes is not None:
            self.exact[LOGITS] = to_host(self.logits.float())
        for name, summary in self.summaries.items():
            self.exact[layout.summary(name)] = stacked(summary)
        if GALLERY_ATTENTION in self.rounded:
            shown = self.batch.pixels[torch.from_numpy(self.shown)]
            self.exact[GALLERY_IMAGES] = _in_unit_range(shown)
        return Arrival(self.keeping.device)

    def _of_tier(self, values: Tensor) -> Tensor:
        """The values of the images whose tokens are kept."""
        return values if self.chosen is None else values[self.chosen]

    def _put(self, name: str, layers: tuple[str, ...] | list[str], values: Tensor) -> None:
        if not len(values):
            return
        if name not in self.rounded:
            storage, buffers = self.keeping.settings.storage, self.keeping.buffers
            self.rounded[name] = Cast(layers, values.shape, storage, buffers)
        self.rounded[name].put(values)

    def _pooled(self, state: Tensor) -> Tensor:
        """The features of each image at one tap: (image, feature, channel), float32."""
        patches = state[:, self.keeping.body.prefix_tokens :]  # behind the prefix, all are patches
        found = {PATCH_MEAN: patches.mean(dim=1, dtype=torch.float32)}
        if self.keeping.roles.cls is not None:
            found[CLS] = state[:, self.keeping.roles.cls].float()
        return torch.stack([found[feature] for feature in self.keeping.features], dim=1)


def _in_unit_range(pixels: Tensor) -> Tensor:
    return pixels.float() / LEVELS if pixels.dtype == torch.uint8 else pixels
