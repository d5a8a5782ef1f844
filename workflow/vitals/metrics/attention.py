"""Is [CLS] the hub through which patches talk, and do patches agree on what to look at?

>>> import numpy as np, xarray as xr
>>> star = np.zeros((3, 2, 5, 5))
>>> star[..., 0] = 1  # (block, image, query, key): every token looks at [CLS] alone
>>> dataset = xr.Dataset(
...     {"attention": (("block", "image", "query", "key"), star)},
...     coords={"token_kind": ("token", ["cls", "patch", "patch", "patch", "patch"])},
... )
>>> result = compute(dataset, bootstrap_samples=10).mean("image").isel(block=0)
>>> result["cls_inflow"].item(), result["consensus"].item(), result["entropy"].item()
(5.0, 1.0, 0.0)
"""

from collections.abc import Iterator

import numpy as np
import torch
import xarray as xr

from vitals.activations import attention as maps
from vitals.activations.attention import TokenRoles
from vitals.errors import VitalsError
from vitals.metrics import axes, bootstrap
from vitals.metrics.accelerator import float64_device
from vitals.metrics.results import PAPER, RECONSTRUCTED, absences, describe, mark_absent
from vitals.metrics.token_batches import batches
from vitals.progress import progress

NAMED = f"{PAPER}, [CLS] centrality and attention consensus; the formula is a stated choice"
DISTANCE = "Dosovitskiy et al. 2021, Figure 7, over patches alone"
ROLLOUT = "Abnar & Zuidema 2020, attention rollout, read at the input [CLS]"

VARIABLES = {
    "cls_inflow": ("attention of patches to [CLS]", "uniform shares", NAMED),
    "cls_pagerank": ("PageRank of [CLS]", "1", f"{NAMED} (Brin & Page 1998)"),
    "cls_stationary": ("stationary share of [CLS]", "1", NAMED),
    "cls_outflow_entropy": ("entropy of the attention of [CLS]", "log T", NAMED),
    "rollout_cls": ("rollout of patches onto the input [CLS]", "uniform shares", ROLLOUT),
    "consensus": ("mean cosine between attention rows of patches", "1", NAMED),
    "consensus_js": ("Jensen–Shannon agreement of attention rows of patches", "1", NAMED),
    "consensus_gap": ("spectral gap of attention", "1", NAMED),
    "entropy": ("entropy of the attention of patches", "log T", NAMED),
    "distance": ("attention distance between patches", "patches", DISTANCE),
}
HEAD_VARIABLES = (
    "cls_inflow",
    "cls_outflow_entropy",
    "consensus",
    "consensus_js",
    "entropy",
    "distance",
)
MARGINALIZATION = {
    "marginalization": (
        "slope of the attention of patches to [CLS] over relative depth",
        "uniform shares per network depth",
    ),
    "marginalization_max_depth": ("block where patches look most at [CLS]", "block"),
    "marginalization_min_depth": ("block where patches look least at [CLS]", "block"),
}
CLS_PATCH_COSINE = "cosine between [CLS] and the mean patch token"

# float16 rounds each probability by at most 2⁻¹¹ of itself, and so a row's sum by less than this
ROW_SUM_TOLERANCE = 2e-3
# float64 numbers of attention in memory at a time, 32 MiB (and a few working copies)
NUMBERS_PER_BLOCK = 2**22


