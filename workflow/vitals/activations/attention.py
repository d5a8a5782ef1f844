"""What one attention map says: who is attended to, how widely, how far, and how alike the rows are.

Every measure takes A (..., query, key), probabilities whose rows sum to 1 over key, with the roles
of the T tokens, and returns one number a map: (...). They run on any device, in float32 at least;
PageRank, the stationary share and the spectral gap always in float64.

>>> uniform = torch.full((5, 5), 1 / 5)
>>> roles = TokenRoles.of(["cls", "patch", "patch", "patch", "patch"])
>>> round(cls_inflow(uniform, roles).item(), 6), round(consensus(uniform, roles).item(), 6)
(1.0, 1.0)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from vitals.errors import VitalsError

# 1 − damping of the walk whose limit is `cls_stationary`, and how often its map is applied. The
# error is about (TELEPORT / gap)^STATIONARY_STEPS, and rounding about 1e-16 / TELEPORT.
TELEPORT = 1e-6
STATIONARY_STEPS = 3


@dataclass(frozen=True)
class TokenRoles:
    """Which of the tokens is [CLS], which are patches, and where those stand on the grid."""

    tokens: int
    cls: int | None
    patches: Tensor  # (patch,) positions along query and key
    row: Tensor | None = None  # (patch,)
    column: Tensor | None = None  # (patch,)

    @classmethod
    def of(
        cls,
        kinds: Sequence[str] | np.ndarray,
        row: Sequence[int] | np.ndarray | None = None,
        column: Sequence[int] | np.ndarray | None = None,
    ) -> "TokenRoles":
        """The roles from each token's kind ("cls", "patch", ...), row and column: (token,) each.

        Raises VitalsError where there are two [CLS] tokens, or fewer than two patches.
        """
        kinds = np.asarray(kinds)
        hubs, patches = np.flatnonzero(kinds == "cls"), np.flatnonzero(kinds == "patch")
        if hubs.size > 1:
            raise VitalsError(f"attention needs at most 1 [CLS] token, found {hubs.size}")
        if patches.size < 2:
            raise VitalsError(f"attention needs at least 2 patch tokens, found {patches.size}")
        placed = row is not None and column is not None
        return cls(
            len(kinds),
            int(hubs[0]) if hubs.size else None,
            torch.from_numpy(patches),
            torch.as_tensor(np.asarray(row)[patches]) if placed else None,
            torch.as_tensor(np.asarray(column)[patches]) if placed else None,
        )

    def to(self, device: torch.device | str) -> "TokenRoles":
        """The same roles on a device, so that a forward pass there copies nothing."""
        row, column = (None if x is None else x.to(device) for x in (self.row, self.column))
        return TokenRoles(self.tokens, self.cls, self.patches.to(device), row, column)

    @cached_property
    def is_patch(self) -> Tensor:
        """(token,) bool."""
        chosen = torch.zeros(self.tokens, dtype=torch.bool, device=self.patches.device)
        chosen[self.patches] = True
        return chosen

    def separation(self, dtype: torch.dtype) -> Tensor:
        """‖q − k‖ between patches on the grid, 0 to and from any other token: (query, key).

        Raises VitalsError where the patches have no place.
        """
        if self.row is None or self.column is None:
            raise VitalsError("attention distance needs the row and the column of each patch")
        if dtype not in self._separation:
            place = torch.stack([self.row, self.column], dim=1).to(dtype)  # (patch, 2)
            between = place.new_zeros(self.tokens, self.tokens)
            apart = torch.linalg.vector_norm(place[:, None] - place, dim=-1)  # (patch, patch)
            between[self.patches[:, None], self.patches] = apart
            self._separation[dtype] = between
        return self._separation[dtype]

    @cached_property
    def _separation(self) -> dict[torch.dtype, Tensor]:
        return {}


def head_summaries(probabilities: Tensor, roles: TokenRoles) -> dict[str, Tensor]:
    """The measures that are cheap enough for every head of every image, each (...).

    Those of [CLS] are left out where there is none, and `distance` where patches have no place.
    """
    return summaries(row_sums(_at_least_float32(probabilities), roles), roles)


def row_sums(
    probabilities: Tensor,
    roles: TokenRoles,
    row_entropy: Tensor | None = None,
    workspace: Tensor | None = None,
) -> dict[str, Tensor]:
    """All that `summaries` needs of maps (..., query, key), in as few passes over them as can be.

    By query, (..., query): row_entropy, to_cls, on_patches, traveled; by key, (..., key): unit_sum,
    mean_row. row_entropy: what `entropy_of_rows` gives, where it is known already; workspace:
    memory that may be overwritten, shaped and typed like the probabilities.
    """
    sums = {"row_entropy": entropy_of_rows(probabilities) if row_entropy is None else row_entropy}
    sums["unit_sum"], sums["mean_row"] = _over_patch_rows(probabilities, roles)
    if roles.cls is not None:
        sums["to_cls"] = probabilities[..., roles.cls]
    if roles.row is not None:
        sums["traveled"], sums["on_patches"] = _travel(probabilities, roles, workspace)
    return sums


def summaries(sums: dict[str, Tensor], roles: TokenRoles) -> dict[str, Tensor]:
    """`head_summaries`, each (...), from the `row_sums` of the maps."""
    rows = sums["row_entropy"]
    found = {
        "entropy": _over_patches(rows, roles),
        "consensus": _mean_cosine(sums["unit_sum"], roles),
        "consensus_js": _agreement(sums["mean_row"], rows, roles),
    }
    if roles.cls is not None:
        found["cls_inflow"] = patch_share(sums["to_cls"], roles)
        found["cls_outflow_entropy"] = rows[..., roles.cls]
    if roles.row is not None:
        found["distance"] = _mean_distance(sums["traveled"], sums["on_patches"], roles)
    return found


def cls_inflow(probabilities: Tensor, roles: TokenRoles) -> Tensor:
    """How much patches look at [CLS]: T times the mean over patch queries of A[q, cls].

    1 is a uniform share, 0 nothing, T everything.
    """
    return patch_share(_at_least_float32(probabilities)[..., _cls(roles)], roles)


def patch_share(weight: Tensor, roles: TokenRoles) -> Tensor:
    """T times the mean over patch queries of a weight (..., query): 1 is a uniform share."""
    return _over_patches(weight, roles) * weight.shape[-1]


def cls_outflow_entropy(probabilities: Tensor, roles: TokenRoles) -> Tensor:
    """How widely [CLS] looks: the entropy of its row over all T keys, over log T; in [0, 1]."""
    return entropy_of_rows(_at_least_float32(probabilities)[..., _cls(roles), :])


def entropy(probabilities: Tensor, roles: TokenRoles) -> Tensor:
    """How widely patches look: −Σ A log A over all T keys, over log T, mean over patch queries."""
    return _over_patches(entropy_of_rows(_at_least_float32(probabilities)), roles)


def entropy_of_rows(probabilities: Tensor) -> Tensor:
    """−Σ A log A of each row, over the log of its length: (..., key) -> (...), in [0, 1]."""
    return torch.special.entr(probabilities).sum(dim=-1) / math.log(probabilities.shape[-1])


def distance(probabilities: Tensor, roles: TokenRoles) -> Tensor:
    """How far patches look at patches, in patches: the mean over queries of Σ A[q, k]·‖q − k‖.

    Prefix keys are left out and each row is renormalised over the patch keys. A row with nothing on
    patches has no distance and is left out; a map without any other row is NaN.
    Source: mean attention distance, Dosovitskiy et al. 2021, Figure 7.
    """
    return _mean_distance(*_travel(_at_least_float32(probabilities), roles), roles)


def _travel(
    probabilities: Tensor, roles: TokenRoles, workspace: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Σ A[q, k]·‖q − k‖ and Σ A[q, k] over the patch keys k, (..., query)."""
    separation = roles.separation(probabilities.dtype)
    traveled = torch.mul(probabilities, separation, out=workspace).sum(dim=-1)
    return traveled, probabilities @ roles.is_patch.to(probabilities)


