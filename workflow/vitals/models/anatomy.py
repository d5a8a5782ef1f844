"""Where the taps of a timm model are. The only module that knows timm's insides.

Everything that others need of a model is here as data: which modules to hook, which tokens are
which, the grid of the patches, and the parameters that metrics read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import vitals.models.torchvision_operators  # noqa: F401  (must come before timm)

# isort: split
import torch
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitals.errors import VitalsError


@dataclass(frozen=True)
class Anatomy:
    """A Vision Transformer as its taps, its tokens and its parameters.

    kinds: what each token is, in order ("cls", "register", "patch"); grid: rows and columns of
    patches; prefix: the learned tokens in front, (prefix token, channel); classify: from the state
    after the final norm to the logits; parameters: what a store keeps of the weights, by the names
    of the activation dataset, without those that the model has not.
    """

    patch_embed: nn.Module
    blocks: Sequence[nn.Module]
    norm: nn.Module | None
    classify: Callable[[torch.Tensor], torch.Tensor]
    kinds: tuple[str, ...]
    grid: tuple[int, int]
    heads: int
    prefix: torch.Tensor
    parameters: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the taps, in order."""
        blocks = (f"block.{i}" for i in range(len(self.blocks)))
        return ("embed", "position", *blocks, *(("norm",) if self.norm is not None else ()))

    @property
    def prefix_tokens(self) -> int:
        """How many tokens stand before the patches."""
        return self.prefix.shape[0]


def anatomy(model: nn.Module) -> Anatomy:
    """The anatomy of a timm VisionTransformer; VitalsError for a model of another kind."""
    check_kind(model)
    rows, columns = model.patch_embed.grid_size
    prefix, kinds = _prefix(model)
    return Anatomy(
        patch_embed=model.patch_embed,
        blocks=tuple(model.blocks),
        norm=None if isinstance(model.norm, nn.Identity) else model.norm,
        classify=model.forward_head,
        kinds=(*kinds, *["patch"] * (rows * columns)),
        grid=(rows, columns),
        heads=model.blocks[0].attn.num_heads,
        prefix=prefix,
        parameters=_parameters(model, len(kinds), (rows, columns)),
    )


def check_kind(model: nn.Module) -> None:
    """Raise VitalsError for a model that is no timm VisionTransformer with an attention a block."""
    if type(model) is not VisionTransformer:
        raise VitalsError(
            f"a {type(model).__name__} is not supported: expected timm's VisionTransformer"
        )
    other = [type(b).__name__ for b in model.blocks if not hasattr(b, "attn")]
    if other:
        raise VitalsError(
            f"a VisionTransformer of {other[0]} is not supported: expected one attention a block"
        )


def input_shape(model: nn.Module) -> tuple[int, int, int]:
    """Channels, rows and columns of the images that a timm VisionTransformer takes."""
    rows, columns = model.patch_embed.img_size
    return (model.in_chans, rows, columns)


def _prefix(model: VisionTransformer) -> tuple[torch.Tensor, tuple[str, ...]]:
    parts = [("cls", model.cls_token), ("register", model.reg_token)]
    present = [(kind, token[0]) for kind, token in parts if token is not None]
    kinds = tuple(kind for kind, token in present for _ in range(token.shape[0]))
    if len(kinds) != model.num_prefix_tokens:
        raise VitalsError(
            f"the model says it has {model.num_prefix_tokens} prefix tokens, its parameters give "
            f"{len(kinds)}"
        )
    empty = next(model.parameters()).new_zeros(0, model.embed_dim)
    return torch.cat([empty, *(token for _, token in present)]).detach(), kinds


def _parameters(
    model: VisionTransformer, prefix_tokens: int, grid: tuple[int, int]
) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    if model.pos_embed is not None:
        found["position_embedding"] = _position_embedding(model, prefix_tokens, grid)
    if isinstance(model.head, nn.Linear) and model.attn_pool is None:
        found["head_weight"] = model.head.weight  # (class, channel)
        if model.head.bias is not None:
            found["head_bias"] = model.head.bias
    norm = model.fc_norm if isinstance(model.norm, nn.Identity) else model.norm
    if isinstance(norm, nn.LayerNorm) and norm.elementwise_affine:
        found["norm_scale"] = norm.weight
        found["norm_shift"] = norm.bias
    return {name: parameter.detach() for name, parameter in found.items()}


def _position_embedding(
    model: VisionTransformer, prefix_tokens: int, grid: tuple[int, int]
) -> torch.Tensor:
    """What is added to each token between the taps "embed" and "position": (token, channel)."""
    own = 0 if model.no_embed_class else prefix_tokens
    embedding = resample_abs_pos_embed(model.pos_embed, new_size=grid, num_prefix_tokens=own)[0]
    # a prefix token without a position of its own gets nothing added
    nothing = embedding.new_zeros(prefix_tokens - own, embedding.shape[1])
    return torch.cat([nothing, embedding])
