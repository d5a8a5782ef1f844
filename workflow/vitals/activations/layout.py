"""Which arrays a shard of a model holds, with their dims, shapes and types.

The pass fills them, the planner sums them up, and both read it here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch

from vitals.activations.attention import TokenRoles, head_summaries
from vitals.activations.reader import GALLERY, POOLED, TOKENS
from vitals.data.images import FIT, TEST
from vitals.models.anatomy import CLS, Anatomy

PATCH_MEAN = "patch_mean"
TOKEN_STATES, TOKEN_ATTENTION = f"{TOKENS}/tokens", f"{TOKENS}/attention"
FEATURES, LOGITS = f"{POOLED}/pooled", f"{POOLED}/logits"
HEAD_INPUT = f"{POOLED}/head_input"
GALLERY_IMAGES, GALLERY_ATTENTION = f"{GALLERY}/images", f"{GALLERY}/attention_heads"
EXACT = "float32"  # the type of all that is not tokens or attention


@dataclass(frozen=True)
class Settings:
    """What is kept: of every image the pooled tier, of the first `token_images` of each split the
    tokens, of the first `gallery_images` of the test split attention head by head.

    attention: whether attention is looked at; sub_blocks: whether the stream is also kept between
    attention and MLP; precision: "float32", or "bfloat16" for a pass under autocast; storage:
    "float16" or "float32", of tokens and attention (the rest is always float32); codec: "none",
    "lz4" or "zstd"; keep_bits: bits of the mantissa that tokens and attention keep, None for all;
    skip_unreadable: whether an image that cannot be read is left out.
    """

    shard_images: int
    token_images: int | None
    gallery_images: int
    attention: bool
    sub_blocks: bool
    precision: str
    storage: str
    codec: str
    keep_bits: int | None
    skip_unreadable: bool


@dataclass(frozen=True)
class ArraySpec:
    """One array that a pass appends to; `lossy` where its values may be rounded."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    lossy: bool = False

    @property
    def tier(self) -> str:
        """The group that the array is in."""
        return self.name.split("/")[0]

    @property
    def bytes(self) -> int:
        """Its size before any codec."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


def sees_attention(body: Anatomy, settings: Settings) -> bool:
    """Whether attention is kept: it was asked for, and the model has some that can be caught."""
    return settings.attention and body.attention_absent is None


def tiers(split: np.ndarray, settings: Settings, body: Anatomy) -> dict[str, np.ndarray]:
    """Which images of a whole list are in each tier of a model: by tier, (image,) of bool."""
    rank = np.empty(split.size, dtype=int)  # place of an image within its split
    for name in (FIT, TEST):
        rank[split == name] = np.arange((split == name).sum())
    limit = split.size if settings.token_images is None else settings.token_images
    shown = (split == TEST) & (rank < settings.gallery_images) & sees_attention(body, settings)
    return {TOKENS: rank < limit, POOLED: np.ones(split.size, dtype=bool), GALLERY: shown}


def roles(body: Anatomy) -> TokenRoles:
    """The roles of a model's tokens, with the places of its patches on the grid."""
    return TokenRoles.of(body.kinds, *places(body))


def places(body: Anatomy) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each token, −1 for a prefix token: (token,) each."""
    rows, columns = body.grid
    prefix = [-1] * body.prefix_tokens
    row = np.array([*prefix, *np.repeat(np.arange(rows), columns)])
    return row, np.array([*prefix, *np.tile(np.arange(columns), rows)])


def features(body: Anatomy) -> list[str]:
    """The pooled features of a model: its [CLS] token where it has one, and the mean patch."""
    return [CLS] * (CLS in body.kinds) + [PATCH_MEAN]


def arrays(
    body: Anatomy, settings: Settings, images: Mapping[str, int], shape: Sequence[int]
) -> list[ArraySpec]:
    """The arrays of a shard with so many images in each tier, of prepared images of a shape."""
    sizes = {
        "layer": len(body.layers(settings.sub_blocks)),
        "block": len(body.blocks),
        **dict.fromkeys(("token", "query", "key"), len(body.kinds)),
        "head": body.heads,
        "feature": len(features(body)),
        "channel": body.channels,
        "class": body.classes,
        **dict(zip(("color", "height", "width"), shape, strict=True)),
    }
    stored = {"dtype": settings.storage, "lossy": True}
    exact = {"dtype": EXACT}
    wanted = [
        (TOKEN_STATES, ("layer", "image", "token", "channel"), stored),
        (FEATURES, ("layer", "image", "feature", "channel"), exact),
    ]
    if body.head is not None:
        wanted.append((HEAD_INPUT, ("image", "channel"), exact))
    if body.classes is not None:
        wanted.append((LOGITS, ("image", "class"), exact))
    if sees_attention(body, settings):
        wanted += [
            (TOKEN_ATTENTION, ("block", "image", "query", "key"), stored),
            *((summary(n), ("block", "image", "head"), exact) for n in _summary_names(body)),
            (GALLERY_IMAGES, ("image", "color", "height", "width"), exact),
            (GALLERY_ATTENTION, ("block", "image", "head", "query", "key"), stored),
        ]
    return [
        ArraySpec(name, dims, tuple({**sizes, "image": count}[dim] for dim in dims), **how)
        for name, dims, how in wanted
        if (count := images[name.split("/")[0]])
    ]


def summary(name: str) -> str:
    """The array of a per-head summary of attention."""
    return f"{POOLED}/attention_{name}"


def _summary_names(body: Anatomy) -> list[str]:
    tokens = len(body.kinds)
    return list(head_summaries(torch.full((tokens, tokens), 1 / tokens), roles(body)))
