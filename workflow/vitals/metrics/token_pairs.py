"""Pairs (x, z) of patch tokens, block by block of images: a tap, or noise, against the embedding.

All are centred per token position with means over the fit split, float64, and read lazily: one
block of images of a tap is in memory at a time.
"""

import numpy as np
import xarray as xr

from vitals.errors import VitalsError
from vitals.metrics import axes
from vitals.metrics.token_moments import Blocks


class TapPairs:
    """x the patch tokens of a tap, z those of the tap "embed"."""

    def __init__(self, inputs: xr.DataArray, targets: xr.DataArray, fit: np.ndarray):
        order = ("image", "token", "channel")
        self.inputs, self.targets = inputs.transpose(*order), targets.transpose(*order)
        self.tokens, self.channels = (self.targets.sizes[dim] for dim in order[1:])
        self.input_mean, self.target_mean = self._means(fit)

    def blocks(self, images: np.ndarray) -> Blocks:
        """(x, z) of these images, (image, token, channel) each."""
        for x, z in self._raw(images):
            yield x - self.input_mean, z - self.target_mean

    def _raw(self, images: np.ndarray) -> Blocks:
        for block, z in axes.image_blocks(self.targets.isel(image=images)):
            x = self._inputs(images[block])
            if not (np.isfinite(x).all() and np.isfinite(z).all()):
                raise VitalsError(
                    f"the tokens of images {images[block][0]} to {images[block][-1]} hold NaN or "
                    "infinity, expected finite numbers"
                )
            yield x.astype(np.float64), z.astype(np.float64)

    def _inputs(self, images: np.ndarray) -> np.ndarray:
        return self.inputs.isel(image=images).values

    def _means(self, fit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sums = [np.zeros((self.tokens, self.channels)) for _ in range(2)]
        for pair in self._raw(fit):
            for total, values in zip(sums, pair, strict=True):
                total += values.sum(axis=0)
        return sums[0] / fit.size, sums[1] / fit.size


class NoisePairs(TapPairs):
    """x standard normal noise, the same for an image at every reading; z the embedding."""

    def __init__(self, targets: xr.DataArray, fit: np.ndarray, seed: int):
        self.seed = seed
        super().__init__(targets, targets, fit)

    def _inputs(self, images: np.ndarray) -> np.ndarray:
        shape = (self.tokens, self.channels)
        generators = (np.random.default_rng([self.seed, image]) for image in images)
        return np.stack([generator.standard_normal(shape) for generator in generators])


class NoisyPairs:
    """x the embedding plus `scale` times the noise of `noise`; z the embedding."""

    def __init__(self, noise: NoisePairs, scale: float):
        self.noise, self.scale = noise, scale
        self.tokens, self.channels = noise.tokens, noise.channels

    def blocks(self, images: np.ndarray) -> Blocks:
        """(z + scale·ε, z) of these images, (image, token, channel) each."""
        for epsilon, z in self.noise.blocks(images):
            yield z + self.scale * epsilon, z
