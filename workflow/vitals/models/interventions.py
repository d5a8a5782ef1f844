"""A model run with one change, from the place of the change on.

The model's own forward pass runs; what lies before the change gives what it gave when nothing was
changed, and costs nothing. Where nothing is changed, every number is the model's own.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from vitals.models.anatomy import CLS, PATCH, Anatomy

Forward = Callable[..., Any]
Watch = Callable[[int, Tensor], None]


class Suffix:
    """A model from any of its blocks on, for one state of the residual stream or another.

    States are (image, token, channel). The model is in evaluation mode, and is left as it was.
    """

    def __init__(self, network: nn.Module, body: Anatomy) -> None:
        self.network, self.body = network, body
        parameter = next(network.parameters())
        self.image = parameter.new_zeros(1, *body.image_shape)
        self.embedded = self._embedded()

    @torch.no_grad()
    def run(
        self,
        first: int,
        state: Tensor,
        changes: Mapping[nn.Module, Forward] | None = None,
        watch: Watch | None = None,
    ) -> Tensor:
        """What the model gives, (image, class), when `state` is what enters block `first`.

        first: from 0 to the number of blocks, which is the state after the last one; changes: what
        modules behind that place compute instead of their own; watch: is given the number of each
        block that runs, and the state after it.
        """
        blocks = self.body.blocks
        forwards = {**self._before(first), **(changes or {})}
        if first == len(blocks):
            forwards[blocks[-1]] = lambda x, *_, **__: state.reshape(x.shape)
        else:
            own = forwards.get(blocks[first], blocks[first].forward)
            forwards[blocks[first]] = _given(state, own)
        return self._run(forwards, len(state), watch, first)

    @torch.no_grad()
    def run_positioned(self, state: Tensor, watch: Watch | None = None) -> Tensor:
        """What the model gives when `state` is what positions have been added to.

        That is what enters block 0, or the norm before it where the model has one.
        """
        if self.body.norm_pre is None:
            return self.run(0, state, watch=watch)
        given = _given(state, self.body.norm_pre.forward)
        forwards = {**self._before(0), self.body.norm_pre: given}
        return self._run(forwards, len(state), watch, 0)

    def exit_after(self, block: int) -> dict[nn.Module, Forward]:
        """The changes that lead from block `block` straight to the final norm and the head."""
        return dict.fromkeys(self.body.blocks[block + 1 :], unchanged)

    def _before(self, first: int) -> dict[nn.Module, Forward]:
        """Modules before the place, whose output has no part in what comes of it but its shape."""
        return {
            self.body.patch_embed: lambda *_, **__: self.template,
            **dict.fromkeys(self.body.blocks[:first], unchanged),
        }

    def _run(
        self, forwards: Mapping[nn.Module, Forward], images: int, watch: Watch | None, first: int
    ) -> Tensor:
        self.template = _repeated(self.embedded, images)
        with ExitStack() as stack:
            for number in range(first, len(self.body.blocks)) if watch else ():
                hook = self.body.blocks[number].register_forward_hook(_watching(watch, number))
                stack.callback(hook.remove)
            stack.enter_context(replaced(forwards))
            return self.network(self.image.expand(images, -1, -1, -1))

    @torch.no_grad()
    def _embedded(self) -> Any:
        """What the patch embedding gives for one image."""
        found: list[Any] = []
        hook = self.body.patch_embed.register_forward_hook(lambda *call: found.append(call[2]))
        try:
            self.network(self.image)
        finally:
            hook.remove()
        return found[0]


@contextmanager
def replaced(forwards: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """While it lasts, these modules compute what is given here."""
    try:
        for module, forward in forwards.items():
            module.forward = forward
        yield
    finally:
        for module in forwards:
            module.__dict__.pop("forward", None)


def unchanged(x: Tensor, *_: Any, **__: Any) -> Tensor:
    """What a block gives that does nothing: its input."""
    return x


def attention_cut(block: nn.Module, blocked: Tensor) -> dict[nn.Module, Forward]:
    """The change that keeps queries of a block from looking at keys: blocked (query, key), bool.

    The rest of each row keeps its proportions and sums to 1.
    """

    def cut(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args, **kwargs
    ) -> Tensor:
        if attn_mask is None:
            mask = ~blocked
        elif attn_mask.dtype == torch.bool:
            mask = attn_mask & ~blocked
        else:
            mask = attn_mask.masked_fill(blocked, -torch.inf)
        return F.scaled_dot_product_attention(query, key, value, mask, *args, **kwargs)

    return {block: _attending(block.forward, cut)}


def attention_off(block: nn.Module) -> dict[nn.Module, Forward]:
    """The change that makes every token of a block look at itself alone."""
    return {block: _attending(block.forward, own_value)}


def own_value(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    """What attention gives whose map is the identity: each token's own value, for every head."""
    return value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)


