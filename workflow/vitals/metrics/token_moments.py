"""The sums over images that a fit of token mixing needs, held in memory or taken pass by pass.

A fit of Z ≈ Σ_r M_r X W_r (M_0 = I) never looks at an image by itself. It solves two kinds of
linear equations: for the channel maps W, given how tokens are mixed, and for the mixing M, given
the channel maps. `SecondMoments` reads both off Σ x_ia x_jb and Σ x_ia z_jc, kept whole in float64
where (tokens · channels)² numbers fit in memory: a sweep costs the same for any number of images.
`StreamedMoments` takes one pass over
the images each time and holds one block of them. What one answers, the other answers. A mixing that
is diagonal needs N·D² numbers only, which are always held.

x has M ≥ N places: the N tokens that z has, then those that are context alone. P problems are asked
at once, `mixing` is (P, R, N, M) and `maps` (P, R+1, D, E). Products are of the type of the blocks,
sums of blocks in float64.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from vitals.metrics.token_pairs import Pairs

# Exactly collinear regressors are told apart by a ridge this far below the equations' own scale:
# beyond the rounding of the products, and too little to be seen in a share recovered.
JITTER = {torch.float64: 1e-10, torch.float32: 1e-6}
# Numbers of products that stand in memory at once: few on a CPU, which gives fresh memory slowly,
# and many on a GPU, where few large kernels are the fast ones.
PRODUCTS, GPU_PRODUCTS = 2**20, 2**26


@dataclass(frozen=True)
class SecondMoments:
    """Both sums in memory; `diagonal` keeps a token's products with itself only."""

    inputs: Tensor  # (M·M, D·D): Σ x_ia x_jb at row (i, j), or (N, D·D) at row i for (i, i)
    cross: Tensor  # (M·N, D·E): Σ x_ia z_jc, or (N, D·E)
    energy: float  # Σ z²
    tokens: int
    places: int
    channels: int
    unchanged: Tensor  # (D, E): what leaves channels as they are
    jitter: float = JITTER[torch.float64]
    diagonal: bool = False
    together: ClassVar[bool] = True  # several problems cost little more than one

    @classmethod
    def of(cls, pairs: Pairs) -> "SecondMoments":
        inputs, cross, energy = 0.0, 0.0, 0.0
        for x, z in pairs.blocks():
            (m, _, d), (n, _, e) = x.shape, z.shape
            x, z = (v.transpose(0, 1).reshape(v.shape[1], -1).double() for v in (x, z))
            inputs, cross = inputs + x.T @ x, cross + x.T @ z
            energy += z.square().sum().item()
        inputs = inputs.reshape(m, d, m, d).transpose(1, 2).reshape(m * m, d * d)
        cross = cross.reshape(m, d, n, e).transpose(1, 2).reshape(m * n, d * e)
        return cls(inputs, cross, energy, n, m, d, pairs.unchanged)

    @classmethod
    def of_same_token(cls, parts: tuple[Pairs, ...]) -> "SecondMoments":
        """The same for a mixing that is diagonal, in one pass."""
        x, z = next(parts[0].blocks())
        (m, _, d), (n, _, e) = x.shape, z.shape
        inputs = torch.zeros((n, d, d), dtype=torch.float64, device=x.device)
        cross, energy = inputs.new_zeros((n, d, e)), inputs.new_zeros(())
        most = GPU_PRODUCTS if x.device.type == "cuda" else PRODUCTS
        at_once = max(1, most // (d * max(d, e)))  # tokens
        for pairs in parts:
            for x, z in pairs.blocks():
                for start in range(0, n, at_once):
                    some = slice(start, min(start + at_once, n))
                    own = x[some].transpose(1, 2)  # (token, channel, image)
                    inputs[some] += own @ x[some]
                    cross[some] += own @ z[some]
                    energy += z[some].double().square().sum()
        inputs, cross = inputs.flatten(1), cross.flatten(1)
        jitter = JITTER[x.dtype]
        return cls(inputs, cross, energy.item(), n, m, d, pairs.unchanged, jitter, True)

    @property
    def place(self) -> torch.device:
        return self.inputs.device

    @property
    def outputs(self) -> int:
        return self.cross.shape[1] // self.channels

    def __add__(self, other: "SecondMoments") -> "SecondMoments":
        return self._with(
            self.inputs + other.inputs, self.cross + other.cross, self.energy + other.energy
        )

    def __sub__(self, other: "SecondMoments") -> "SecondMoments":
        return self._with(
            self.inputs - other.inputs, self.cross - other.cross, self.energy - other.energy
        )

    def same_token(self) -> "SecondMoments":
        """The same for a mixing that is diagonal."""
        if self.diagonal:
            return self
        own = torch.arange(self.tokens)
        small = self._with(
            self.inputs[own * (self.places + 1)], self.cross[own * (self.tokens + 1)], self.energy
        )
        return replace(small, diagonal=True)

    def channel_equations(self, mixing: Tensor) -> tuple[Tensor, Tensor]:
        """Gram (P, (R+1)D, (R+1)D) of [X, M_1 X, ...] and its products with Z (P, (R+1)D, E)."""
        problems, rank = mixing.shape[:2]
        own_gram, own_cross = self._own
        d, e = own_cross.shape
        gram = mixing.new_empty((problems, rank + 1, d, rank + 1, d))
        cross = mixing.new_empty((problems, rank + 1, d, e))
        gram[:, 0, :, 0], cross[:, 0] = own_gram, own_cross
        cross[:, 1:] = self._sum(mixing.mT, self.cross)
        # Σ (M_r x)_a (M_s x)_b = Σ_jk (M_rᵀ M_s)_jk x_ja x_kb, and M_0 = I: one product for all
        first, second = torch.triu_indices(rank + 1, rank + 1).tolist()
        full = self._with_own(mixing)  # (P, R+1, M, M)
        weights = full[:, first].mT @ full[:, second]
        products = self._sum(weights[:, 1:], self.inputs)
        for index, (r, s) in enumerate(zip(first[1:], second[1:], strict=True)):
            gram[:, r, :, s] = products[:, index]
            gram[:, s, :, r] = products[:, index].mT
        size = (rank + 1) * d
        return gram.reshape(problems, size, size), cross.reshape(problems, size, e)

    def token_equations(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Of Y_r = X W_r, r ≥ 1: ΣYYᵀ (P, RM, RM), and ΣY(Z − X W_0)ᵀ (P, RM, N)."""
        problems, rank = len(maps), maps.shape[1] - 1
        m, n = self.places, self.tokens
        # Σ y_rj · y_sk = ⟨Σ x_j x_kᵀ, W_r W_sᵀ⟩, for every r ≥ 1 and s ≥ 0
        products = maps[:, 1:, None] @ maps[:, None].mT  # (P, R, R+1, D, D)
        answers = self._inner(products, self.inputs, m)  # (P, R, R+1, M, M)
        gram = answers[:, :, 1:].transpose(2, 3).reshape(problems, rank * m, rank * m)
        cross = self._inner(maps[:, 1:], self.cross, n) - answers[:, :, 0, :, :n]
        return gram, cross.reshape(problems, rank * m, n)

    def squared_error(self, maps: Tensor, mixing: Tensor) -> Tensor:
        """Σ‖Z − Ẑ‖² of each problem: (P,)."""
        gram, cross = self.channel_equations(mixing)
        maps = maps.reshape(cross.shape)
        return self.energy + (maps * (gram @ maps - 2 * cross)).sum(dim=(1, 2))

    @cached_property
    def _own(self) -> tuple[Tensor, Tensor]:
        identity = torch.eye(self.tokens, self.places).to(self.inputs)
        return self._sum(identity, self.inputs), self._sum(identity.mT, self.cross)

    def _with_own(self, mixing: Tensor) -> Tensor:
        """M_0, which takes each token itself, before the others; square, with rows of zeros."""
        problems, rank, n, m = mixing.shape
        full = mixing.new_zeros((problems, rank + 1, m, m))
        full[:, 0, :n, :n] = torch.eye(n).to(mixing)
        full[:, 1:, :n] = mixing
        return full

    def _sum(self, weights: Tensor, moments: Tensor) -> Tensor:
        """Σ_ij weights_ij · moments_ij: (..., i, j) -> (..., D, D or E); i from the first on."""
        lead = weights.shape[:-2]
        if self.diagonal:
            rows = weights.diagonal(dim1=-2, dim2=-1)[..., : self.tokens]
        else:
            rows = weights.flatten(-2)
        flat = rows.reshape(-1, rows.shape[-1]) @ moments[: rows.shape[-1]]
        return flat.reshape(*lead, self.channels, -1)

    def _inner(self, matrices: Tensor, moments: Tensor, columns: int) -> Tensor:
        """⟨matrices, moments_ij⟩ of every i, j: (..., D, D or E) -> (..., M, columns)."""
        lead = matrices.shape[:-2]
        values = matrices.reshape(-1, moments.shape[1]) @ moments.T
        if not self.diagonal:
            return values.reshape(*lead, self.places, columns)
        answers = values.new_zeros((len(values), self.places, columns))
        own = torch.arange(self.tokens)
        answers[:, own, own] = values
        return answers.reshape(*lead, self.places, columns)

    def _with(self, inputs: Tensor, cross: Tensor, energy: float) -> "SecondMoments":
        return replace(self, inputs=inputs, cross=cross, energy=energy)


class StreamedMoments:
    """The same answers from one pass over the images each, with one block of them in use."""

    diagonal = False
    together = False

    def __init__(self, parts: tuple[Pairs, ...]):
        self.parts = parts
        x, z = next(parts[0].blocks())
        self.tokens, self.places = len(z), len(x)
        self.channels, self.outputs = x.shape[2], z.shape[2]
        self.place, self.unchanged = x.device, parts[0].unchanged
        self.dtype, self.jitter = x.dtype, JITTER[x.dtype]

    @classmethod
    def of(cls, pairs: Pairs) -> "StreamedMoments":
        return cls((pairs,))

    def __add__(self, other: "StreamedMoments") -> "StreamedMoments":
        return StreamedMoments(self.parts + other.parts)

    def __sub__(self, other: "StreamedMoments") -> "StreamedMoments":
        gone = set(map(id, other.parts))
        return StreamedMoments(tuple(part for part in self.parts if id(part) not in gone))

    def same_token(self) -> SecondMoments:
        return SecondMoments.of_same_token(self.parts)

    @property
    def energy(self) -> float:
        return self._own[2]

    def channel_equations(self, mixing: Tensor) -> tuple[Tensor, Tensor]:
        problems, rank = mixing.shape[:2]
        own_gram, own_cross, _ = self._own
        d, e = own_cross.shape
        gram = mixing.new_zeros((problems, rank + 1, d, rank + 1, d))
        cross = mixing.new_zeros((problems, rank + 1, d, e))
        gram[:, 0, :, 0], cross[:, 0] = own_gram, own_cross
        weights = mixing.to(self.dtype)
        for x, z in self._blocks():
            own = x[: self.tokens].reshape(-1, d)
            for p in range(problems):
                mixed = [_mixed(m, x).reshape(-1, d) for m in weights[p]]
                for r, context in enumerate(mixed, start=1):
                    cross[p, r] += context.T @ z.reshape(-1, e)
                    gram[p, 0, :, r] += own.T @ context
                    for s, other in enumerate(mixed[r - 1 :], start=r):
                        gram[p, r, :, s] += context.T @ other
        for r in range(1, rank + 1):
            for s in range(r):
                gram[:, r, :, s] = gram[:, s, :, r].mT
        size = (rank + 1) * d
        return gram.reshape(problems, size, size), cross.reshape(problems, size, e)

    def token_equations(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        problems, rank, m, n = len(maps), maps.shape[1] - 1, self.places, self.tokens
        gram = maps.new_zeros((problems, rank, m, rank, m))
        cross = maps.new_zeros((problems, rank, m, n))
        weights = maps.to(self.dtype)
        for x, z in self._blocks():
            for p in range(problems):
                residual = (z - x[:n] @ weights[p, 0]).reshape(n, -1)
                mapped = [(x @ w).reshape(m, -1) for w in weights[p, 1:]]
                for r, first in enumerate(mapped):
                    cross[p, r] += first @ residual.T
                    for s, second in enumerate(mapped):
                        gram[p, r, :, s] += first @ second.T
        return gram.reshape(problems, rank * m, rank * m), cross.reshape(problems, rank * m, n)

    def squared_error(self, maps: Tensor, mixing: Tensor) -> Tensor:
        error = maps.new_zeros(len(maps))
        for x, z in self._blocks():
            for p, (own_maps, own_mixing) in enumerate(zip(maps, mixing, strict=True)):
                error[p] += (z - predicted(x, own_maps, own_mixing)).double().square().sum()
        return error

    @cached_property
    def _own(self) -> tuple[Tensor, Tensor, float]:
        gram, cross, energy = zip(*(pairs.own_products for pairs in self.parts), strict=True)
        return sum(gram), sum(cross), sum(energy)

    def _blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        for pairs in self.parts:
            yield from pairs.blocks()


Moments = SecondMoments | StreamedMoments


def predicted(x: Tensor, maps: Tensor, mixing: Tensor) -> Tensor:
    """Ẑ (token, image, E) of centred x (place, image, D): maps (R+1, D, E), mixing (R, N, M)."""
    maps, mixing = maps.to(x), mixing.to(x)
    tokens = mixing.shape[1]
    context = (_mixed(m, x @ w) for m, w in zip(mixing, maps[1:], strict=True))
    return sum(context, start=x[:tokens] @ maps[0])


def _mixed(mixing: Tensor, x: Tensor) -> Tensor:
    """(N, M), (M, image, channel) -> (N, image, channel)."""
    return (mixing @ x.reshape(len(x), -1)).reshape(len(mixing), *x.shape[1:])
