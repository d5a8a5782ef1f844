"""From a picture to what a model takes: timm's own evaluation transform, in two steps.

`prepare` cuts and scales one picture on the CPU and leaves bytes, which are small to keep and to
send; calling the transform normalises a batch of them where the model is.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import metadata

import vitals.models.torchvision_operators  # noqa: F401  (must come before timm)

# isort: split
import numpy as np
import timm
import torch
from PIL import Image
from torch import nn

from vitals.errors import VitalsError
from vitals.models.anatomy import input_shape
from vitals.provenance import canonical, digest_of

COLOURS = {1: "L", 3: "RGB"}  # Pillow's mode for each number of channels
LEVELS = 255
PREPARING = ("pillow", "timm", "torchvision")


@dataclass(frozen=True)
class Transform:
    """How a model's images are made.

    mean, std: of each channel, of values in [0, 1]; size: channel, row, column; crop_pct: the share
    of the scaled picture that is left by the crop; crop_mode: "center" (shorter side scaled, middle
    cut out), "squash" (both sides scaled) or "border" (longer side scaled, the rest filled).
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int, int]
    interpolation: str
    crop_pct: float
    crop_mode: str

    def prepare(self, picture: Image.Image | np.ndarray) -> np.ndarray:
        """A picture as bytes of `size`; an array of values in [0, 1], of that size, as it is.

        Raises VitalsError for an array of another size, and for pictures where the model takes
        neither grey nor coloured ones.
        """
        if isinstance(picture, np.ndarray):
            if picture.shape != self.size:
                raise VitalsError(
                    f"the model takes images of {self.size} (channel, row, column), found an array "
                    f"of {picture.shape}"
                )
            return picture
        channels = self.size[0]
        if channels not in COLOURS:
            raise VitalsError(f"pictures have 1 or 3 channels: the model takes {channels}")
        return self._cut(picture.convert(COLOURS[channels])).numpy()

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Bytes, or values in [0, 1], (image, channel, row, column) -> normalised, float32."""
        values = pixels.to(torch.float32)
        if pixels.dtype == torch.uint8:
            values = values.div_(LEVELS)
        mean, std = (
            torch.tensor(of_channel, device=pixels.device)[:, None, None]
            for of_channel in (self.mean, self.std)
        )
        return (values - mean) / std

    @property
    def key(self) -> str:
        """The same for transforms that prepare every picture alike, whatever they do to it then."""
        fields = asdict(self)
        del fields["std"]
        if self.crop_mode != "border":  # filled with the mean
            del fields["mean"]
        fields["made_by"] = {package: metadata.version(package) for package in PREPARING}
        return digest_of(canonical(fields).encode())

    @cached_property
    def _cut(self) -> Callable[[Image.Image], torch.Tensor]:
        return timm.data.create_transform(
            input_size=self.size,
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
            crop_pct=self.crop_pct,
            crop_mode=self.crop_mode,
            use_prefetcher=True,  # bytes, not yet normalised
        )


def transform(model: nn.Module) -> Transform:
    """The transform that timm resolves for a model, at the model's own size, its mean for grey."""
    size = input_shape(model)
    config = timm.data.resolve_data_config(model=model)
    mean, std = (tuple(map(float, config[key])) for key in ("mean", "std"))
    if len(mean) != size[0]:
        mean, std = ((sum(values) / len(values),) * size[0] for values in (mean, std))
    return Transform(
        mean, std, size, config["interpolation"], float(config["crop_pct"]), config["crop_mode"]
    )