def _mean_distance(traveled: Tensor, on_patches: Tensor, roles: TokenRoles) -> Tensor:
    known = (on_patches > 0) & roles.is_patch
    return torch.where(known, traveled / on_patches, torch.nan).nanmean(dim=-1)


def consensus(probabilities: Tensor, roles: TokenRoles) -> Tensor:
    """How alike the patch rows are: their mean pairwise cosine over all T keys; in [0, 1].

    For n unit rows u it is (‖Σu‖² − n) / (n(n−1)): no n×n matrix is formed.
    """
    unit_sum, _ = _over_patch_rows(_at_least_float32(probabilities), roles)
    return _mean_cosine(unit_sum, roles)


def consensus_js(probabilities: Tensor, roles: TokenRoles) -> Tensor:
    """How alike the N patch rows are: 1 − JSD / log N, JSD = H(mean row) − mean H(row); in [0, 1].

    log N is the largest divergence that N distributions can have.
    """
    probabilities = _at_least_float32(probabilities)
    _, mean_row = _over_patch_rows(probabilities, roles)
    return _agreement(mean_row, entropy_of_rows(probabilities), roles)


def _over_patch_rows(probabilities: Tensor, roles: TokenRoles) -> tuple[Tensor, Tensor]:
    """The sum of the patch rows, each of length 1, and their mean as they are: (..., key)."""
    norm = torch.linalg.vector_norm(probabilities, dim=-1)  # (..., query)
    mean = (roles.is_patch / len(roles.patches)).to(norm).expand_as(norm)
    weights = torch.stack([roles.is_patch / norm, mean], dim=-2)
    # (..., 2, query) @ (..., query, key) -> (..., 2, key)
    unit_sum, mean_row = (weights @ probabilities).unbind(dim=-2)
    return unit_sum, mean_row


