"""Where the taps of a timm model are. The only module that knows timm's insides.

Everything that others need of a model is here as data: which modules to hook, which tokens are
which, the grid of the patches, and the parameters that metrics read. What timm has and the tables
below do not name is refused: a model is never looked at by guess.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import vitals.models.torchvision_operators  # noqa: F401  (must come before timm)

# isort: split
import torch
from timm.layers import Attention, AttentionRope, DiffAttention, resample_abs_pos_embed
from timm.models import (
    beit,
    cait,
    deit,
    eva,
    naflexvit,
    vision_transformer,
    vision_transformer_relpos,
    vision_transformer_sam,
)
from torch import Tensor, nn

from vitals.errors import VitalsError
from vitals.models.registry import OTHERWISE, UNSUPPORTED

CLS, DISTILLATION, REGISTER, PATCH = "cls", "distillation", "register", "patch"
PREFIX = ((CLS, "cls_token"), (DISTILLATION, "dist_token"), (REGISTER, "reg_token"))


@dataclass(frozen=True)
class Anatomy:
    """A Vision Transformer as its taps, its tokens and its parameters.

    kinds: what each token is, in order ("cls", "distillation", "register", "patch"); grid: rows and
    columns of patches; prefix: the learned tokens in front, (prefix token, channel); classify: from
    the last state, (image, token, channel), to what the model gives; head: the module that reads
    the model's own pooled feature, (image, channel), None where none does; norm_pre: a norm between
    positions and blocks; middle: by block, the module whose input is the state between attention
    and MLP, None where they stand side by side; heads: of a block, all its attention_calls calls
    together; attention_absent: why no attention can be caught; classes: None without a classifier;
    image_shape: channels, rows and columns of an image; parameters: what a store keeps of the
    weights, by the names of the activation dataset, without those that the model has not.
    """

    patch_embed: nn.Module
    blocks: Sequence[nn.Module]
    norm: nn.Module | None
    classify: Callable[[Tensor], Tensor]
    head: nn.Module | None
    kinds: tuple[str, ...]
    grid: tuple[int, int]
    heads: int
    prefix: Tensor
    norm_pre: nn.Module | None
    middle: tuple[nn.Module, ...] | None
    attention_absent: str | None
    attention_calls: int
    channels: int
    classes: int | None
    image_shape: tuple[int, int, int]
    parameters: dict[str, Tensor] = field(default_factory=dict)

    @property
    def prefix_tokens(self) -> int:
        """How many tokens stand before the patches."""
        return self.prefix.shape[0]

    def layers(self, sub_blocks: bool = False) -> tuple[str, ...]:
        """Names of the taps, in order.

        sub_blocks: with those between attention and MLP; VitalsError where there is no such state.
        """
        return tuple(name for name, _ in self._taps(sub_blocks))

    def depths(self, sub_blocks: bool = False) -> tuple[float, ...]:
        """How deep each tap is, in blocks: "embed" 0, "position" 1, "block.i" i + 2.

        Whole numbers where there is no tap between them.
        """
        depths = [depth for _, depth in self._taps(sub_blocks)]
        whole = all(depth == int(depth) for depth in depths)
        return tuple(map(int, depths)) if whole else tuple(map(float, depths))

    def _taps(self, sub_blocks: bool) -> list[tuple[str, float]]:
        if sub_blocks and self.middle is None:
            raise VitalsError(
                f"a {type(self.blocks[0]).__name__} has no state between attention and MLP, which "
                "stand side by side: set activations.sub_blocks to false for this model"
            )
        taps: list[tuple[str, float]] = [("embed", 0)]
        if self.norm_pre is not None:
            taps.append(("norm_pre", 0.5))
        taps.append(("position", 1))
        for number in range(len(self.blocks)):
            if sub_blocks:
                taps.append((f"block.{number}.attention", number + 1.5))
            taps.append((f"block.{number}", number + 2))
        if self.norm is not None:
            taps.append(("norm", len(self.blocks) + 2))
        return taps


def _absolute_positions(model: nn.Module, grid: tuple[int, int]) -> Tensor | None:
    """A learned vector for each patch, and in front of them for the prefix tokens or for none."""
    if getattr(model, "pos_embed", None) is None:
        return None
    rows, columns = own = model.patch_embed.grid_size
    prefix = model.pos_embed.shape[1] - rows * columns
    (positions,) = resample_abs_pos_embed(model.pos_embed, grid, own, num_prefix_tokens=prefix)
    return positions


def _grid_positions(model: nn.Module, grid: tuple[int, int]) -> Tensor | None:
    """SAM: learned vectors laid out as the grid, (1, row, column, channel)."""
    return None if model.pos_embed is None else model.pos_embed[0].flatten(0, 1)


def _naflex_positions(model: nn.Module, grid: tuple[int, int]) -> Tensor | None:
    """NaFlex: resized to the grid of the image by timm's own methods, which add in place."""
    embeds = model.embeds
    if embeds.pos_embed_type == "none":
        return None
    add = {
        "learned": embeds._apply_learned_pos_embed,
        "factorized": embeds._apply_factorized_pos_embed,
    }[embeds.pos_embed_type]
    patches = embeds.proj.weight.new_zeros(1, grid[0] * grid[1], embeds.embed_dim)
    with torch.no_grad():
        add(patches, grid_size=list(grid))
    return patches[0]


