"""How long the patch tokens of one image are before positions are added."""

import torch
import xarray as xr

from vitals.errors import VitalsError
from vitals.metrics import axes
from vitals.metrics.reducer import Reducer

EMBED = "embed"


class EmbeddingNorms(Reducer):
    """`norm` and `centred_norm` (image), mean norms of the patch tokens at the tap "embed"."""

    def __init__(self, about: xr.Dataset) -> None:
        super().__init__()
        self.taken, self.attrs = axes.token_indices(about, "patch"), {}
        if self.taken.size < 2:
            raise VitalsError(f"position needs at least 2 patch tokens, found {self.taken.size}")

    def update_tokens(self, tap: str, x: torch.Tensor) -> None:
        if tap == EMBED:
            self.keep("layer", "", dict(zip(("norm", "centred_norm"), mean_norms(x), strict=True)))


def mean_norms(x: torch.Tensor) -> torch.Tensor:
    """Mean token norm of each image, as it is and centred: (variable, image).

    x (image, token, channel), in float64, or centring would leave rounding of what tokens share.
    """
    x = x.double()
    centred = x - x.mean(dim=1, keepdim=True)
    return torch.stack([torch.linalg.vector_norm(v, dim=2).mean(dim=1) for v in (x, centred)])
