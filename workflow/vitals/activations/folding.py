"""What is kept of a block's attention, folded from its queries and keys a few maps at a time.

The probabilities of all heads of all images never stand in memory together: a tile of images and
heads is computed in float32, reduced while it is in the cache, and overwritten by the next.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vitals.activations.attention import TokenRoles, row_sums, summaries
from vitals.activations.host import Buffers
from vitals.errors import VitalsError

# Probabilities in a tile, of which there are two copies: 2 × 2 MiB where a tile is to stay in the
# cache, 2 × 256 MiB on a GPU, where few large kernels are the fast ones.
NUMBERS_PER_TILE = 2**19
NUMBERS_PER_GPU_TILE = 2**26
LOG2_E = math.log2(math.e)
# Images whose maps are added in float32 before float64 takes over, which on a CPU costs as much as
# four such additions: they lose less than 32·2⁻²⁴, 2e-6 of the sum.
IMAGES_IN_FLOAT32 = 16


class Call(NamedTuple):
    """What decides the probabilities of one call of attention, softmax(QKᵀ·scale + mask).

    query, key: (image, head, token, channel); mask: broadcasts to (image, head, query, key), and is
    added to the scores or, of type bool, True where a query may look.
    """

    query: Tensor
    key: Tensor
    scale: float
    mask: Tensor | None


@dataclass
class Folded:
    """The attention of one block, reduced.

    summaries: by name, (image, head); mean: over heads, (image, query, key); total: over images,
    (head, query, key), float64; heads: (image asked for, head, query, key).
    """

    summaries: dict[str, Tensor]
    mean: Tensor
    total: Tensor
    heads: Tensor


def from_call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Call:
    """What `fold` needs, from the arguments of torch's `scaled_dot_product_attention`.

    Raises VitalsError for causal or grouped attention, and for dropout.
    """
    if is_causal or enable_gqa or dropout_p > 0:
        raise VitalsError(
            "expected attention of every token to every token, found it causal or grouped, or with "
            "dropout: its probabilities are not implemented"
        )
    return Call(query, key, query.shape[-1] ** -0.5 if scale is None else scale, attn_mask)


@torch.no_grad()
def fold(
    query: Tensor,
    key: Tensor,
    scale: float,
    mask: Tensor | None,
    roles: TokenRoles,
    whole: Tensor,
    buffers: Buffers | None = None,
) -> Folded:
    """What is kept of softmax(QKᵀ·scale + mask), computed in float32 where the query is.

    query, key, scale, mask: as in `Call`; whole: positions in the batch of the images whose maps
    are kept head by head; buffers: where the memory comes from, and that of `mean` and `total` may
    go again. A query that the mask lets look nowhere has NaN for probabilities.
    Raises VitalsError where queries or keys are not the tokens of `roles`.
    """
    images, heads, tokens, _ = query.shape
    if not tokens == key.shape[2] == roles.tokens:
        raise VitalsError(
            f"attention is of {tokens} queries to {key.shape[2]} keys, expected the "
            f"{roles.tokens} tokens of the model on both sides"
        )
    buffers = buffers or Buffers(query.device)
    kept = _Kept(query, whole, buffers)
    bias = None if mask is None else _bias(mask).expand(images, heads, tokens, tokens)
    tiles = list(_tiles(images, heads, tokens, query.device))
    memory = buffers.take((2, math.prod(tiles[0].shape), tokens, tokens), torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        for tile in tiles:
            scores, maps = memory[:, : math.prod(tile.shape)].unflatten(1, tile.shape)
            _score(query[tile], key[tile], scale, None if bias is None else bias[tile], scores)
            row_entropy = _softmax(scores, maps)
            kept.add(tile, maps, row_sums(maps, roles, row_entropy, workspace=scores))
    buffers.give(memory)
    return kept.folded(roles)


def join(parts: Sequence[Folded]) -> Folded:
    """The calls of one block, whose heads stand side by side, as the attention of that block."""
    heads = sum(len(part.total) for part in parts)
    return Folded(
        summaries={
            name: torch.cat([part.summaries[name] for part in parts], dim=1)
            for name in parts[0].summaries
        },
        mean=torch.stack([part.mean * (len(part.total) / heads) for part in parts]).sum(dim=0),
        total=torch.cat([part.total for part in parts]),
        heads=torch.cat([part.heads for part in parts], dim=1),
    )


class _Tile(NamedTuple):
    """The images and the heads that are computed at once; it indexes (image, head, ...)."""

    images: slice
    heads: slice

    @property
    def shape(self) -> tuple[int, int]:
        return self.images.stop - self.images.start, self.heads.stop - self.heads.start


def _tiles(images: int, heads: int, tokens: int, device: torch.device) -> Iterator[_Tile]:
    """Whole images while they fit, and some heads of one image where it is larger than a tile."""
    numbers = NUMBERS_PER_GPU_TILE if device.type == "cuda" else NUMBERS_PER_TILE
    maps = max(1, numbers // tokens**2)
    images_each = max(1, maps // heads)
    heads_each = math.ceil(heads / math.ceil(heads / maps))
    for image in range(0, images, images_each):
        for head in range(0, heads, heads_each):
            yield _Tile(
                slice(image, min(image + images_each, images)),
                slice(head, min(head + heads_each, heads)),
            )


def _bias(mask: Tensor) -> Tensor:
    """What the mask adds to the scores of base 2: finite, but NaN in a row that is masked whole.

    −∞ would make the entropy 0·∞; a number that is as good as −∞ gives probabilities of 0 as well.
    """
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, -torch.inf)
    bias = mask.float()
    nowhere = (bias == -torch.inf).all(dim=-1, keepdim=True)
    bias = (bias * LOG2_E).clamp(min=torch.finfo(torch.float32).min / 4)
    return bias.masked_fill(nowhere, torch.nan)


def _score(query: Tensor, key: Tensor, scale: float, bias: Tensor | None, out: Tensor) -> None:
    """QKᵀ·scale·log₂e + bias, (image, head, query, key): powers of 2 cost less than those of e."""
    if bias is not None:
        out.copy_(bias)
    query, key, out = (x.float().flatten(0, 1) for x in (query, key, out))  # (map, token, ...)
    beta = 0 if bias is None else 1
    torch.baddbmm(out, query, key.mT, beta=beta, alpha=scale * LOG2_E, out=out)


def _softmax(scores: Tensor, out: Tensor) -> Tensor:
    """Fill `out`, and use `scores` of base 2 up; each row's entropy over log T, (..., query).

    With s measured from the row's largest and Z = Σ2ˢ, the entropy is log Z − log 2·Σ p·s: two
    terms that are never negative, so that nothing cancels, and no logarithm of every probability.
    """
    scores -= scores.amax(dim=-1, keepdim=True)
    torch.exp2(scores, out=out)
    row_sum = out.sum(dim=-1, keepdim=True)
    out /= row_sum
    scores *= out
    entropy = row_sum[..., 0].log() - math.log(2) * scores.sum(dim=-1)
    return entropy / math.log(scores.shape[-1])


class _Kept:
    """What the tiles of one call have left so far."""

    def __init__(self, query: Tensor, whole: Tensor, buffers: Buffers) -> None:
        images, heads, tokens, _ = query.shape
        self.shape = images, heads
        self.sums: dict[str, Tensor] = {}
        self.mean = buffers.take((images, tokens, tokens), torch.float32).zero_()
        self.total = _SumOverImages((heads, tokens, tokens), buffers)
        self.positions = whole.tolist() if len(whole) else []
        shape = (len(self.positions), heads, tokens, tokens)
        self.heads = query.new_empty(shape, dtype=torch.float32)

    def add(self, tile: _Tile, maps: Tensor, sums: dict[str, Tensor]) -> None:
        """Keep what is kept of a tile's maps, (image, head, query, key), and its `row_sums`."""
        for name, values in sums.items():
            if name not in self.sums:
                self.sums[name] = values.new_empty(*self.shape, values.shape[-1])
            self.sums[name][tile] = values
        self.mean[tile.images].add_(maps.sum(dim=1), alpha=1 / self.shape[1])
        self.total.add(tile, maps)
        for place, position in enumerate(self.positions):
            if tile.images.start <= position < tile.images.stop:
                self.heads[place, tile.heads] = maps[position - tile.images.start]

    def folded(self, roles: TokenRoles) -> Folded:
        return Folded(summaries(self.sums, roles), self.mean, self.total.finish(), self.heads)


