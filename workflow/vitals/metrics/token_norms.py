"""How long the tokens of an image usually are, and from where on one is unusual."""

import torch

# Equal norms have a deviation of zero, where rounding alone must not make an outlier.
ROUNDING = 1e-6


def median_and_limit(norm: torch.Tensor, mads: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The median of norms (image, token), and median + `mads`·MAD: (image, 1) each."""
    # quantile, because torch.median returns the lower of two middle values
    median = norm.quantile(0.5, dim=1, keepdim=True)
    deviation = (norm - median).abs().quantile(0.5, dim=1, keepdim=True)
    return median, median + mads * deviation + ROUNDING * median