def _mean_cosine(unit_sum: Tensor, roles: TokenRoles) -> Tensor:
    n = len(roles.patches)
    return (unit_sum.square().sum(dim=-1) - n) / (n * (n - 1))


def _agreement(mean_row: Tensor, row_entropy: Tensor, roles: TokenRoles) -> Tensor:
    gained = entropy_of_rows(mean_row) - _over_patches(row_entropy, roles)
    return 1 - gained * math.log(mean_row.shape[-1]) / math.log(len(roles.patches))


def consensus_gap(probabilities: Tensor) -> Tensor:
    """How fast repeating the map makes all tokens agree: 1 − |λ2(A)|, over all T tokens; in [0, 1].

    1 is at once; 0 is never: the map has separate groups, or a cycle.
    """
    modulus = torch.linalg.eigvals(probabilities.double()).abs()  # (..., token)
    return 1 - modulus.topk(2, dim=-1).values[..., 1]


def cls_pagerank(probabilities: Tensor, roles: TokenRoles, damping: float = 0.85) -> Tensor:
    """How often a walk that follows A is at [CLS]: π = d·πA + (1−d)/T; 1/T in a uniform map.

    Source: Brin & Page 1998.
    """
    return _walk(probabilities, damping, steps=1)[..., _cls(roles)]


def cls_stationary(probabilities: Tensor, roles: TokenRoles) -> Tensor:
    """How often an endless walk along A, begun at a uniform token, is at [CLS]: π = πA.

    Where A is reducible many π solve that, and where it is periodic the walk does not settle. This
    is the limit of its running average, π = (1/T)·1ᵀ·lim (1/n) Σ Aⁱ, which exists for every A: the
    limit of PageRank for damping → 1, and that of the lazy walk ½(I + A).
    """
    return _walk(probabilities, 1 - TELEPORT, STATIONARY_STEPS)[..., _cls(roles)]


def _walk(probabilities: Tensor, damping: float, steps: int) -> Tensor:
    """π ← (1−d)·π(I − dA)⁻¹ from a uniform π, `steps` times: (..., token)."""
    probabilities = probabilities.double()
    # Near d = 1, rows that float32 rounded unequally would gain or lose share.
    probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
    tokens = probabilities.shape[-1]
    identity = torch.eye(tokens, dtype=torch.float64, device=probabilities.device)
    factors = torch.linalg.lu_factor(identity - damping * probabilities)
    share = torch.full_like(probabilities[..., :1, :], 1 / tokens)  # (..., 1, token)
    for _ in range(steps):
        share = torch.linalg.lu_solve(*factors, share, left=False)
        share = share / share.sum(dim=-1, keepdim=True)
    return share[..., 0, :]


def _over_patches(values: Tensor, roles: TokenRoles) -> Tensor:
    """The mean over patch queries: (..., query) -> (...)."""
    return (values * roles.is_patch).sum(dim=-1) / len(roles.patches)


def _at_least_float32(probabilities: Tensor) -> Tensor:
    return probabilities.to(torch.promote_types(probabilities.dtype, torch.float32))


def _cls(roles: TokenRoles) -> int:
    if roles.cls is None:
        raise VitalsError("this measure is of the [CLS] token, and the model has none")
    return roles.cls
