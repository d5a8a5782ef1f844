"""Which parameters of a model were given a value by the weights that it was loaded with."""

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


class Filled(TorchFunctionMode):
    """Sees which tensors of a model are copied into while it is made: those that weights gave.

    Loaders leave what a file has not as it was drawn, some without a word.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tensors: dict[int, torch.Tensor] = {}  # kept, so that no other takes an identity

    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Note the target of a copy, and let every call through."""
        if function is torch.Tensor.copy_:
            self.tensors[id(args[0])] = args[0]
        return function(*args, **(kwargs or {}))

    def missing(self, model: nn.Module) -> list[str]:
        """Names of the parameters and buffers that nothing was copied into."""
        state = model.state_dict(keep_vars=True)
        return [
            name
            for name, tensor in state.items()
            if tensor.is_floating_point() and id(tensor) not in self.tensors
        ]
