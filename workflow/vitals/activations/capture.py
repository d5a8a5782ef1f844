"""One forward pass of a batch, seen at every tap, without changing the model.

Hooks read the residual stream and follow it from block to block. Attention comes from the fused
kernel's own inputs: a function mode catches `scaled_dot_product_attention` inside a block, has its
query and key folded into what is kept, and lets the kernel run on.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from vitals.activations import folding
from vitals.activations.attention import TokenRoles
from vitals.activations.host import Buffers
from vitals.errors import VitalsError
from vitals.models.anatomy import Anatomy

REPLAY_TOLERANCE = 1e-4
ROW_SUM_TOLERANCE = 1e-4
ROUNDINGS = 4  # of one addition, in the least precise type that took part in it


@dataclass(frozen=True)
class Taps:
    """What is asked for: the states between attention and MLP as well, and attention."""

    sub_blocks: bool = False
    attention: bool = True


@dataclass
class Pass:
    """What one batch left at the taps.

    states: by layer, (image, token, channel); attention: by block, the mean over heads (image,
    query, key); summaries: by name, then by block, (image, head); attention_sum: by block, summed
    over images (head, query, key), float64; attention_heads: by block, (image, head, query, key)
    of the images asked for; head_input: the model's own pooled feature, (image, channel), where it
    has one; logits: what the model gave, (image, class) with a classifier;
    autocast: the type that the pass was allowed to compute in, None without autocast; buffers:
    where the memory of what is kept comes from, if not of this pass alone.
    Where attention was not asked for, or cannot be caught, all that is of attention is empty.
    """

    states: dict[str, Tensor] = field(default_factory=dict)
    attention: list[Tensor] = field(default_factory=list)
    summaries: dict[str, list[Tensor]] = field(default_factory=dict)
    attention_sum: list[Tensor] = field(default_factory=list)
    attention_heads: list[Tensor] = field(default_factory=list)
    head_input: Tensor | None = None
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    taps: Taps = field(default_factory=Taps)
    autocast: torch.dtype | None = None
    buffers: Buffers | None = None

    def keep_state(self, layer: str, state: Tensor) -> None:
        """The state at a tap: (image, token, channel)."""
        self.states[layer] = state

    def keep_attention(self, folded: folding.Folded) -> None:
        """The attention of the next block."""
        self.attention.append(folded.mean)
        self.attention_sum.append(folded.total)
        self.attention_heads.append(folded.heads)
        for name, summary in folded.summaries.items():
            self.summaries.setdefault(name, []).append(summary)

    def replay(self, seen: "Pass") -> None:
        """Keep what another pass of the same batch has seen, which has kept all of it."""
        for layer, state in seen.states.items():
            self.keep_state(layer, state)
        for block in range(len(seen.attention)):
            summaries = {name: values[block] for name, values in seen.summaries.items()}
            parts = (seen.attention[block], seen.attention_sum[block], seen.attention_heads[block])
            self.keep_attention(folding.Folded(summaries, *parts))
        self.head_input, self.logits = seen.head_input, seen.logits


@torch.inference_mode()
def forward(
    model: nn.Module,
    anatomy: Anatomy,
    roles: TokenRoles,
    images: Tensor,
    whole: Tensor,
    taps: Taps = Taps(),
    seen: Pass | None = None,
) -> Pass:
    """Run a batch (image, channel, row, column) and keep what the taps saw.

    whole: positions in the batch of the images whose attention is kept head by head; seen: what
    keeps it, by default all of it.
    Raises VitalsError for a model in training mode, for images of another shape, for states between
    attention and MLP that the model has not, where a block does not read what the one before gave,
    and where a block called fused attention more or less often than the anatomy says.
    """
    _check_evaluating(model)
    anatomy.layers(taps.sub_blocks)
    if images.shape[1:] != anatomy.image_shape:
        raise VitalsError(
            f"images of {tuple(images.shape[1:])} (channels, rows, columns), the model takes "
            f"{anatomy.image_shape}"
        )
    device = images.device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    seen = seen or Pass()
    seen.taps, seen.autocast = taps, autocast
    stream = _Stream(anatomy, seen)
    mode: AbstractContextManager = nullcontext()
    if taps.attention and anatomy.attention_absent is None:
        mode = _AttentionMode(stream, roles, whole, seen.buffers or Buffers(images.device))
    with _hooked(stream.hooks()), mode:
        seen.logits = model(images)
    return seen


def _check_evaluating(model: nn.Module) -> None:
    training = next((name for name, module in model.named_modules() if module.training), None)
    if training is not None:
        raise VitalsError(
            f"expected a model in evaluation mode, found {training or 'model'} in training "
            "mode, where tokens and attention are dropped at random: call model.eval()"
        )


@contextmanager
def _hooked(handles: list[Any]) -> Iterator[None]:
    with ExitStack() as hooks:
        for handle in handles:
            hooks.callback(handle.remove)
        yield


class _Stream:
    """The residual stream of one pass, as the hooks follow it."""

    def __init__(self, anatomy: Anatomy, seen: Pass) -> None:
        self.anatomy, self.seen = anatomy, seen
        self.block: int | None = None  # the one that is running
        self.state: Tensor | None = None  # what the last one gave
        self.passed: set[str] = set()
        self.calls: list[folding.Folded] = []  # of attention, in the one that is running

    def hooks(self) -> list[Any]:
        """Hooks on the modules of the model, which are all of what a pass adds to it."""
        body = self.anatomy
        handles = [body.patch_embed.register_forward_hook(self._embed)]
        if body.norm_pre is not None:
            handles.append(body.norm_pre.register_forward_pre_hook(self._keep_input("norm_pre")))
        for number, block in enumerate(body.blocks):
            handles.append(block.register_forward_pre_hook(self._enter(number)))
            handles.append(block.register_forward_hook(self._leave(number)))
            if self.seen.taps.sub_blocks and body.middle is not None:
                hook = self._keep_input(f"block.{number}.attention")
                handles.append(body.middle[number].register_forward_pre_hook(hook))
        if body.norm is not None:
            handles.append(body.norm.register_forward_pre_hook(self._check_input("norm")))
            handles.append(body.norm.register_forward_hook(self._keep_output("norm")))
        if body.head is not None:
            handles.append(body.head.register_forward_pre_hook(self._keep_head_input))
        return handles

    def _keep_head_input(self, module: nn.Module, inputs: Any) -> None:
        self.seen.head_input = inputs[0]

    def _embed(self, module: nn.Module, inputs: Any, output: Tensor | tuple[Tensor, ...]) -> None:
        patches = _tokens(output[0] if isinstance(output, tuple) else output)
        prefix = self.anatomy.prefix.expand(len(patches), -1, -1)
        # a copy, which the model cannot change: (image, token, channel)
        self._keep("embed", torch.cat([prefix, patches], dim=1))

    def _enter(self, number: int) -> Callable[..., None]:
        check = self._check_input(f"block.{number}")

        def hook(module: nn.Module, inputs: Any) -> None:
            if number == 0:
                self._keep("position", inputs[0])
            else:
                check(module, inputs)
            self.block = number

        return hook

    def _leave(self, number: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self._keep(f"block.{number}", output)
            self.state, self.block = output, None
            self._keep_attention(number)

        return hook

    def _keep_input(self, layer: str) -> Callable[..., None]:
        return lambda module, inputs: self._keep(layer, inputs[0])

    def _keep_output(self, layer: str) -> Callable[..., None]:
        return lambda module, inputs, output: self._keep(layer, output)

    def _check_input(self, layer: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            if inputs[0] is not self.state:
                raise VitalsError(
                    f"what {layer} reads is not what the block before it gave: the model has no "
                    "single residual stream from block to block"
                )

        return hook

    def _keep(self, layer: str, state: Tensor) -> None:
        if layer in self.passed:
            raise VitalsError(f"the model passes {layer} twice: expected once for each image")
        self.passed.add(layer)
        self.seen.keep_state(layer, _tokens(state))

    def _keep_attention(self, number: int) -> None:
        """Add the attention of a block that has run to the pass."""
        seen, expected = self.seen, self.anatomy.attention_calls
        if not seen.taps.attention or self.anatomy.attention_absent is not None:
            return
        if len(self.calls) != expected:
            raise VitalsError(
                f"block.{number} called scaled_dot_product_attention {len(self.calls)} times, "
                f"expected {expected}: is fused attention off (timm.layers.set_fused_attn, "
                "TIMM_FUSED_ATTN, or a module's fused_attn)?"
            )
        folded = self.calls[0] if expected == 1 else folding.join(self.calls)
        self.calls = []
        seen.keep_attention(folded)


def _tokens(state: Tensor) -> Tensor:
    """(image, token, channel), of (image, row, column, channel) too."""
    return state.flatten(1, 2) if state.ndim == 4 else state


class _AttentionMode(TorchFunctionMode):
    """Folds each call of fused attention inside a block, and lets those elsewhere pass unseen."""

    def __init__(self, stream: _Stream, roles: TokenRoles, whole: Tensor, buffers: Buffers) -> None:
        super().__init__()
        self.stream, self.kept = stream, (roles, whole, buffers)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and self.stream.block is not None:
            call = folding.from_call(*args, **kwargs)
            self.stream.calls.append(folding.fold(*call, *self.kept))
        return func(*args, **kwargs)


@torch.inference_mode()
def check_replay(anatomy: Anatomy, seen: Pass, name: str) -> None:
    """Prove on one pass that the view of a model is right, or raise VitalsError with what differs.

    The taps are those that the anatomy names, each with its tokens and a memory of its own; the
    position embedding is what is added between them; the head applied to the last captured state
    gives what the model gave; and attention rows sum to 1.
    """
    try:
        _check_states(anatomy, seen)
        _check_position(anatomy, seen)
        _check_head(anatomy, seen)
        _check_attention(anatomy, seen)
    except VitalsError as error:
        raise VitalsError(f"{name}: {error}") from error


def _check_states(anatomy: Anatomy, seen: Pass) -> None:
    expected = anatomy.layers(seen.taps.sub_blocks)
    if tuple(seen.states) != expected:
        raise VitalsError(f"taps {', '.join(seen.states)}; expected {', '.join(expected)}")
    tokens, channels = len(anatomy.kinds), anatomy.channels
    places: dict[int, str] = {}
    for layer, state in seen.states.items():
        if state.shape[1:] != (tokens, channels):
            found = " × ".join(map(str, state.shape[1:]))
            raise VitalsError(
                f"{found} tokens × channels at {layer}, expected {tokens} × {channels}"
            )
        other = places.setdefault(state.untyped_storage().data_ptr(), layer)
        if other != layer:
            raise VitalsError(
                f"{layer} has the memory of {other}: the model changes its stream in place"
            )


def _check_position(anatomy: Anatomy, seen: Pass) -> None:
    """Nothing but the position embedding is added between the first taps, or nothing."""
    layer = "norm_pre" if anatomy.norm_pre is not None else "position"
    before, after = seen.states["embed"], seen.states[layer]
    added = anatomy.parameters.get("position_embedding", before.new_zeros(1))
    difference = (before + added - after).abs().max().item()
    types = [before.dtype, after.dtype, seen.autocast or after.dtype]
    rounding = ROUNDINGS * max(torch.finfo(dtype).eps for dtype in types)
    largest = max(x.abs().max().item() for x in (before, added, after))
    if not difference <= rounding * largest:
        raise VitalsError(
            f"{layer} differs by {difference} from embed with its position embedding added"
        )


def _check_head(anatomy: Anatomy, seen: Pass) -> None:
    last = seen.states[anatomy.layers()[-1]]
    feature = seen.head_input
    if anatomy.head is not None and (
        feature is None or feature.shape != (len(last), anatomy.channels)
    ):
        found = None if feature is None else tuple(feature.shape)
        raise VitalsError(
            f"the head reads {found}, expected one feature an image, "
            f"{(len(last), anatomy.channels)}"
        )
    if anatomy.classes is not None and seen.logits.shape != (len(last), anatomy.classes):
        raise VitalsError(
            f"the model gives {tuple(seen.logits.shape)}, expected (image, class) = "
            f"{(len(last), anatomy.classes)}"
        )
    with torch.autocast(last.device.type, seen.autocast, enabled=seen.autocast is not None):
        replayed = anatomy.classify(last)
    if replayed.shape != seen.logits.shape:
        raise VitalsError(
            f"the head on the captured last state gives {tuple(replayed.shape)}, the model gave "
            f"{tuple(seen.logits.shape)}"
        )
    difference = (replayed - seen.logits).abs().max().item()
    if not difference <= REPLAY_TOLERANCE * max(1.0, seen.logits.abs().max().item()):
        raise VitalsError(
            f"the head on the captured last state differs from the logits by {difference}"
        )


def _check_attention(anatomy: Anatomy, seen: Pass) -> None:
    for block, attention in enumerate(seen.attention):
        error = (attention.sum(dim=-1) - 1).abs().max().item()
        if not error <= ROW_SUM_TOLERANCE:
            raise VitalsError(f"attention rows of block {block} miss 1 by {error}")
