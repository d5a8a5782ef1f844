"""Running a shard of images through a model and keeping what the taps saw."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vitals.activations import capture, store
from vitals.activations.attention import TokenRoles
from vitals.activations.reader import ATTENTION_MEAN, GALLERY, MODEL, POOLED, TOKENS
from vitals.data.images import FIT, TEST, ImageList
from vitals.errors import VitalsError
from vitals.models.anatomy import Anatomy, anatomy
from vitals.models.build import Transform
from vitals.progress import announce, progress

CLS, PATCH_MEAN = "cls", "patch_mean"
TOKEN_STATES, TOKEN_ATTENTION = f"{TOKENS}/tokens", f"{TOKENS}/attention"
GALLERY_ATTENTION = f"{GALLERY}/attention_heads"
STORED_AS_SET = (TOKEN_STATES, TOKEN_ATTENTION, GALLERY_ATTENTION)
PARAMETER_DIMS = {
    "position_embedding": ("token", "channel"),
    "head_weight": ("class", "channel"),
    "head_bias": ("class",),
    "norm_scale": ("channel",),
    "norm_shift": ("channel",),
}


@dataclass(frozen=True)
class Settings:
    """What is kept: of every image the pooled tier, of the first `token_images` of each split the
    tokens, of the first `gallery_images` of the test split attention head by head.

    storage: "float16" or "float32", of tokens and attention; the rest is always float32.
    batch: images a forward pass.
    """

    shard_images: int
    token_images: int | None
    gallery_images: int
    storage: str
    batch: int


def extract(
    model: nn.Module,
    transform: Transform,
    images: ImageList,
    shard: int,
    settings: Settings,
    path: Path,
    provenance: dict[str, Any],
    device: torch.device,
) -> int:
    """Write the shard's store at `path`, whole or not at all; the number of its images.

    Raises VitalsError for a shard beyond the last image, for a model whose taps cannot be trusted,
    and for a value that the storage type cannot hold.
    """
    in_tokens, in_gallery = _tiers(images.table["split"].to_numpy(), settings)
    start = shard * settings.shard_images
    part = images.rows(start, start + settings.shard_images)
    rows = slice(start, start + len(part.table))
    if part.table.empty:
        raise VitalsError(
            f"shard {shard} has no images: the list has {len(images.table)}, a shard "
            f"{settings.shard_images}"
        )
    model = model.to(device)
    body = anatomy(model)
    with store.new_shard(path, provenance) as writer:
        sink = _Sink(writer, body, part, in_tokens[rows], in_gallery[rows], settings)
        sink.run(model, transform, provenance["model"], device)
    return len(part.table)


def _tiers(split: np.ndarray, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Which images of the whole list are in the token tier, and which in the gallery."""
    rank = np.empty(split.size, dtype=int)  # place of an image within its split
    for name in (FIT, TEST):
        rank[split == name] = np.arange((split == name).sum())
    limit = split.size if settings.token_images is None else settings.token_images
    return rank < limit, (split == TEST) & (rank < settings.gallery_images)


