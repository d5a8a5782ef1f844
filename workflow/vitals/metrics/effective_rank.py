"""How many dimensions a cloud of tokens fills, from the spectrum of its covariance.

>>> import numpy as np
>>> effective_rank(np.array([2.0, 2.0, 2.0, 0.0])).round(9).item()
3.0
>>> participation_ratio(np.array([2.0, 2.0, 2.0, 0.0])).round(9).item()
3.0
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr

from vitals.metrics import axes


def effective_rank(variances: np.ndarray) -> np.ndarray:
    """exp(−Σ p log p) of the normalised singular values p = σ/Σσ, σ = √variance: (...,).

    variances (..., direction): the eigenvalues of the covariance. NaN where all are zero.
    Source: Roy & Vetterli 2007, definition 1.
    """
    singular = np.sqrt(np.maximum(variances, 0))
    total = singular.sum(axis=-1, keepdims=True)
    share = np.divide(singular, total, out=np.zeros_like(singular), where=total > 0)
    entropy = -(share * np.log(np.where(share > 0, share, 1))).sum(axis=-1)
    return np.where(total[..., 0] > 0, np.exp(entropy), np.nan)


def participation_ratio(variances: np.ndarray) -> np.ndarray:
    """(Σλ)² / Σλ² of the eigenvalues λ of the covariance (..., direction): (...,); NaN without any.

    Source: Gao et al. 2017, A theory of multineuronal dimensionality, equation 4.
    """
    # of the shares, because the squares of small eigenvalues can underflow
    total = variances.sum(axis=-1, keepdims=True)
    share = np.divide(variances, total, out=np.zeros_like(variances), where=total > 0)
    energy = np.square(share).sum(axis=-1)
    return np.divide(1, energy, out=np.full_like(energy, np.nan), where=energy > 0)


@dataclass(frozen=True)
class Spectrum:
    """energies (image, direction): each image's mean square of its patch tokens along the principal
    directions of all images' patch tokens, about their common mean.
    """

    energies: np.ndarray

    @property
    def variances(self) -> np.ndarray:
        """The eigenvalues of the covariance: (direction,)."""
        return self.energies.mean(axis=0)

    def resampled(self, counts: np.ndarray) -> np.ndarray:
        """The variances of resampled images along the same directions: (draw, direction).

        counts (draw, image), rows that sum to the number of images. To first order in what a
        resample changes, these are its own eigenvalues: directions turn to second order only.
        """
        return counts.astype(np.float64) @ self.energies / len(self.energies)


def spectrum(tokens: xr.DataArray, patches: np.ndarray, device: torch.device) -> Spectrum:
    """The principal directions of the patch tokens of all images at a tap, and who fills them.

    tokens (image, token, channel) of one tap. Two passes in (channel, channel) memory; the first is
    about the mean of its first block, so no common part cancels. float64 throughout: a singular
    value is a square root, and float32 products would leave 3e-4 of the largest in each empty
    direction.
    """
    shift, total, gram, count = None, 0.0, 0.0, 0
    for x in blocks(tokens, patches, device):
        flat = x.flatten(0, 1)  # (image · patch, channel)
        shift = flat.mean(dim=0) if shift is None else shift
        flat = flat - shift
        total, gram, count = total + flat.sum(dim=0), gram + flat.mT @ flat, count + len(flat)
    mean = total / count
    _, directions = torch.linalg.eigh(gram / count - torch.outer(mean, mean))
    center = shift + mean
    energies = [
        ((x - center) @ directions).square().mean(dim=1).cpu().numpy()
        for x in blocks(tokens, patches, device)
    ]
    return Spectrum(np.concatenate(energies))


def image_variances(x: torch.Tensor) -> np.ndarray:
    """The eigenvalues of each image's own covariance over its patches x (image, patch, channel).

    The smaller of (patch, patch) and (channel, channel) is formed: (image, min(patch, channel)).
    """
    centered = x - x.mean(dim=1, keepdim=True)
    small = x.shape[1] < x.shape[2]
    gram = centered @ centered.mT if small else centered.mT @ centered
    found = torch.linalg.eigvalsh(gram / x.shape[1])
    # What is left of an empty direction is rounding of the largest eigenvalue, and no variance.
    rounding = torch.finfo(found.dtype).eps * found.shape[-1] * found[:, -1:]
    # Of patches that are all alike, it is rounding of their energy.
    alike = (
        found[:, -1:] <= torch.finfo(found.dtype).eps * x.square().sum(dim=-1).mean(dim=1)[:, None]
    )
    return torch.where((found > rounding) & ~alike, found, 0.0).cpu().numpy()


def blocks(tokens: xr.DataArray, taken: np.ndarray, device: torch.device) -> Iterator[torch.Tensor]:
    """Blocks of the taken tokens of one tap, (image, token, channel), in float64."""
    for _, values in axes.image_blocks(tokens.transpose("image", "token", "channel")):
        yield torch.from_numpy(values[:, taken]).to(device).double()