class _SumOverImages:
    """Maps (head, query, key) summed in float64: at once on a GPU, else after a few in float32."""

    def __init__(self, shape: tuple[int, int, int], buffers: Buffers) -> None:
        self.buffers, self.at_once = buffers, buffers.device.type == "cuda"
        self.recent = buffers.take(shape, torch.float64 if self.at_once else torch.float32).zero_()
        self.images = 0  # that `recent` holds
        self.carried: Tensor | None = None  # of the images before those, float64

    def add(self, tile: _Tile, maps: Tensor) -> None:
        """The maps of a tile, (image, head, query, key)."""
        recent = self.recent[tile.heads]
        if self.at_once:
            recent += maps.sum(dim=0, dtype=torch.float64)
            return
        for few in maps.split(IMAGES_IN_FLOAT32):
            # a product with ones reads the maps and what they are added to once
            recent.view(1, -1).addmm_(maps.new_ones(1, len(few)), few.flatten(1))
            if tile.heads.stop == len(self.recent):
                self._count(len(few))

    def finish(self) -> Tensor:
        """All that was added, float64; the sum takes nothing more."""
        if self.at_once:
            return self.recent
        total = self._carry()
        self.buffers.give(self.recent)
        return total

    def _count(self, images: int) -> None:
        self.images += images
        if self.images >= IMAGES_IN_FLOAT32:
            self._carry()
            self.recent.zero_()
            self.images = 0

    def _carry(self) -> Tensor:
        if self.carried is None:
            self.carried = self._in_float64().copy_(self.recent)
        else:
            self.carried += self.recent.to(self.carried.device)
        return self.carried

    def _in_float64(self) -> Tensor:
        """Memory for the sum: an accelerator that is no GPU of CUDA need not have the type."""
        if self.buffers.device.type == "cpu":
            return self.buffers.take(self.recent.shape, torch.float64)
        return torch.empty(self.recent.shape, dtype=torch.float64)
