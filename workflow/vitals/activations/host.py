"""What a pass leaves on its device, on the way to the host: cast there, copied without waiting."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vitals.errors import VitalsError

# the least magnitude that rounds to infinity
OVERFLOW = {"float16": 65520.0, "float32": float("inf")}


class Buffers:
    """Memory of a device that is used again, for a CPU gives fresh memory slowly."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._free: dict[tuple[object, ...], list[Tensor]] = defaultdict(list)

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor of this shape and type, of any content."""
        free = self._free[(*shape, dtype)]
        return free.pop() if free else torch.empty(tuple(shape), dtype=dtype, device=self.device)

    def give(self, tensor: Tensor) -> None:
        """Take back a tensor that nobody reads any more."""
        if self.device.type == "cpu":  # accelerators keep their memory themselves
            self._free[(*tensor.shape, tensor.dtype)].append(tensor)


class Cast:
    """One array of a storage type from one tensor a layer, cast as they come.

    shape: of the tensor of a layer. Nothing is waited for: `array` is called where what was sent
    has arrived.
    """

    def __init__(
        self, layers: Sequence[str], shape: Sequence[int], storage: str, buffers: Buffers
    ) -> None:
        self.layers, self.storage, self.buffers = tuple(layers), storage, buffers
        self.values = buffers.take((len(layers), *shape), getattr(torch, storage))
        self.extremes: list[Tensor] = []  # by layer, least and largest

    def put(self, value: Tensor) -> None:
        """The tensor of the next layer."""
        self.values[len(self.extremes)].copy_(value)
        self.extremes.append(torch.stack(value.aminmax()))

    def send(self) -> None:
        """Begin the copies to the host."""
        self.sent, self.sent_extremes = to_host(self.values), stacked(self.extremes)

    def array(self) -> np.ndarray:
        """The array (layer, image, ...); VitalsError, naming the layer, where a value overflows."""
        fits = (self.sent_extremes.abs() < OVERFLOW[self.storage]).all(dim=1)  # false for NaN
        if not fits.all():
            layer = int((~fits).nonzero()[0])
            if not self.sent_extremes[layer].isfinite().all():
                raise VitalsError(f"the model gives NaN or infinity at {self.layers[layer]}")
            raise VitalsError(
                f"a value at {self.layers[layer]} does not fit {self.storage}: "
                "set activations.storage to float32"
            )
        return self.sent.numpy()

    def release(self) -> None:
        """The array has been written."""
        self.buffers.give(self.values)


class Arrival:
    """When all that was sent to the host before now is there."""

    def __init__(self, device: torch.device) -> None:
        self.event = torch.cuda.Event() if device.type == "cuda" else None
        if self.event is not None:
            self.event.record(torch.cuda.current_stream(device))

    def wait(self) -> None:
        """Return when it is."""
        if self.event is not None:
            self.event.synchronize()


def to_host(tensor: Tensor) -> Tensor:
    """The tensor in the host's memory, once its `Arrival` says so; itself where it is there."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return pinned.copy_(tensor, non_blocking=True)


def stacked(values: Sequence[Tensor]) -> Tensor:
    """One float32 tensor of the host from one a layer or block."""
    return to_host(torch.stack(list(values)).float())
