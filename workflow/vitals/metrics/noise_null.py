"""What would an arm recover if a tap were the embedding plus noise, and nothing had been mixed?

Neighbouring patches of natural images resemble each other, so all tokens together denoise a token
even where no information moved. This null says by how much: X := Z + σε with isotropic Gaussian ε,
and σ such that a token by itself recovers as much as it was measured to.

Sums over Z + σε are a quadratic in σ. Those that "self" is fitted from are put together from those
of Z and of ε, so that another σ needs no pass over the fit images.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from vitals.metrics.token_mixing import fit_same_token
from vitals.metrics.token_moments import SecondMoments, predicted
from vitals.metrics.token_pairs import (
    NoiseTokens,
    Pairs,
    Spread,
    Stack,
    empty,
    gathered,
    sizes,
    spread,
)

MATCH = 1e-6  # how near the null's r2_self comes to the measured one
FIRST_STEP, LAST_STEP = 0.05, 20.0  # of the search, in log σ


@dataclass(frozen=True)
class NoisyPairs:
    """x the embedding plus `scale` times noise; z the embedding in its channels from `first` on."""

    noise: Stack
    embedding: Stack
    scale: float
    first: int
    like: Tensor

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(z + σε, z), (token, image, channel) each."""
        for noise, z in zip(self.noise, self.embedding, strict=True):
            z = z.to(self.like.device)
            yield z + self.scale * noise.to(z.device), z[..., self.first :]


class NoiseNull:
    """The null of one dataset: one draw of ε for its images, in groups of which the last tests.

    embedding: on all principal channels, of which those from `first` on are rebuilt.
    """

    def __init__(
        self,
        embedding: list[Stack],
        channels: Spread,
        first: int,
        groups: Sequence[np.ndarray],
        seed: int,
    ):
        self.embedding, self.first, self.groups = embedding, first, groups
        self.variances, rotation = channels.principal
        self.identity = torch.eye(len(rotation)).to(rotation)
        tokens = NoiseTokens(len(channels.mean), len(rotation), seed)
        fit = np.sort(np.concatenate(groups[:-1]))
        mean = spread(tokens, fit, rotation.device).mean
        kind = embedding[0][0].dtype
        self.noise = gathered(tokens, groups, mean, rotation, kind)

    def pairs(self, scale: float) -> list[Pairs]:
        """(Z + σε, Z) of each group where σ is `scale`, in channels of unit variance."""
        fit = self._at(scale)
        rows = sum(group.size for group in self.groups[:-1]) * fit.tokens
        covariance = fit.inputs.sum(dim=0).reshape(self.identity.shape) / rows
        basis = Spread(covariance, covariance).whitening()
        images, like = sizes(self.groups), self.noise[0][0]
        inputs = empty(images, fit.tokens, basis.shape[1], like.dtype, self.identity.device)
        for stack, noisy in zip(inputs, self._noisy(scale), strict=True):
            for block, (x, _) in zip(stack, noisy.blocks(), strict=True):
                block.copy_(x.double() @ basis)
        unchanged = basis.T @ covariance[:, self.first :]
        return [
            Pairs(stack, self._rebuilt(targets), unchanged)
            for stack, targets in zip(inputs, self.embedding, strict=True)
        ]

    def matching_scale(
        self, r2_self: float, scaled: bool, total: float, **settings: float
    ) -> float:
        """The σ at which a token by itself recovers `r2_self` of its embedding.

        0 where nothing is lost and infinity where nothing is recovered. In between r2_self(σ) is
        fitted and scored anew at each σ, always with the same ε. The search starts where it would
        be for one map of all tokens: Σ λ²/(λ+σ²) / Σ λ over the variances λ of the embedding.
        """
        if r2_self >= 1:
            return 0.0
        variances = self.variances.cpu().numpy()

        start: Tensor | None = None  # of the next fit: the mixing at the σ before

        @cache  # the search comes back to its bounds
        def excess(log_scale: float) -> float:
            nonlocal start
            lost, start = self._lost(float(np.exp(log_scale)), scaled, start=start, **settings)
            difference = 1 - lost / total - r2_self
            return 0.0 if abs(difference) < MATCH else difference

        def expected_excess(log_scale: float) -> float:
            kept = np.square(variances) / (variances + np.exp(2 * log_scale))
            return kept.sum() / variances.sum() - r2_self

        expected = _root(expected_excess, np.log(variances.max()) / 2)
        return float(np.exp(_root(excess, expected))) if np.isfinite(expected) else np.inf

    def _lost(
        self, scale: float, scaled: bool, **settings: float | Tensor | None
    ) -> tuple[float, Tensor]:
        """Σ‖z − ẑ‖² over the test images, "self" fitted where σ is `scale`, and its mixing."""
        fitted = fit_same_token(self._at(scale), scaled, **settings)
        maps, mixing = fitted.maps[0], fitted.mixing[0]
        test = self._noisy(scale)[-1].blocks()
        errors = ((z - predicted(x, maps, mixing)).double().square().sum() for x, z in test)
        return float(sum(errors)), mixing

    def _noisy(self, scale: float) -> list[NoisyPairs]:
        return [
            NoisyPairs(noise, embedding, scale, self.first, self.identity)
            for noise, embedding in zip(self.noise, self.embedding, strict=True)
        ]

    def _at(self, scale: float) -> SecondMoments:
        """What "self" is fitted from where σ is `scale`."""
        embedding, noise = self._fit_moments
        d = len(self.identity)
        across = noise.cross.reshape(-1, d, d)  # Σ ε z; Σ z ε is its transpose
        inputs = torch.add(embedding.inputs, noise.inputs, alpha=scale**2).reshape(-1, d, d)
        inputs.add_(across, alpha=scale).add_(across.mT, alpha=scale)
        rebuilt = across[:, :, self.first :].flatten(1)
        cross = torch.add(embedding.cross, rebuilt, alpha=scale)
        return replace(embedding, inputs=inputs.flatten(1), cross=cross)

    def _rebuilt(self, embedding: Stack) -> Stack:
        return [block[..., self.first :] for block in embedding]

    @cached_property
    def _fit_moments(self) -> tuple[SecondMoments, SecondMoments]:
        """Of (Z, Z) and of (ε, Z)."""
        fit = list(zip(self.noise, self.embedding, strict=True))[:-1]
        unchanged = self.identity[:, self.first :]
        return tuple(
            SecondMoments.of_same_token(parts)
            for parts in (
                tuple(Pairs(z, self._rebuilt(z), unchanged) for _, z in fit),
                tuple(Pairs(noise, z, self.identity) for noise, z in fit),
            )
        )


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
