"""What would an arm recover if a tap were the embedding plus noise, and nothing had been mixed?

Neighbouring patches of natural images resemble each other, so all tokens together denoise a token
even where no information moved. This null says by how much: X := Z + σε with isotropic Gaussian ε,
and σ such that a token by itself recovers as much as it was measured to.

Moments of Z + σε are a quadratic in σ. They are put together from those of Z and of ε, so that
another σ needs no pass over the images where moments are held in memory.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
from scipy.optimize import brentq

from vitals.metrics.token_mixing import fit_same_token, held_out_error
from vitals.metrics.token_moments import Moments, SecondMoments, StreamedMoments
from vitals.metrics.token_pairs import NoisePairs, NoisyPairs

MATCH = 1e-6  # how near the null's r2_self comes to the measured one
FIRST_STEP, LAST_STEP = 0.05, 20.0  # of the search, in log σ


class NoisyMoments:
    """Moments of (Z + σε, Z) over some images, for any σ, in memory."""

    def __init__(self, embedding: SecondMoments, noise: SecondMoments):
        self.embedding, self.noise = embedding, noise  # of (Z, Z), and of (ε, Z)
        n, d = noise.tokens, noise.channels
        # Σ z_ia ε_jb is Σ ε_jb z_ia with both index pairs turned around
        if noise.diagonal:
            turned = noise.cross.reshape(n, d, d).swapaxes(1, 2)
        else:
            turned = noise.cross.reshape(n, n, d, d).transpose(1, 0, 3, 2)
        self.mixed = noise.cross + turned.reshape(noise.cross.shape)

    def at(self, scale: float) -> SecondMoments:
        """The moments where σ is `scale`."""
        inputs = self.embedding.inputs + scale * self.mixed + scale**2 * self.noise.inputs
        cross = self.embedding.cross + scale * self.noise.cross
        return replace(self.embedding, inputs=inputs, cross=cross)

    def same_token(self) -> "NoisyMoments":
        """The same for a mixing that is diagonal."""
        return NoisyMoments(self.embedding.same_token(), self.noise.same_token())

    def __add__(self, other: "NoisyMoments") -> "NoisyMoments":
        return NoisyMoments(self.embedding + other.embedding, self.noise + other.noise)


class StreamedNoisyMoments:
    """The same from passes over the images."""

    def __init__(self, parts: tuple[tuple[NoisePairs, np.ndarray], ...], diagonal: bool = False):
        self.parts, self.diagonal = parts, diagonal

    def at(self, scale: float) -> StreamedMoments:
        """The moments where σ is `scale`."""
        noisy = tuple((NoisyPairs(noise, scale), images) for noise, images in self.parts)
        return StreamedMoments(noisy, self.diagonal)

    def same_token(self) -> "StreamedNoisyMoments":
        """The same for a mixing that is diagonal."""
        return StreamedNoisyMoments(self.parts, diagonal=True)

    def __add__(self, other: "StreamedNoisyMoments") -> "StreamedNoisyMoments":
        return StreamedNoisyMoments(self.parts + other.parts, self.diagonal)


class NoiseNull:
    """The null of one dataset: its fit images in parts, its test images, and one draw of ε."""

    def __init__(self, noise: NoisePairs, parts: list[np.ndarray], test: np.ndarray, memory: bool):
        self.noise = noise
        if memory:
            self.parts = [_noisy_moments(noise, images) for images in parts]
            self.test = _noisy_moments(noise, test).same_token()
        else:
            self.parts = [StreamedNoisyMoments(((noise, images),)) for images in parts]
            self.test = StreamedNoisyMoments(((noise, test),), diagonal=True)
        own = [part.same_token() for part in self.parts]
        self.whole = sum(own[1:], start=own[0])
        self.variances = self._variances(sum(images.size for images in parts))

    def moments(self, scale: float) -> list[Moments]:
        """The moments of each part of the fit images where σ is `scale`."""
        return [part.at(scale) for part in self.parts]

    def pairs(self, scale: float) -> NoisyPairs:
        """(Z + σε, Z) where σ is `scale`."""
        return NoisyPairs(self.noise, scale)

    def matching_scale(self, r2_self: float, scaled: bool, **settings: float) -> float:
        """The σ at which a token by itself recovers `r2_self` of its embedding.

        0 where nothing is lost and infinity where nothing is recovered. In between r2_self(σ) is
        fitted and scored anew at each σ, always with the same ε. The search starts where it would
        be for one map of all tokens: Σ λ²/(λ+σ²) / Σ λ over the variances λ of the embedding.
        """
        if r2_self >= 1:
            return 0.0

        @cache  # the search comes back to its bounds
        def excess(log_scale: float) -> float:
            difference = self._r2_self(np.exp(log_scale), scaled, **settings) - r2_self
            return 0.0 if abs(difference) < MATCH else difference

        def expected_excess(log_scale: float) -> float:
            kept = np.square(self.variances) / (self.variances + np.exp(2 * log_scale))
            return kept.sum() / self.variances.sum() - r2_self

        middle = np.log(self.variances.max()) / 2
        start = _root(expected_excess, middle)
        return float(np.exp(_root(excess, start))) if np.isfinite(start) else np.inf

    def _r2_self(self, scale: float, scaled: bool, **settings: float) -> float:
        fitted = fit_same_token(self.whole.at(scale), scaled, **settings)
        test = self.test.at(scale)
        return 1 - held_out_error(test, fitted)[0] / test.energy

    def _variances(self, images: int) -> np.ndarray:
        """Variances of the embedding along its principal channels, over images and tokens."""
        n, d = self.noise.tokens, self.noise.channels
        gram, _ = self.whole.at(0.0).channel_equations(np.zeros((1, 1, n, n)))
        return np.linalg.eigvalsh(gram[0, :d, :d]).clip(min=0) / (images * n)


def _noisy_moments(noise: NoisePairs, images: np.ndarray) -> NoisyMoments:
    embedding = SecondMoments.of(NoisyPairs(noise, 0.0), images)
    return NoisyMoments(embedding, SecondMoments.of(noise, images))


def _root(decreasing: Callable[[float], float], start: float) -> float:
    """Where a decreasing function of log σ crosses zero; ±infinity where it never does."""
    low = high = start
    below = above = decreasing(start)
    step = FIRST_STEP
    while below < 0 and step < LAST_STEP:
        low, high, above = low - step, low, below
        below, step = decreasing(low), 2 * step
    while above > 0 and step < LAST_STEP:
        low, high, below = high, high + step, above
        above, step = decreasing(high), 2 * step
    if below < 0 or above > 0:
        return -np.inf if below < 0 else np.inf
    if below == 0 or above == 0:
        return low if below == 0 else high
    return brentq(decreasing, low, high, xtol=1e-9)
