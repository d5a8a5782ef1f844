"""What a pass leaves on its device, on the way to the host: cast there, copied without waiting."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from vitals.errors import VitalsError

# the least magnitude that rounds to infinity
OVERFLOW = {"float16": 65520.0, "float32": float("inf")}


class Cast:
    """One tensor a layer as one array of a storage type, with what shows that it could hold them.

    values: (image, ...) a layer, of the same shape. Nothing is waited for: `array` is called later,
    where the copy has arrived.
    """

    def __init__(self, values: Mapping[str, Tensor], storage: str) -> None:
        self.layers, self.storage = tuple(values), storage
        tensors = list(values.values())
        dtype = getattr(torch, storage)
        cast = torch.empty((len(tensors), *tensors[0].shape), dtype=dtype, device=tensors[0].device)
        for place, tensor in zip(cast, tensors, strict=True):
            place.copy_(tensor)
        extremes = torch.stack([torch.stack(tensor.aminmax()) for tensor in tensors])
        self._cast, self._extremes = to_host(cast), to_host(extremes)  # (layer, ...), (layer, 2)

    def array(self) -> np.ndarray:
        """The array (layer, image, ...); VitalsError, naming the layer, where a value overflows."""
        fits = (self._extremes.abs() < OVERFLOW[self.storage]).all(dim=1)  # false for NaN
        if not fits.all():
            layer = int((~fits).nonzero()[0])
            if not self._extremes[layer].isfinite().all():
                raise VitalsError(f"the model gives NaN or infinity at {self.layers[layer]}")
            raise VitalsError(
                f"a value at {self.layers[layer]} does not fit {self.storage}: "
                "set activations.storage to float32"
            )
        return self._cast.numpy()


def to_host(tensor: Tensor) -> Tensor:
    """The tensor in the host's memory, once `Arrival` says so; itself where it is there already."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return pinned.copy_(tensor, non_blocking=True)


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


def stacked(values: Sequence[Tensor]) -> Tensor:
    """One float32 tensor of the host from one a layer or block."""
    return to_host(torch.stack(list(values)).float())
