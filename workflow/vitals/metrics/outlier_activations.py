"""The few activations and tokens that are far larger than the rest, and where they are."""

import numpy as np
import torch

from vitals.metrics.token_norms import median_and_limit


def activation_ratios(x: torch.Tensor) -> torch.Tensor:
    """|x| over its median in the image, x (image, token, channel); NaN where the median is 0.

    Source: Sun et al. 2024, Massive Activations in Large Language Models, sections 2 and 5.
    """
    size = x.abs()
    median = size.flatten(1).median(dim=1).values
    return size / median.where(median > 0, torch.nan)[:, None, None]


def high_norms(x: torch.Tensor, mads: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Which patch tokens x (image, patch, channel) are far longer than usual in their image.

    Returns whether ‖x‖ > median + `mads`·MAD of the image's own norms (image, patch), and the
    largest norm over the median (image,), NaN where the median is 0. Darcet et al. take one cut for
    a model, read off the histogram of its norms; this one needs no eye, and no scale.
    Source: Darcet et al. 2024, Vision Transformers Need Registers, section 2.
    """
    norm = x.norm(dim=-1)
    median, limit = median_and_limit(norm, mads)
    return norm > limit, (norm.amax(dim=1, keepdim=True) / median.where(median > 0, torch.nan))[
        :, 0
    ]


def largest_channels(peaks: np.ndarray, channels: int) -> np.ndarray:
    """The channels whose mean peak over images is largest, the first first: (place,).

    peaks (image, channel): the largest ratio of each channel over the tokens of an image.
    """
    defined = peaks[np.isfinite(peaks).all(axis=1)]
    mean = defined.mean(axis=0) if len(defined) else np.zeros(peaks.shape[1])
    return np.argsort(-mean, kind="stable")[:channels]