def cut_to_cls(body: Anatomy) -> Tensor:
    """No token but [CLS] itself looks at [CLS]: (query, key)."""
    is_cls = _is_kind(body, CLS)
    return ~is_cls[:, None] & is_cls


def cut_from_cls(body: Anatomy) -> Tensor:
    """[CLS] looks at itself alone: (query, key)."""
    is_cls = _is_kind(body, CLS)
    return is_cls[:, None] & ~is_cls


def patch_places(body: Anatomy) -> Tensor:
    """Places of the patches along `token`: (patch,)."""
    return _is_kind(body, PATCH).nonzero()[:, 0]


def cls_places(body: Anatomy) -> Tensor:
    """The place of [CLS] along `token`: (1,), or (0,) where there is none."""
    return _is_kind(body, CLS).nonzero()[:, 0]


def exit_compute(network: nn.Module, body: Anatomy) -> list[float]:
    """Share of the model's operations that an exit after each block takes: (block,).

    Multiplications and additions of one image, of the patch embedding, the blocks up to there, and
    what follows the last one. Counted on shapes alone, without computing.
    """
    places = {module: name for name, module in network.named_modules()}
    shadow = copy.deepcopy(network).to("meta").requires_grad_(False)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(torch.zeros(1, *body.image_shape, device="meta"))
    counts = {
        name.removeprefix(f"{type(network).__name__}."): sum(by_operator.values())
        for name, by_operator in counter.get_flop_counts().items()
    }
    total = counter.get_total_flops()
    blocks = [counts.get(places[block], 0) for block in body.blocks]
    return [(total - sum(blocks[number + 1 :])) / total for number in range(len(blocks))]


class Attending(TorchFunctionMode):
    """A context in which `attend` is called in the place of fused attention."""

    def __init__(self, attend: Forward) -> None:
        super().__init__()
        self.attend = attend

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        attends = func is F.scaled_dot_product_attention
        return (self.attend if attends else func)(*args, **(kwargs or {}))


def _attending(forward: Forward, attend: Forward) -> Forward:
    def run(*args: Any, **kwargs: Any) -> Any:
        with Attending(attend):
            return forward(*args, **kwargs)

    return run


def _given(state: Tensor, forward: Forward) -> Forward:
    """The same computation of `state`, whatever it is called with."""
    return lambda x, *args, **kwargs: forward(state.reshape(x.shape), *args, **kwargs)


def _watching(watch: Watch, number: int) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        watch(number, output.flatten(1, 2) if output.ndim == 4 else output)

    return hook


def _repeated(output: Any, images: int) -> Any:
    """What a module gave for one image, for as many."""
    if isinstance(output, tuple):
        return tuple(_repeated(part, images) for part in output)
    if not isinstance(output, Tensor) or output.shape[:1] != (1,):
        return output
    return output.repeat(images, *[1] * (output.ndim - 1))


def _is_kind(body: Anatomy, kind: str) -> Tensor:
    return torch.tensor([found == kind for found in body.kinds], device=body.prefix.device)
