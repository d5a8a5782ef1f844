"""What the head-mean attention of one image says, block by block: of [CLS], and of consensus."""

import numpy as np
import torch
import xarray as xr

from vitals.activations import attention as maps_of
from vitals.activations.attention import TokenRoles
from vitals.errors import VitalsError
from vitals.metrics.reducer import Reducer

CLS_PATCH_COSINE = "cls_patch_cosine"
# float16 rounds each probability by at most 2⁻¹¹ of itself, and so a row's sum by less than this
ROW_SUM_TOLERANCE = 2e-3


class AttentionMeasures(Reducer):
    """The measures of each map (block, image), and `cls_patch_cosine` (layer, image) of tokens.

    Those of [CLS] are left out where there is none, and `distance` where patches have no place.
    """

    reads_attention = True

    def __init__(self, about: xr.Dataset, *, damping: float) -> None:
        super().__init__()
        self.roles, self.damping = roles_of(about), damping
        self.roles_on: dict[torch.device, TokenRoles] = {}  # of each copy, so that one is made
        self.taken = np.arange(0 if self.roles.cls is None else self.roles.tokens)
        self.attrs = {"damping": damping}
        self.reached: torch.Tensor | None = None

    def update_tokens(self, tap: str, x: torch.Tensor) -> None:
        self.keep("layer", tap, {CLS_PATCH_COSINE: _cls_cosine(x, self.roles)})

    def update_attention(self, block: str, maps: torch.Tensor) -> None:
        probabilities = _probabilities(maps, block)
        if maps.device not in self.roles_on:
            self.roles_on[maps.device] = self.roles.to(maps.device)
        roles = self.roles_on[maps.device]
        values = _map_values(probabilities, roles, self.damping)
        if roles.cls is not None:
            if self.reached is None:  # how much of what a token holds is of the input [CLS]
                self.reached = torch.zeros_like(probabilities[..., 0])
                self.reached[:, roles.cls] = 1
            self.reached = _roll(self.reached, probabilities)
            values["rollout_cls"] = maps_of.patch_share(self.reached, roles)
        self.keep("block", block, values)


def roles_of(dataset: xr.Dataset) -> TokenRoles:
    """The roles of the tokens that the coordinates of a dataset describe.

    Raises VitalsError for two [CLS] tokens, for fewer than two patches, and for attention that has
    not a query and a key for each token.
    """
    kinds = dataset["token_kind"].values
    if "attention" in dataset:
        queries, keys = dataset.sizes["query"], dataset.sizes["key"]
        if not len(kinds) == queries == keys:
            raise VitalsError(
                f"attention needs a query and a key for each of {len(kinds)} tokens, "
                f"found {queries} × {keys}"
            )
    placed = "row" in dataset.coords and "column" in dataset.coords
    place = (dataset["row"].values, dataset["column"].values) if placed else ()
    return TokenRoles.of(kinds, *place)


def _probabilities(maps: torch.Tensor, block: str) -> torch.Tensor:
    """The maps (image, query, key) in float64, without the rounding of their storage."""
    rows = maps.double()
    total = rows.sum(dim=-1, keepdim=True)
    error = (total - 1).abs().amax()
    if not error <= ROW_SUM_TOLERANCE or rows.amin() < 0:
        worst = total.flatten()[(total - 1).abs().argmax()].item()
        raise VitalsError(
            f"attention of block {block} must be probabilities that sum to 1 over key, "
            f"found a row that sums to {worst:.6g}, smallest entry {rows.amin().item():.3g}; "
            "are query and key swapped?"
        )
    return rows / total


def _map_values(
    probabilities: torch.Tensor, roles: TokenRoles, damping: float
) -> dict[str, torch.Tensor]:
    values = maps_of.head_summaries(probabilities, roles)
    # LAPACK's, because accelerators are slow at eigenvalues of small matrices without symmetry
    gap = maps_of.consensus_gap(probabilities.cpu())
    values["consensus_gap"] = gap.to(probabilities.device)
    if roles.cls is not None:
        values["cls_pagerank"] = maps_of.cls_pagerank(probabilities, roles, damping)
        values["cls_stationary"] = maps_of.cls_stationary(probabilities, roles)
    return values


def _roll(reached: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """Ã·reached (image, token), Ã = ½A + ½I: of the rollout only its column [CLS] is formed."""
    return (reached + (probabilities @ reached[..., None])[..., 0]) / 2


def _cls_cosine(x: torch.Tensor, roles: TokenRoles) -> torch.Tensor:
    """cos([CLS], mean patch) of each image, from its tokens x (image, token, channel)."""
    patch = x[:, roles.patches.to(x.device)].mean(dim=1, dtype=torch.float64)  # (image, channel)
    hub = x[:, roles.cls].double()
    norms = hub.norm(dim=-1) * patch.norm(dim=-1)
    return torch.where(norms > 0, (hub * patch).sum(dim=-1) / norms, torch.nan)