def compute(
    dataset: xr.Dataset,
    *,
    damping: float = 0.85,
    pooled: xr.Dataset | None = None,
    bootstrap_samples: int = 1000,
    bootstrap_seed: int = 0,
) -> xr.Dataset:
    """[CLS] centrality and consensus of each image's head-mean attention A, block by block.

    With T tokens of which N are patches, means over the patch queries q:
    - `cls_inflow`: T·mean A[q, cls]; `cls_pagerank`: π = d·πA + (1−d)/T, d = `damping`, at [CLS];
      `cls_stationary`: π = πA at [CLS], the limit of PageRank for d → 1;
    - `consensus`: mean pairwise cosine of the rows A[q]; `consensus_js`: 1 − JSD / log N;
      `consensus_gap`: 1 − |λ2(A)| over all T tokens;
    - `entropy`: of the rows A[q], `cls_outflow_entropy`: of the row A[cls], both over log T;
      `distance`: Σ A[q, k]·‖q − k‖ over the patch keys k, rows renormalised, in patch widths;
    - `rollout_cls`: T·mean R[q, cls], R = Ãᵢ…Ã₁Ã₀ up to this block i, Ã = ½A + ½I: how much of what
      patches hold after block i came from the input [CLS].
    Each is (block, image), with `_low` and `_high` over (block), as is `cls_patch_cosine` (layer,
    image): cos([CLS], mean patch token). From the mean curve of `cls_inflow` over images come
    `marginalization` (), its least-squares slope over block/(L−1), with `_draws` (draw), and
    `marginalization_max_depth`, `_min_depth` (), the block of its maximum and minimum, all with
    `_low` and `_high`. `{name}_head` (block, head) are means over the images of `pooled`.

    dataset: the token tier: `attention` (block, image, query, key), coordinate `token_kind`, and
    where they apply `row`, `column` (token) and `tokens` (layer, image, token, channel). Where it
    says why it holds no `attention`, that is the reason for all but `cls_patch_cosine`.
    pooled: the pooled tier, with `attention_{name}` (block, image, head) reduced during the pass.
    An image whose patches look at no patch has no `distance`, and one with a zero [CLS] or mean
    patch no `cls_patch_cosine`: NaN, left out of the mean. What lacks its input is recorded as
    absent. Raises VitalsError where rows are no probabilities that sum to 1 over `key`, where roles
    and attention differ in length, for two [CLS] tokens and for fewer than two patches. All is in
    float64, on the accelerator, if there is one; it agrees with the CPU to 1e-9.
    Source: arXiv 2511.21635 names the quantities; the formulas are stated choices.
    """
    absent = _why_no_attention(dataset)
    axes.require(dataset, "token_kind", *([] if absent else ["attention"]))
    roles = _roles(dataset)
    interval = (bootstrap_samples, bootstrap_seed)
    result = xr.Dataset(
        coords={**_block_coordinates(dataset), **axes.image_coordinates(dataset)},
        attrs={"tokens": roles.tokens, "patches": len(roles.patches), "damping": damping},
    )
    if absent is None:
        _add_maps(result, dataset["attention"], roles, damping, *interval)
        _add_marginalization(result, *interval)
    else:
        for name in (*VARIABLES, *MARGINALIZATION):
            mark_absent(result, name, absent)
    _add_cls_patch_cosine(result, dataset, roles, *interval)
    if roles.cls is None:
        of_cls = [name for name in VARIABLES if "cls" in name]
        for name in (*of_cls, *MARGINALIZATION, "cls_patch_cosine"):
            mark_absent(result, name, "the model has no [CLS] token")
    if pooled is not None:
        _add_heads(result, pooled, *interval)
    return result


def _why_no_attention(dataset: xr.Dataset) -> str | None:
    """The reason that a tier gives for holding no attention; None where it holds it, or is mute."""
    return None if "attention" in dataset else absences(dataset).get("attention")


def _roles(dataset: xr.Dataset) -> TokenRoles:
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


def _block_coordinates(dataset: xr.Dataset) -> dict[str, xr.DataArray]:
    return {str(name): c for name, c in dataset.coords.items() if c.dims == ("block",)}


def _add_maps(
    result: xr.Dataset,
    attention: xr.DataArray,
    roles: TokenRoles,
    damping: float,
    samples: int,
    seed: int,
) -> None:
    for name, array in _image_values(attention, roles, damping).items():
        long_name, units, source = VARIABLES[name]
        result[name] = describe(array, long_name, units, RECONSTRUCTED, source)
        bootstrap.add_interval(result, name, bootstrap.mean_draws(array, samples, seed))
    if roles.row is None:
        mark_absent(result, "distance", "the patches have no row and column")


def _image_values(
    attention: xr.DataArray, roles: TokenRoles, damping: float
) -> dict[str, xr.DataArray]:
    """Each measure (block, image), in the order of `VARIABLES`."""
    where, blocks = float64_device(), []
    roles = roles.to(where)
    # how much of what each token holds came from the input [CLS]
    shape = attention.sizes["image"], attention.sizes["key"]
    reached = torch.zeros(shape, dtype=torch.float64, device=where)
    if roles.cls is not None:
        reached[:, roles.cls] = 1
    for index in progress(range(attention.sizes["block"]), "attention"):
        parts = []
        for images, probabilities in _probabilities(attention.isel(block=index)):
            values = _map_values(probabilities, roles, damping)
            if roles.cls is not None:
                reached[images] = _roll(reached[images], probabilities)
                values["rollout_cls"] = maps.patch_share(reached[images], roles)
            parts.append(values)
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        blocks.append({name: values.cpu().numpy() for name, values in joined.items()})
    return {
        name: xr.DataArray(np.stack([b[name] for b in blocks]), dims=("block", "image"))
        for name in VARIABLES
        if name in blocks[0]
    }


