"""What one attention map says: who is attended to, how widely, how far, and how alike the rows are.

Every function takes A (..., query, key), probabilities whose rows sum to 1 over key, with the roles
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
    """Which token is [CLS], which are patches, and where those stand on the image's grid."""

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
            int(hubs[0]) if hubs.size else None,
            torch.from_numpy(patches),
            torch.as_tensor(np.asarray(row)[patches]) if placed else None,
            torch.as_tensor(np.asarray(column)[patches]) if placed else None,
        )

    def to(self, device: torch.device | str) -> "TokenRoles":
        """The same roles on a device, so that a forward pass there copies nothing."""
        row, column = (None if x is None else x.to(device) for x in (self.row, self.column))
        return TokenRoles(self.cls, self.patches.to(device), row, column)


def head_summaries(probabilities: Tensor, roles: TokenRoles) -> dict[str, Tensor]:
    """The measures that are cheap enough for every head of every image, each (...).

    Those of [CLS] are left out where there is none, and `distance` where patches have no place.
    """
    probabilities = _at_least_float32(probabilities)
    row_entropy = entropy(probabilities, roles)
    summaries = {
        "entropy": row_entropy,
        "consensus": consensus(probabilities, roles),
        "consensus_js": _consensus_js(probabilities, roles, row_entropy),
    }
    if roles.cls is not None:
        summaries["cls_inflow"] = cls_inflow(probabilities, roles)
        summaries["cls_outflow_entropy"] = cls_outflow_entropy(probabilities, roles)
    if roles.row is not None:
        summaries["distance"] = distance(probabilities, roles)
    return summaries


def cls_inflow(probabilities: Tensor, roles: TokenRoles) -> Tensor:
    """How much patches look at [CLS]: T times the mean over patch queries of A[q, cls].

    1 is a uniform share, 0 nothing, T everything.
    """
    return patch_share(_at_least_float32(probabilities)[..., _cls(roles)], roles)


def patch_share(weight: Tensor, roles: TokenRoles) -> Tensor:
    """T times the mean over patch queries of a weight (..., query): 1 is a uniform share."""
    return weight[..., roles.patches].mean(dim=-1) * weight.shape[-1]


def cls_outflow_entropy(probabilities: Tensor, roles: TokenRoles) -> Tensor:
    """How widely [CLS] looks: the entropy of its row over all T keys, over log T; in [0, 1]."""
    return _row_entropy(_at_least_float32(probabilities)[..., _cls(roles), :])


def entropy(probabilities: Tensor, roles: TokenRoles) -> Tensor:
    """How widely patches look: −Σ A log A over all T keys, over log T, mean over patch queries."""
    rows = _row_entropy(_at_least_float32(probabilities))  # (..., query)
    return rows[..., roles.patches].mean(dim=-1)


def distance(probabilities: Tensor, roles: TokenRoles) -> Tensor:
    """How far patches look at patches, in patches: the mean over queries of Σ A[q, k]·‖q − k‖.

    Prefix keys are left out and each row is renormalised over the patch keys. A row with nothing on
    patches has no distance and is left out; a map without any other row is NaN.
    Source: mean attention distance, Dosovitskiy et al. 2021, Figure 7.
    """
    if roles.row is None or roles.column is None:
        raise VitalsError("attention distance needs the row and the column of each patch")
    probabilities = _at_least_float32(probabilities)
    tokens, patches = probabilities.shape[-1], roles.patches.to(probabilities.device)
    place = torch.stack([roles.row, roles.column], dim=1).to(probabilities)  # (patch, 2)
    is_patch = probabilities.new_zeros(tokens)
    is_patch[patches] = 1
    between = probabilities.new_zeros(tokens, tokens)  # (query, key), 0 for a prefix token
    between[patches[:, None], patches] = torch.linalg.vector_norm(place[:, None] - place, dim=-1)

    traveled = (probabilities * between).sum(dim=-1)[..., patches]  # (..., patch)
    share = (probabilities @ is_patch)[..., patches]
    return torch.where(share > 0, traveled / share, torch.nan).nanmean(dim=-1)


def consensus(probabilities: Tensor, roles: TokenRoles) -> Tensor:
    """How alike the patch rows are: their mean pairwise cosine over all T keys; in [0, 1].

    For n unit rows u it is (‖Σu‖² − n) / (n(n−1)): no n×n matrix is formed.
    """
    probabilities = _at_least_float32(probabilities)
    norm = torch.linalg.vector_norm(probabilities, dim=-1)  # (..., query)
    weight = torch.zeros_like(norm)
    weight[..., roles.patches] = 1 / norm[..., roles.patches]
    total = (weight[..., None, :] @ probabilities)[..., 0, :]  # (..., key)
    n = len(roles.patches)
    return (total.square().sum(dim=-1) - n) / (n * (n - 1))


def consensus_js(probabilities: Tensor, roles: TokenRoles) -> Tensor:
    """How alike the N patch rows are: 1 − JSD / log N, JSD = H(mean row) − mean H(row); in [0, 1].

    log N is the largest divergence that N distributions can have.
    """
    probabilities = _at_least_float32(probabilities)
    return _consensus_js(probabilities, roles, entropy(probabilities, roles))


def _consensus_js(probabilities: Tensor, roles: TokenRoles, row_entropy: Tensor) -> Tensor:
    is_patch = probabilities.new_zeros(probabilities.shape[-2])
    is_patch[roles.patches] = 1
    n = len(roles.patches)
    mean_row = (is_patch / n) @ probabilities  # (..., query, key) -> (..., key)
    divergence = (_row_entropy(mean_row) - row_entropy) * math.log(probabilities.shape[-1])
    return 1 - divergence / math.log(n)


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


def _row_entropy(rows: Tensor) -> Tensor:
    """−Σ p log p over the last dim, over the log of its length."""
    return torch.special.entr(rows).sum(dim=-1) / math.log(rows.shape[-1])


def _at_least_float32(probabilities: Tensor) -> Tensor:
    return probabilities.to(torch.promote_types(probabilities.dtype, torch.float32))


def _cls(roles: TokenRoles) -> int:
    if roles.cls is None:
        raise VitalsError("this measure is of the [CLS] token, and the model has none")
    return roles.cls
