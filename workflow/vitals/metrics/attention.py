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

import numpy as np
import xarray as xr

from vitals.metrics import axes, bootstrap
from vitals.metrics.attention_measures import CLS_PATCH_COSINE, AttentionMeasures, roles_of
from vitals.metrics.reducer import over_attention, over_tokens
from vitals.metrics.results import PAPER, RECONSTRUCTED, absences, describe, mark_absent

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
    axes.require(dataset, "token_kind", *([] if _why_no_attention(dataset) else ["attention"]))
    reducer = AttentionMeasures(dataset, damping=damping)
    if "attention" in dataset:
        over_attention(reducer, dataset["attention"], "attention")
    if reducer.taken.size and "tokens" in dataset:
        over_tokens(reducer, dataset["tokens"], "[CLS] and patches")
    return finish(
        reducer.finish(dataset),
        pooled=pooled,
        bootstrap_samples=bootstrap_samples,
        bootstrap_seed=bootstrap_seed,
    )


def finish(
    values: xr.Dataset,
    *,
    pooled: xr.Dataset | None = None,
    bootstrap_samples: int = 1000,
    bootstrap_seed: int = 0,
) -> xr.Dataset:
    """The result of `compute` from the values of each image that `AttentionMeasures` has found."""
    roles, interval = roles_of(values), (bootstrap_samples, bootstrap_seed)
    result = xr.Dataset(
        coords={**_block_coordinates(values), **axes.image_coordinates(values)},
        attrs={
            "tokens": roles.tokens,
            "patches": len(roles.patches),
            "damping": values.attrs["damping"],
        },
    )
    if absent := absences(values).get("attention"):
        for name in (*VARIABLES, *MARGINALIZATION):
            mark_absent(result, name, absent)
    else:
        _add_maps(result, values, *interval)
        _add_marginalization(result, *interval)
    _add_cls_patch_cosine(result, values, *interval)
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


def _block_coordinates(dataset: xr.Dataset) -> dict[str, xr.DataArray]:
    return {str(name): c for name, c in dataset.coords.items() if c.dims == ("block",)}


def _add_maps(result: xr.Dataset, values: xr.Dataset, samples: int, seed: int) -> None:
    for name, (long_name, units, source) in VARIABLES.items():
        if name not in values:
            continue
        array = xr.DataArray(values[name].values, dims=("block", "image"))
        result[name] = describe(array, long_name, units, RECONSTRUCTED, source)
        bootstrap.add_interval(result, name, bootstrap.mean_draws(array, samples, seed))
    if "distance" not in values:
        mark_absent(result, "distance", "the patches have no row and column")


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


def _add_cls_patch_cosine(result: xr.Dataset, values: xr.Dataset, samples: int, seed: int) -> None:
    name = CLS_PATCH_COSINE
    if name not in values:
        mark_absent(result, name, "the dataset holds no tokens")
        return
    array = xr.DataArray(values[name].values, dims=("layer", "image"))
    array = array.assign_coords(axes.layer_coordinates(values))
    long_name = "cosine between [CLS] and the mean patch token"
    result[name] = describe(array, long_name, "1", RECONSTRUCTED, NAMED)
    bootstrap.add_interval(result, name, bootstrap.mean_draws(result[name], samples, seed))


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