def _probabilities(attention: xr.DataArray) -> Iterator[tuple[slice, torch.Tensor]]:
    """One block's maps (image, query, key) in float64, without the rounding of their storage."""
    images_per_block = max(1, NUMBERS_PER_BLOCK // attention.sizes["key"] ** 2)
    ordered = attention.transpose("image", "query", "key")
    for images, values in axes.image_blocks(ordered, images_per_block):
        rows = torch.from_numpy(values).to(float64_device()).double()
        total = rows.sum(dim=-1, keepdim=True)
        error = (total - 1).abs().amax()
        if not error <= ROW_SUM_TOLERANCE or rows.amin() < 0:
            worst = total.flatten()[(total - 1).abs().argmax()].item()
            raise VitalsError(
                f"attention of {_name(attention)} must be probabilities that sum to 1 over key, "
                f"found a row that sums to {worst:.6g}, smallest entry {rows.amin().item():.3g}; "
                "are query and key swapped?"
            )
        yield images, rows / total


def _name(attention: xr.DataArray) -> str:
    return f"block {attention['block'].item()}" if "block" in attention.coords else "a block"


def _map_values(
    probabilities: torch.Tensor, roles: TokenRoles, damping: float
) -> dict[str, torch.Tensor]:
    values = maps.head_summaries(probabilities, roles)
    # LAPACK's, because accelerators are slow at eigenvalues of small matrices without symmetry
    gap = maps.consensus_gap(probabilities.cpu())
    values["consensus_gap"] = gap.to(probabilities.device)
    if roles.cls is not None:
        values["cls_pagerank"] = maps.cls_pagerank(probabilities, roles, damping)
        values["cls_stationary"] = maps.cls_stationary(probabilities, roles)
    return values


def _roll(reached: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """Ã·reached (image, token), Ã = ½A + ½I: of the rollout only its column [CLS] is formed."""
    return (reached + (probabilities @ reached[..., None])[..., 0]) / 2


def _add_marginalization(result: xr.Dataset, samples: int, seed: int) -> None:
    if "cls_inflow" not in result:
        return
    draws = bootstrap.mean_draws(result["cls_inflow"], samples, seed)  # (block, draw)
    curve = result["cls_inflow"].mean("image")
    measures = {
        "marginalization_max_depth": lambda y: y.argmax("block"),
        "marginalization_min_depth": lambda y: y.argmin("block"),
    }
    if curve.sizes["block"] > 1:
        measures["marginalization"] = _slope
    else:
        mark_absent(result, "marginalization", "one block has no slope over depth")
    for name, measure in measures.items():
        result[name] = describe(measure(curve), *MARGINALIZATION[name], RECONSTRUCTED, NAMED)
        add = bootstrap.add_draws if name == "marginalization" else bootstrap.add_interval
        add(result, name, measure(draws))


def _slope(curve: xr.DataArray) -> xr.DataArray:
    """Least-squares slope over relative depth: 0 at the first block, 1 at the last."""
    x = np.linspace(-0.5, 0.5, curve.sizes["block"])
    return (curve * xr.DataArray(x / (x @ x), dims="block")).sum("block")


def _add_cls_patch_cosine(
    result: xr.Dataset, dataset: xr.Dataset, roles: TokenRoles, samples: int, seed: int
) -> None:
    name = "cls_patch_cosine"
    if roles.cls is None:
        return
    if "tokens" not in dataset:
        mark_absent(result, name, "the dataset holds no tokens")
        return
    every = np.arange(dataset.sizes["token"])
    taps = (dataset["tokens"].isel(layer=layer) for layer in range(dataset.sizes["layer"]))
    values = [np.concatenate([_cls_cosine(x, roles) for x in batches(t, every)]) for t in taps]
    array = xr.DataArray(np.stack(values), dims=("layer", "image"))
    array = array.assign_coords(axes.layer_coordinates(dataset))
    result[name] = describe(array, CLS_PATCH_COSINE, "1", RECONSTRUCTED, NAMED)
    bootstrap.add_interval(result, name, bootstrap.mean_draws(result[name], samples, seed))


def _cls_cosine(x: torch.Tensor, roles: TokenRoles) -> np.ndarray:
    """cos([CLS], mean patch) of each image, from its tokens x (image, token, channel)."""
    patch = x[:, roles.patches.to(x.device)].mean(dim=1, dtype=torch.float64)  # (image, channel)
    hub = x[:, roles.cls].double()
    norms = hub.norm(dim=-1) * patch.norm(dim=-1)
    return torch.where(norms > 0, (hub * patch).sum(dim=-1) / norms, torch.nan).cpu().numpy()


def _add_heads(result: xr.Dataset, pooled: xr.Dataset, samples: int, seed: int) -> None:
    """The mean over images of each head's summary: `{name}_head` (block, head)."""
    for measure in HEAD_VARIABLES:
        name, stored = f"{measure}_head", f"attention_{measure}"
        if stored not in pooled:
            reason = absences(result).get(measure) or _why_no_attention(pooled)
            mark_absent(result, name, reason or f"the pooled tier holds no {stored}")
            continue
        # bare values: the images of the pooled tier need not be those of the token tier
        ordered = pooled[stored].transpose("block", "head", "image")
        values = xr.DataArray(ordered.values.astype(np.float64), dims=ordered.dims)
        long_name, units, source = VARIABLES[measure]
        long_name = f"{long_name}, by head"
        result[name] = describe(values.mean("image"), long_name, units, RECONSTRUCTED, source)
        bootstrap.add_interval(result, name, bootstrap.mean_draws(values, samples, seed))
