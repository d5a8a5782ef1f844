"""One forward pass of a batch, seen at every tap, without changing the model.

Hooks read the residual stream. Attention comes from the fused kernel's own inputs: a function mode
catches `scaled_dot_product_attention` inside a block, computes the probabilities from its query and
key in float32, folds them into what is kept, and lets the kernel run on.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from vitals.activations.attention import TokenRoles, head_summaries
from vitals.errors import VitalsError
from vitals.models.anatomy import Anatomy

REPLAY_TOLERANCE = 1e-4
ROW_SUM_TOLERANCE = 1e-4


@dataclass
class Pass:
    """What one batch left at the taps.

    states: by layer, (image, token, channel); attention: by block, the mean over heads (image,
    query, key); summaries: by name, then by block, (image, head); attention_sum: by block, summed
    over images (head, query, key), float64; attention_heads: by block, (image, head, query, key)
    of the images asked for; logits: (image, class).
    """

    states: dict[str, Tensor] = field(default_factory=dict)
    attention: list[Tensor] = field(default_factory=list)
    summaries: dict[str, list[Tensor]] = field(default_factory=dict)
    attention_sum: list[Tensor] = field(default_factory=list)
    attention_heads: list[Tensor] = field(default_factory=list)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))


class _AttentionMode(TorchFunctionMode):
    """Hands the probabilities of each attention call to a pass, while it is on."""

    def __init__(self, seen: Pass, roles: TokenRoles, whole: Tensor) -> None:
        super().__init__()
        self.seen, self.roles, self.whole = seen, roles, whole

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self._fold(attention_probabilities(*args, **kwargs))
        return func(*args, **kwargs)

    def _fold(self, probabilities: Tensor) -> None:
        # (image, head, query, key)
        for name, summary in head_summaries(probabilities, self.roles).items():
            self.seen.summaries.setdefault(name, []).append(summary)
        self.seen.attention.append(probabilities.mean(dim=1))
        self.seen.attention_sum.append(probabilities.sum(dim=0, dtype=torch.float64))
        self.seen.attention_heads.append(probabilities[self.whole])


def attention_probabilities(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(QKᵀ·scale + mask) in float32, from the arguments of torch's fused attention.

    query, key: (image, head, token, channel); returns (image, head, query, key).
    Raises VitalsError for causal or grouped attention, which no Vision Transformer here has.
    """
    if is_causal or enable_gqa:
        raise VitalsError("attention is causal or grouped: its probabilities are not implemented")
    with torch.autocast(query.device.type, enabled=False):
        scores = query.float() @ key.float().mT
        scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
        if attn_mask is not None:
            allowed = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -torch.inf) if allowed else scores + attn_mask
        return scores.softmax(dim=-1)


@torch.inference_mode()
def forward(
    model: nn.Module, anatomy: Anatomy, roles: TokenRoles, images: Tensor, whole: Tensor
) -> Pass:
    """Run a batch (image, channel, row, column) and keep what the taps saw.

    whole: positions in the batch of the images whose attention is kept head by head.
    Raises VitalsError where a block did not call fused attention exactly once.
    """
    seen = Pass()
    with _taps(anatomy, seen), _AttentionMode(seen, roles, whole):
        seen.logits = model(images)
    if len(seen.attention) != len(anatomy.blocks):
        raise VitalsError(
            f"attention was seen {len(seen.attention)} times in {len(anatomy.blocks)} blocks: "
            "expected one call of scaled_dot_product_attention a block"
        )
    return seen


@contextmanager
def _taps(anatomy: Anatomy, seen: Pass) -> Iterator[None]:
    def keep(layer: str) -> Any:
        return lambda module, inputs, output: seen.states.__setitem__(layer, output)

    def keep_embed(module: nn.Module, inputs: Any, output: Tensor) -> None:
        patches = output.flatten(1, 2) if output.ndim == 4 else output
        prefix = anatomy.prefix.to(patches.dtype).expand(len(patches), -1, -1)
        seen.states["embed"] = torch.cat([prefix, patches], dim=1)  # (image, token, channel)

    def keep_position(module: nn.Module, inputs: Any) -> None:
        seen.states["position"] = inputs[0]

    with ExitStack() as hooks:
        handles = [
            anatomy.patch_embed.register_forward_hook(keep_embed),
            anatomy.blocks[0].register_forward_pre_hook(keep_position),
            *(b.register_forward_hook(keep(f"block.{i}")) for i, b in enumerate(anatomy.blocks)),
        ]
        if anatomy.norm is not None:
            handles.append(anatomy.norm.register_forward_hook(keep("norm")))
        for handle in handles:
            hooks.callback(handle.remove)
        yield


@torch.inference_mode()
def check_replay(anatomy: Anatomy, seen: Pass, name: str) -> None:
    """Prove on one pass that the view of a model is right, or raise VitalsError with what differs.

    The head applied to the last captured state gives the model's own logits, every state has the
    tokens that the anatomy names, and attention rows sum to 1.
    """
    if tuple(seen.states) != anatomy.layers:
        raise VitalsError(f"{name}: taps {tuple(seen.states)}, expected {anatomy.layers}")
    tokens = len(anatomy.kinds)
    for layer, state in seen.states.items():
        if state.shape[1] != tokens:
            raise VitalsError(f"{name}: {state.shape[1]} tokens at {layer}, expected {tokens}")
    last = seen.states[anatomy.layers[-1]]
    difference = (anatomy.classify(last) - seen.logits).abs().max().item()
    if not difference <= REPLAY_TOLERANCE * max(1.0, seen.logits.abs().max().item()):
        raise VitalsError(
            f"{name}: the head on the captured last state differs from the logits by {difference}"
        )
    for block, attention in enumerate(seen.attention):
        error = (attention.sum(dim=-1) - 1).abs().max().item()
        if not error <= ROW_SUM_TOLERANCE:
            raise VitalsError(f"{name}: attention rows of block {block} miss 1 by {error}")