def _after_neck(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """SAM: convolutions over the grid, then pooling and classifier."""

    def classify(state: Tensor) -> Tensor:
        grid = state.unflatten(1, model.patch_embed.grid_size)  # (image, row, column, channel)
        return model.forward_head(model.neck(grid.permute(0, 3, 1, 2)))

    return classify


def _after_class_attention(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """CaiT: [CLS] enters here, and reads the patches in blocks of its own."""
    return lambda state: model.forward_head(model.norm(model.forward_cls(state)))


@dataclass(frozen=True)
class _Family:
    """How the models of one class are put together.

    stem: the module with the learned tokens; embedding: the one that knows the size of the grid;
    patches: the one whose output is patches without positions; positions: what is added to the last
    tokens, (token, channel); tail: what makes of the last state what the model gives; prefixed:
    whether the learned tokens are in the stream from its start and the classifier reads the stream.
    """

    stem: Callable[[nn.Module], nn.Module] = lambda model: model
    embedding: Callable[[nn.Module], nn.Module] = lambda model: model.patch_embed
    patches: Callable[[nn.Module], nn.Module] = lambda model: model.patch_embed
    positions: Callable[[nn.Module, tuple[int, int]], Tensor | None] = _absolute_positions
    tail: Callable[[nn.Module], Callable[[Tensor], Tensor]] = lambda model: model.forward_head
    prefixed: bool = True


_PLAIN = _Family()

FAMILIES = {
    vision_transformer.VisionTransformer: _PLAIN,
    deit.VisionTransformerDistilled: _PLAIN,
    eva.Eva: _PLAIN,
    beit.Beit: _PLAIN,
    vision_transformer_relpos.VisionTransformerRelPos: _PLAIN,
    naflexvit.NaFlexVit: _Family(
        stem=lambda model: model.embeds,
        embedding=lambda model: model.embeds,
        patches=lambda model: model.embeds.norm,
        positions=_naflex_positions,
    ),
    vision_transformer_sam.VisionTransformerSAM: _Family(
        positions=_grid_positions, tail=_after_neck, prefixed=False
    ),
    cait.Cait: _Family(tail=_after_class_attention, prefixed=False),
}


@dataclass(frozen=True)
class _Block:
    """Where a block's attention is, and which module reads the state after it."""

    attention: Callable[[nn.Module], tuple[nn.Module, ...]] = lambda block: (block.attn,)
    middle: Callable[[nn.Module], nn.Module] | None = None


_NORM_FIRST = _Block(middle=lambda block: block.norm2)  # x + branch(norm(x))
_NORM_LAST = _Block(middle=lambda block: block.mlp)  # x + norm(branch(x))
_SIDE_BY_SIDE = _Block(attention=lambda block: (block,))

BLOCKS = {
    vision_transformer.Block: _NORM_FIRST,
    eva.EvaBlock: _NORM_FIRST,
    beit.Block: _NORM_FIRST,
    vision_transformer_relpos.RelPosBlock: _NORM_FIRST,
    vision_transformer_sam.Block: _NORM_FIRST,
    cait.LayerScaleBlock: _NORM_FIRST,
    vision_transformer.ResPostBlock: _NORM_LAST,
    eva.EvaBlockPostNorm: _NORM_LAST,
    vision_transformer_relpos.ResPostRelPosBlock: _NORM_LAST,
    vision_transformer.ParallelScalingBlock: _SIDE_BY_SIDE,
    vision_transformer.DiffParallelScalingBlock: _SIDE_BY_SIDE,
    vision_transformer.ParallelThingsBlock: _Block(
        attention=lambda block: tuple(branch.attn for branch in block.attns),
        middle=lambda block: block.ffns[0],
    ),
}

DIFFERENTIAL = "its attention is the difference of two maps, whose rows are no probabilities"
WINDOWED = "its attention is within windows, in calls that do not tell images from heads"
TALKING = "its heads are mixed before and after the softmax, so that no row is a probability"

# Why the maps of an attention cannot be caught; None where they can.
ATTENTION = {
    Attention: None,
    AttentionRope: None,
    eva.EvaAttention: None,
    beit.Attention: None,
    vision_transformer_relpos.RelPosAttention: None,
    vision_transformer.ParallelScalingBlock: None,
    DiffAttention: DIFFERENTIAL,
    vision_transformer.DiffParallelScalingBlock: DIFFERENTIAL,
    vision_transformer_sam.Attention: WINDOWED,
    cait.TalkingHeadAttn: TALKING,
}


def anatomy(model: nn.Module) -> Anatomy:
    """The anatomy of a timm Vision Transformer; VitalsError for a model of another kind."""
    check_kind(model)
    family = FAMILIES[type(model)]
    prefix, kinds = _prefix(model, family)
    image_shape = input_shape(model)
    rows, columns = family.embedding(model).dynamic_feat_size(image_shape[1:])
    attentions = [BLOCKS[type(block)].attention(block) for block in model.blocks]
    return Anatomy(
        patch_embed=family.patches(model),
        blocks=tuple(model.blocks),
        norm=_present(model, "norm") if family.prefixed else None,
        classify=family.tail(model),
        head=model.head if family.prefixed and model.global_pool else None,
        kinds=(*kinds, *[PATCH] * (rows * columns)),
        grid=(rows, columns),
        heads=sum(attention.num_heads for attention in attentions[0]),
        prefix=prefix,
        norm_pre=_present(model, "norm_pre"),
        middle=_middle(model),
        attention_absent=ATTENTION[type(attentions[0][0])],
        attention_calls=len(attentions[0]),
        channels=model.embed_dim,
        classes=model.num_classes or None,
        image_shape=image_shape,
        parameters=_parameters(model, family, len(kinds), (rows, columns)),
    )


def check_kind(model: nn.Module) -> None:
    """Raise VitalsError for a model without one residual stream through blocks that are known."""
    kind = type(model).__name__
    if type(model) not in FAMILIES:
        reason = UNSUPPORTED.get(type(model).__module__.rpartition(".")[2], OTHERWISE)
        raise VitalsError(
            f"a {kind} is not supported: {reason}; expected one of "
            f"{', '.join(sorted(known.__name__ for known in FAMILIES))}"
        )
    makes = {_make(model, block) for block in model.blocks}
    if len(makes) != 1:
        raise VitalsError(
            f"a {kind} of {len(model.blocks)} blocks of {len(makes)} kinds is not supported: "
            "expected blocks of one kind, with as many heads each"
        )


def _make(model: nn.Module, block: nn.Module) -> tuple[object, ...]:
    """What blocks of one kind share: their class, and the classes and heads of their attention."""
    if type(block) not in BLOCKS:
        raise VitalsError(
            f"a {type(model).__name__} of {type(block).__name__} is not supported: expected blocks "
            f"of {', '.join(sorted({known.__name__ for known in BLOCKS}))}"
        )
    attentions = BLOCKS[type(block)].attention(block)
    for attention in attentions:
        if type(attention) not in ATTENTION:
            raise VitalsError(
                f"a {type(model).__name__} with {type(attention).__name__} is not supported: "
                f"expected {', '.join(sorted({known.__name__ for known in ATTENTION}))}"
            )
    return type(block), *((type(a), a.num_heads) for a in attentions)


def input_shape(model: nn.Module) -> tuple[int, int, int]:
    """Channels, rows and columns of the images that a timm Vision Transformer takes."""
    size = getattr(FAMILIES[type(model)].embedding(model), "img_size", None)
    if size is None:  # a model of any size: the one that was asked for, or that of its weights
        size = model._traits.get("img_size") or model.pretrained_cfg["input_size"][1:]
    rows, columns = size
    return (model.in_chans, rows, columns)


def _present(model: nn.Module, name: str) -> nn.Module | None:
    """A module of the model, None where timm has none or leaves its place empty."""
    module = getattr(model, name, None)
    return None if isinstance(module, nn.Identity) else module


def _middle(model: nn.Module) -> tuple[nn.Module, ...] | None:
    find = BLOCKS[type(model.blocks[0])].middle
    return None if find is None else tuple(find(block) for block in model.blocks)


def _prefix(model: nn.Module, family: _Family) -> tuple[Tensor, tuple[str, ...]]:
    """The learned tokens in front of the patches, (prefix token, channel), and their kinds."""
    empty = next(model.parameters()).new_zeros(0, model.embed_dim)
    if not family.prefixed:
        return empty, ()
    stem = family.stem(model)
    parts = [(kind, getattr(stem, name, None)) for kind, name in PREFIX]
    present = [(kind, token[0]) for kind, token in parts if token is not None]
    kinds = tuple(kind for kind, token in present for _ in range(token.shape[0]))
    if len(kinds) != model.num_prefix_tokens:
        raise VitalsError(
            f"a {type(model).__name__} says it has {model.num_prefix_tokens} prefix tokens, its "
            f"parameters give {len(kinds)}: {', '.join(kinds) or 'none'}"
        )
    return torch.cat([empty, *(token for _, token in present)]).detach(), kinds


def _parameters(
    model: nn.Module, family: _Family, prefix_tokens: int, grid: tuple[int, int]
) -> dict[str, Tensor]:
    found = {
        "position_embedding": _position_embedding(model, family, prefix_tokens, grid),
        **(_classifier(model) if family.prefixed else {}),
    }
    return {name: value.detach() for name, value in found.items() if value is not None}


def _classifier(model: nn.Module) -> dict[str, Tensor | None]:
    """The weights of the final norm, and of the classifier where it reads a normed token itself."""
    norms = [_present(model, name) for name in ("norm", "fc_norm")]
    if hasattr(model, "dist_token"):  # its head has no place for a norm after pooling
        norms.pop()
    norms = [norm for norm in norms if norm is not None]
    direct = getattr(model, "attn_pool", None) is None and len(norms) < 2
    found: dict[str, Tensor | None] = {}
    if direct and isinstance(model.head, nn.Linear):
        found |= {"head_weight": model.head.weight, "head_bias": model.head.bias}
    if norms and isinstance(norms[0], nn.LayerNorm):
        found |= {"norm_scale": norms[0].weight, "norm_shift": norms[0].bias}
    return found


def _position_embedding(
    model: nn.Module, family: _Family, prefix_tokens: int, grid: tuple[int, int]
) -> Tensor | None:
    """What is added to each token between the taps "embed" and "position": (token, channel)."""
    positions = family.positions(model, grid)
    if positions is None:
        return None
    missing = prefix_tokens + grid[0] * grid[1] - len(positions)
    if missing not in (0, prefix_tokens):
        raise VitalsError(
            f"a {type(model).__name__} has {len(positions)} positions for {grid[0]} × {grid[1]} "
            f"patches: expected as many, or {prefix_tokens} more for its prefix tokens"
        )
    # a prefix token without a position of its own gets nothing added
    return torch.cat([positions.new_zeros(missing, positions.shape[1]), positions])
