"""How long the tokens of an image usually are, and from where on one is unusual."""

import torch

# Equal norms have a deviation of zero, where rounding alone must not make an outlier.
ROUNDING = 1e-6


def median_and_limit(norm: torch.Tensor, mads: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The median of norms (image, token), and median + `mads`·MAD: (image, 1) each."""
    median = _median(norm)
    deviation = _median((norm - median).abs())
    return median, median + mads * deviation + ROUNDING * median


def _median(values: torch.Tensor) -> torch.Tensor:
    """The mean of the two middle values (image, 1), of which torch's median is the lower."""
    lower, upper = (sign * (sign * values).median(dim=1, keepdim=True).values for sign in (1, -1))
    return (lower + upper) / 2
