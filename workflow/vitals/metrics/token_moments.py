"""The sums over images that a fit of token mixing needs, held in memory or taken pass by pass.

A fit of Z ≈ Σ_r M_r X W_r (M_0 = I) never looks at an image by itself. It solves two kinds of
linear equations: for the channel maps W, given how tokens are mixed, and for the mixing M, given
the channel maps. `SecondMoments` reads both off Σ x_ia x_jb and Σ x_ia z_jc, kept whole, which is
far quicker where (tokens · channels)² numbers fit in memory. `StreamedMoments` takes one pass over
the images each time and holds one block of them. What one answers, the other answers.

In both, P problems are asked at once, `mixing` is (P, R, N, N) and `maps` is (P, R+1, D, D).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

Blocks = Iterator[tuple[np.ndarray, np.ndarray]]


class Source(Protocol):
    """Pairs (x, z) of tokens, centred, float64, (image, token, channel) each, block by block."""

    tokens: int
    channels: int

    def blocks(self, images: np.ndarray) -> Blocks:
        """The pairs of these images, in their order."""
        ...


@dataclass(frozen=True)
class SecondMoments:
    """Both sums in memory; `diagonal` keeps a token's products with itself only."""

    inputs: np.ndarray  # (N·N, D·D): Σ x_ia x_jb at row (i, j), or (N, D·D) at row (i, i)
    cross: np.ndarray  # likewise Σ x_ia z_jc
    energy: float  # Σ z²
    tokens: int
    channels: int
    diagonal: bool = False

    @classmethod
    def of(cls, source: Source, images: np.ndarray) -> "SecondMoments":
        n, d = source.tokens, source.channels
        inputs, cross, energy = np.zeros((n * d, n * d)), np.zeros((n * d, n * d)), 0.0
        for x, z in source.blocks(images):
            x, z = x.reshape(len(x), -1), z.reshape(len(z), -1)
            inputs += x.T @ x
            cross += x.T @ z
            energy += np.square(z).sum()
        return cls(_by_tokens(inputs, n, d), _by_tokens(cross, n, d), energy, n, d)

    def __add__(self, other: "SecondMoments") -> "SecondMoments":
        return self._with(
            self.inputs + other.inputs, self.cross + other.cross, self.energy + other.energy
        )

    def __sub__(self, other: "SecondMoments") -> "SecondMoments":
        return self._with(
            self.inputs - other.inputs, self.cross - other.cross, self.energy - other.energy
        )

    def same_token(self) -> "SecondMoments":
        """The same for a mixing that is diagonal: N times smaller."""
        if self.diagonal:
            return self
        own = np.arange(self.tokens) * (self.tokens + 1)
        small = self._with(self.inputs[own], self.cross[own], self.energy)
        return replace(small, diagonal=True)

    def channel_equations(self, mixing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gram (P, (R+1)D, (R+1)D) of [X, M_1 X, ...] and its products with Z (P, (R+1)D, D)."""
        problems, rank = mixing.shape[:2]
        d = self.channels
        gram = np.empty((problems, rank + 1, d, rank + 1, d))
        cross = np.empty((problems, rank + 1, d, d))
        gram[:, 0, :, 0], cross[:, 0] = self._own
        cross[:, 1:] = self._sum(mixing.swapaxes(-1, -2), self.cross)
        gram[:, 0, :, 1:] = self._sum(mixing, self.inputs).swapaxes(1, 2)
        for r in range(rank):
            gram[:, r + 1, :, 0] = gram[:, 0, :, r + 1].swapaxes(1, 2)
            # Σ (M_r x)_a (M_s x)_b = Σ_jk (M_rᵀ M_s)_jk x_ja x_kb
            products = mixing[:, r, None].swapaxes(-1, -2) @ mixing[:, r:]
            gram[:, r + 1, :, r + 1 :] = self._sum(products, self.inputs).swapaxes(1, 2)
            for s in range(r + 1, rank):
                gram[:, s + 1, :, r + 1] = gram[:, r + 1, :, s + 1].swapaxes(1, 2)
        size = (rank + 1) * d
        return gram.reshape(problems, size, size), cross.reshape(problems, size, d)

    def token_equations(self, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of Y_r = X W_r, r ≥ 1: ΣYYᵀ (P, RN, RN), and ΣYᵀ(Z − X W_0) (P, RN, N)."""
        problems, rank = len(maps), maps.shape[1] - 1
        n = self.tokens
        # Σ y_rj · y_sk = ⟨Σ x_j x_kᵀ, W_r W_sᵀ⟩, for every r ≥ 1 and s ≥ 0
        products = maps[:, 1:, None] @ maps[:, None].swapaxes(-1, -2)  # (P, R, R+1, D, D)
        answers = self._inner(products, self.inputs)  # (P, R, R+1, N, N)
        gram = answers[:, :, 1:].swapaxes(2, 3).reshape(problems, rank * n, rank * n)
        cross = self._inner(maps[:, 1:], self.cross) - answers[:, :, 0]
        return gram, cross.reshape(problems, rank * n, n)

    @cached_property
    def _own(self) -> tuple[np.ndarray, np.ndarray]:
        identity = np.eye(self.tokens)
        return self._sum(identity, self.inputs), self._sum(identity, self.cross)

    def _sum(self, weights: np.ndarray, moments: np.ndarray) -> np.ndarray:
        """Σ_ij weights_ij · moments_ij: (..., N, N) -> (..., D, D)."""
        lead, d = weights.shape[:-2], self.channels
        if self.diagonal:
            rows = np.diagonal(weights, axis1=-2, axis2=-1)
        else:
            rows = weights.reshape(*lead, -1)
        return (rows.reshape(-1, rows.shape[-1]) @ moments).reshape(*lead, d, d)

    def _inner(self, matrices: np.ndarray, moments: np.ndarray) -> np.ndarray:
        """⟨matrices, moments_ij⟩ of every i, j: (..., D, D) -> (..., N, N)."""
        lead, n = matrices.shape[:-2], self.tokens
        values = matrices.reshape(-1, moments.shape[1]) @ moments.T
        if not self.diagonal:
            return values.reshape(*lead, n, n)
        return values.reshape(*lead, 1, n) * np.eye(n)

    def _with(self, inputs: np.ndarray, cross: np.ndarray, energy: float) -> "SecondMoments":
        return replace(self, inputs=inputs, cross=cross, energy=energy)


class StreamedMoments:
    """The same answers from one pass over the images each, with one block of them in memory."""

    def __init__(self, parts: tuple[tuple[Source, np.ndarray], ...], diagonal: bool = False):
        self.parts = parts
        self.diagonal = diagonal
        self.tokens, self.channels = parts[0][0].tokens, parts[0][0].channels

    @classmethod
    def of(cls, source: Source, images: np.ndarray) -> "StreamedMoments":
        return cls(((source, images),))

    def __add__(self, other: "StreamedMoments") -> "StreamedMoments":
        return StreamedMoments(self.parts + other.parts, self.diagonal)

    def __sub__(self, other: "StreamedMoments") -> "StreamedMoments":
        left = tuple(part for part in self.parts if all(part is not gone for gone in other.parts))
        return StreamedMoments(left, self.diagonal)

    def same_token(self) -> "StreamedMoments":
        return StreamedMoments(self.parts, diagonal=True)

    @cached_property
    def energy(self) -> float:
        return float(sum(np.square(z).sum() for _, z in self._blocks()))

    def channel_equations(self, mixing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        problems, rank = mixing.shape[:2]
        size = (rank + 1) * self.channels
        gram = np.zeros((problems, size, size))
        cross = np.zeros((problems, size, self.channels))
        for x, z in self._blocks():
            z = z.reshape(-1, self.channels)
            for p in range(problems):
                # (image, token, (R+1)·D): the token itself, then what each mixing brings to it
                features = np.concatenate([x, *(m @ x for m in mixing[p])], axis=2)
                features = features.reshape(-1, size)
                gram[p] += features.T @ features
                cross[p] += features.T @ z
        return gram, cross

    def token_equations(self, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        problems, rank, n = len(maps), maps.shape[1] - 1, self.tokens
        gram, cross = np.zeros((problems, rank * n, rank * n)), np.zeros((problems, rank * n, n))
        for x, z in self._blocks():
            for p in range(problems):
                residual = _token_rows(z - x @ maps[p, 0])
                mapped = np.concatenate([_token_rows(x @ w) for w in maps[p, 1:]])
                gram[p] += mapped @ mapped.T
                cross[p] += mapped @ residual.T
        if self.diagonal:
            own = np.eye(n)
            gram, cross = gram * np.tile(own, (rank, rank)), cross * np.tile(own, (rank, 1))
        return gram, cross

    def _blocks(self) -> Blocks:
        for source, images in self.parts:
            yield from source.blocks(images)


Moments = SecondMoments | StreamedMoments


def _by_tokens(moments: np.ndarray, n: int, d: int) -> np.ndarray:
    """(N·D, N·D) -> (N·N, D·D)."""
    return moments.reshape(n, d, n, d).swapaxes(1, 2).reshape(n * n, d * d)


def _token_rows(x: np.ndarray) -> np.ndarray:
    """(image, N, D) -> (N, image · D)."""
    return x.swapaxes(0, 1).reshape(x.shape[1], -1)