class _Sink:
    """The arrays of one shard and how a pass fills them."""

    def __init__(
        self,
        writer: store.ShardWriter,
        body: Anatomy,
        images: ImageList,
        in_tokens: np.ndarray,
        in_gallery: np.ndarray,
        settings: Settings,
    ) -> None:
        self.writer, self.body, self.images, self.settings = writer, body, images, settings
        everything = np.ones_like(in_tokens)
        self.members = {TOKENS: in_tokens, POOLED: everything, GALLERY: in_gallery}
        rows, columns = body.grid
        prefix = [-1] * body.prefix_tokens
        self.row = np.array([*prefix, *np.repeat(np.arange(rows), columns)])
        self.column = np.array([*prefix, *np.tile(np.arange(columns), rows)])
        self.roles = TokenRoles.of(body.kinds, self.row, self.column)
        self.features = [CLS] * (CLS in body.kinds) + [PATCH_MEAN]

    def run(self, model: nn.Module, transform: Transform, name: str, device: torch.device) -> None:
        """Pass the images batch by batch, and describe what was written."""
        roles = self.roles.to(device)
        pixels = torch.from_numpy(self.images.pixels())
        announce(f"extract {name}: {len(pixels)} images, {len(self.body.layers)} taps, on {device}")
        total = torch.zeros((), dtype=torch.float64)
        for start in progress(range(0, len(pixels), self.settings.batch), f"extract {name}"):
            batch = slice(start, min(start + self.settings.batch, len(pixels)))
            shown = torch.from_numpy(self.members[GALLERY][batch])
            images = transform(pixels[batch].to(device))
            seen = capture.forward(
                model, self.body, roles, images, shown.nonzero()[:, 0].to(device)
            )
            if start == 0:
                capture.check_replay(self.body, seen, name)
                self._declare(seen, tuple(pixels.shape[1:]))
            self._keep(seen, torch.from_numpy(self.members[TOKENS][batch]).to(device))
            self._keep_gallery(seen, pixels[batch][shown])
            total = total + torch.stack(seen.attention_sum).cpu()
        self._describe((total / len(pixels)).float())

    def _declare(self, seen: capture.Pass, shape: tuple[int, ...]) -> None:
        """Create the arrays that the batches fill, from the names of their dims."""
        sizes = {
            "layer": len(self.body.layers),
            "block": len(self.body.blocks),
            "token": len(self.body.kinds),
            "query": len(self.body.kinds),
            "key": len(self.body.kinds),
            "head": self.body.heads,
            "feature": len(self.features),
            "channel": seen.states["embed"].shape[-1],
            "class": seen.logits.shape[-1],
            **dict(zip(("color", "height", "width"), shape, strict=True)),
        }
        for name, dims in self._arrays(seen):
            count = int(self.members[name.split("/")[0]].sum())
            if count:
                lengths = [count if dim == "image" else sizes[dim] for dim in dims]
                dtype = self.settings.storage if name in STORED_AS_SET else "float32"
                self.writer.declare(name, dims, lengths, dtype)

    def _arrays(self, seen: capture.Pass) -> list[tuple[str, tuple[str, ...]]]:
        return [
            (TOKEN_STATES, ("layer", "image", "token", "channel")),
            (TOKEN_ATTENTION, ("block", "image", "query", "key")),
            (f"{POOLED}/pooled", ("layer", "image", "feature", "channel")),
            (f"{POOLED}/logits", ("image", "class")),
            *(
                (f"{POOLED}/attention_{name}", ("block", "image", "head"))
                for name in seen.summaries
            ),
            (f"{GALLERY}/images", ("image", "color", "height", "width")),
            (GALLERY_ATTENTION, ("block", "image", "head", "query", "key")),
        ]

    def _keep(self, seen: capture.Pass, tier: torch.Tensor) -> None:
        """Append one batch to the token tier (the images of `tier`) and to the pooled tier."""
        append = self.writer.append
        if tier.any():
            states = {layer: state[tier] for layer, state in seen.states.items()}
            append(TOKEN_STATES, self._stored(states))
            maps = {f"block.{i}": a[tier] for i, a in enumerate(seen.attention)}
            append(TOKEN_ATTENTION, self._stored(maps))
        pooled = torch.stack([self._pooled(state) for state in seen.states.values()])
        append(f"{POOLED}/pooled", pooled.float().cpu().numpy())
        append(f"{POOLED}/logits", seen.logits.float().cpu().numpy())
        for name, summary in seen.summaries.items():
            append(f"{POOLED}/attention_{name}", torch.stack(summary).float().cpu().numpy())

    def _keep_gallery(self, seen: capture.Pass, pixels: torch.Tensor) -> None:
        """Append the images of a batch that are in the gallery, with their attention by head."""
        if len(pixels):
            heads = {f"block.{i}": a for i, a in enumerate(seen.attention_heads)}
            self.writer.append(f"{GALLERY}/images", pixels.numpy())
            self.writer.append(GALLERY_ATTENTION, self._stored(heads))

    def _pooled(self, state: torch.Tensor) -> torch.Tensor:
        """The features of each image at one tap: (image, feature, channel)."""
        found = {PATCH_MEAN: state[:, self.roles.patches.to(state.device)].mean(dim=1)}
        if self.roles.cls is not None:
            found[CLS] = state[:, self.roles.cls]
        return torch.stack([found[feature] for feature in self.features], dim=1)

    def _stored(self, values: dict[str, torch.Tensor]) -> np.ndarray:
        """One array of the storage type from a tensor a layer; VitalsError where one overflows."""
        dtype = getattr(torch, self.settings.storage)
        cast = torch.stack([value.to(dtype) for value in values.values()])
        finite = cast.isfinite().flatten(1).all(dim=1)
        if not finite.all():
            layer = list(values)[int((~finite).nonzero()[0])]
            if not values[layer].isfinite().all():
                raise VitalsError(f"the model gives NaN or infinity at {layer}")
            raise VitalsError(
                f"a value at {layer} does not fit {self.settings.storage}: "
                "set activations.storage to float32"
            )
        return cast.cpu().numpy()

    def _describe(self, attention_mean: torch.Tensor) -> None:
        """Put the coordinates of each tier, the mean attention and the parameters."""
        table = self.images.table
        for group, members in self.members.items():
            if not members.any():
                continue
            self._put_taps(group)
            for name in ("image_id", "label", "split"):
                values = table[name].to_numpy()[members]
                values = values if values.dtype.kind == "i" else values.astype(str)
                self.writer.put_coordinate(f"{group}/{name}", ("image",), values)
        self.writer.put_coordinate(f"{POOLED}/feature", ("feature",), np.array(self.features))
        classes = np.array(self.images.source.classes)
        self.writer.put_coordinate(f"{POOLED}/class", ("class",), classes)
        maps = ("block", "head", "query", "key")
        self.writer.put(f"{POOLED}/{ATTENTION_MEAN}", maps, attention_mean.numpy())
        for name, value in self.body.parameters.items():
            self.writer.put(f"{MODEL}/{name}", PARAMETER_DIMS[name], value.float().cpu().numpy())

    def _put_taps(self, group: str) -> None:
        put = self.writer.put_coordinate
        layers = np.array(self.body.layers)
        put(f"{group}/layer", ("layer",), layers)
        put(f"{group}/depth", ("layer",), np.arange(len(layers)))
        put(f"{group}/token_kind", ("token",), np.array(self.body.kinds))
        put(f"{group}/row", ("token",), self.row)
        put(f"{group}/column", ("token",), self.column)
