"""Over models of one recipe and several depths or widths: what grows, what stays, what foretells?

>>> def model(blocks, share):  # of 10 images, that share is taken for its class
...     top1 = xr.DataArray(np.arange(10) < 10 * share, dims="image").astype(float)
...     return {"interventions": xr.Dataset({"top1": top1}, {"place": list(range(blocks + 1))})}
>>> shares = {2: 0.5, 4: 0.7, 8: 0.9, 16: 0.6}
>>> results = {f"depth{blocks}": model(blocks, share) for blocks, share in shares.items()}
>>> about = {name: {"parameters": 1} for name in results}
>>> found = compute(results, about, bootstrap_samples=100)
>>> found["level_accuracy"].values, bool(found["rises_throughout"])
(array([0.5, 0.7, 0.9, 0.6]), False)
>>> found["correlation"].sel(predictor="blocks").item()
0.4
"""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from vitals.metrics import bootstrap
from vitals.metrics.paired_images import in_one_order
from vitals.metrics.results import RECONSTRUCTED, describe, mark_absent
from vitals.metrics.sweep_models import (
    BASELINES,
    LENGTHS,
    OUTCOME,
    PREDICTORS,
    Swept,
    level_of,
    swept,
)

SOURCE = "bootstrap over images, and over the models of each level"
RANKS = "Spearman 1904; bootstrap over images, and over the models of each level"
BAND = "Romano & Wolf 2005, studentised maximum"
PERMUTED = "permutations of the models; Benjamini & Yekutieli 2001 over the predictors"
PERMUTATIONS = 9999
FEWEST_LEVELS, FEWEST_MODELS = 3, 4
KEEPS, STRETCHES = "keeps its length", "stretches with depth"
SHRINKS, UNDECIDED = "shrinks with depth", "undecided"
Results = Mapping[str, Mapping[str, xr.Dataset]]


def compute(
    results: Results,
    about: Mapping[str, Mapping[str, Any]],
    *,
    factor: str = "depth",
    bootstrap_samples: int = 1000,
    bootstrap_seed: int = 0,
) -> xr.Dataset:
    """What changes from level to level of a sweep, and what of a model goes with its accuracy.

    results: by model, those of interventions (`top1` by image, `place`), and of phases, attention,
    collapse, scrambling and depth; about: by model, its report; factor: "depth", whose levels are
    numbers of blocks, or "width", channels. Models of one level differ in their seeds.
    Each draw takes the same images for all models and, of each level, as many models as it has,
    with replacement; where levels have one model the intervals are over images alone, and `note`
    says so. Returns
    - `level_accuracy` (level); `accuracy_difference` (pair), of the second level less the first,
      with `_simultaneous_low` and `_high`, which hold all pairs at once; `rises_throughout`, if
      no level is worse than one before it, as measured; `falls`, how many pairs surely fall;
    - `length` (quantity, level), of each phase and of the useful depth, in blocks; `length_slope`
      (quantity), blocks for each block more; `relative_slope`, the same of the length as a share of
      the depth; and the coordinate `verdict`: it stretches where the first interval is above
      0, shrinks where it is below, keeps its length where it holds 0 and the second is below;
    - `correlation` (predictor), the rank correlation with accuracy over models, with intervals,
      `_simultaneous_low` and `_high`, `correlation_p`, and `correlation_p_adjusted` for how many
      predictors there are; `partial_correlation` (predictor), of ranks without what the level
      explains; `advantage` (candidate, baseline): |correlation| less that of blocks, or of
      parameters, with `_simultaneous_low` and `_high`; `rank_correlation` (first, second), of all
      with all.
    A length that a model lacks is NaN at its level, and a predictor that it lacks is none; the
    reason is recorded under "{name}, {model}". Fewer than three levels, or four models, give the
    sweep as absent. Raises VitalsError for models that were measured on other images.
    Source: ranks, Spearman 1904; intervals and tests as said of each variable.
    """
    result = xr.Dataset()
    levels = {model: level_of(of, about[model], factor) for model, of in results.items()}
    if reason := _too_few(levels, factor):
        mark_absent(result, "sweep", reason)
        return result
    ordered = in_one_order({m: of["interventions"] for m, of in results.items()}, "top1")
    paired = {m: {**of, "interventions": ordered[m]} for m, of in results.items()}
    models = swept(paired, about, levels, bootstrap_samples, bootstrap_seed)
    for model in results:
        if reason := models.absent.get(f"{OUTCOME}, {model}"):
            mark_absent(result, "sweep", f"{model}: {reason}")
            return result
    for name, reason in models.absent.items():
        mark_absent(result, name, reason)
    drawn = _resampled(models, bootstrap_samples, bootstrap_seed)
    result.attrs |= {"factor": factor, "models": len(levels), "note": _note(models)}
    _add_levels(result, models, drawn)
    _add_lengths(result, models, drawn)
    _add_correlations(result, models, drawn, bootstrap_seed)
    return result


def _too_few(levels: Mapping[str, float | None], factor: str) -> str | None:
    unknown = [model for model, level in levels.items() if level is None]
    if unknown:
        return f"the {factor} of {', '.join(unknown)} is not known"
    if len(set(levels.values())) < FEWEST_LEVELS or len(levels) < FEWEST_MODELS:
        return (
            f"a sweep needs {FEWEST_LEVELS} levels of {factor} and {FEWEST_MODELS} models, found "
            f"{len(set(levels.values()))} and {len(levels)}"
        )
    return None


def _note(models: Swept) -> str:
    sizes = np.unique(models.level, return_counts=True)[1]
    if sizes.min() > 1:
        return f"intervals over images and over {sizes.min()} or more models of each level"
    return "a level has one model: intervals over images alone there, not over seeds"


def _resampled(models: Swept, samples: int, seed: int) -> np.ndarray:
    """Which models take part in each draw, as many of each level as it has: (draw, model)."""
    random = np.random.default_rng(seed)
    chosen = np.empty((samples, models.level.size), dtype=int)
    for level in np.unique(models.level):
        of_level = np.flatnonzero(models.level == level)
        chosen[:, of_level] = random.choice(of_level, (samples, of_level.size))
    return chosen


def _taken(draws: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The values of the models of each draw: (..., model, draw) -> (..., model, draw)."""
    return np.take_along_axis(draws, drawn.T.reshape((1,) * (draws.ndim - 2) + drawn.T.shape), -2)


def _by_level(values: np.ndarray, level: np.ndarray, axis: int) -> np.ndarray:
    """Means over the models of each level, along the axis of models."""
    means = [values.compress(level == one, axis).mean(axis) for one in np.unique(level)]
    return np.stack(means, axis)


def _add_levels(result: xr.Dataset, models: Swept, drawn: np.ndarray) -> None:
    levels = np.unique(models.level)
    result.coords["level"] = levels
    values, draws = models.values[OUTCOME], _taken(models.draws[OUTCOME], drawn)
    accuracy = xr.DataArray(_by_level(values, models.level, 0), dims="level")
    of_levels = xr.DataArray(_by_level(draws, models.level, 0), dims=("level", "draw"))
    _add(result, "level_accuracy", accuracy, "mean accuracy of the models of a level", of_levels)

    pairs = list(combinations(range(levels.size), 2))
    first, second = (xr.DataArray(list(side), dims="pair") for side in zip(*pairs, strict=True))
    result.coords["pair"] = [f"{levels[b]:g} - {levels[a]:g}" for a, b in pairs]
    difference = accuracy[second] - accuracy[first]
    differences = of_levels.isel(level=second) - of_levels.isel(level=first)
    said = "accuracy of a level less that of one before it"
    _add(result, "accuracy_difference", difference, said, differences, band="pair")
    result["rises_throughout"] = _described(
        (difference >= 0).all(), "whether no level is worse than one before it", SOURCE
    )
    falls = (result["accuracy_difference_simultaneous_high"] < 0).sum()
    result["falls"] = describe(
        falls, "pairs of levels of which the later is surely worse", "count", RECONSTRUCTED, BAND
    )


def _add_lengths(result: xr.Dataset, models: Swept, drawn: np.ndarray) -> None:
    """How the length of each phase, and the useful depth, go with the number of blocks."""
    known = {name: np.isfinite(models.values[name]) for name in LENGTHS}
    names = [name for name, of in known.items() if np.unique(models.blocks[of]).size > 1]
    if not names:
        mark_absent(result, "length", "no models of two depths have one")
        return
    result.coords["quantity"] = names
    values = np.stack([models.values[name] for name in names])  # (quantity, model)
    draws = _taken(np.stack([models.draws[name] for name in names]), drawn)
    blocks = models.blocks[:, None]  # a model is drawn for one of its level
    lengths = xr.DataArray(_by_level(values, models.level, 1), dims=("quantity", "level"))
    of_draws = xr.DataArray(_by_level(draws, models.level, 1), dims=("quantity", "level", "draw"))
    _add(result, "length", lengths, "length of a phase, and useful depth", of_draws, units="blocks")
    bounds = {}
    for variable, scale, said in (
        ("length_slope", 1, "blocks that a length gains with each block"),
        ("relative_slope", blocks + 1, "share of the depth that a length gains with each block"),
    ):
        of = [np.flatnonzero(known[name]) for name in names]  # the models of each quantity
        slope = [
            _slope((value[:, None] / scale)[at], models.blocks[at])[0]
            for value, at in zip(values, of, strict=True)
        ]
        slopes = [
            _slope((drawn_of / scale)[at], models.blocks[at])
            for drawn_of, at in zip(draws, of, strict=True)
        ]
        value = xr.DataArray(slope, dims="quantity")
        _add(result, variable, value, said, xr.DataArray(slopes, dims=("quantity", "draw")))
        low, high = result[f"{variable}_low"], result[f"{variable}_high"]
        bounds[variable] = low.values, high.values
    result.coords["verdict"] = (
        "quantity",
        [
            _verdict((low, high), (share_low, share_high))
            for low, high, share_low, share_high in zip(
                *bounds["length_slope"], *bounds["relative_slope"], strict=True
            )
        ],
    )


def _slope(values: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Least squares over models: (..., model, draw) -> (..., draw)."""
    centred = blocks - blocks.mean()
    return np.einsum("...md,m->...d", values, centred) / (centred @ centred)


def _verdict(slope: tuple[float, float], share: tuple[float, float]) -> str:
    """From the intervals of both slopes.

    >>> _verdict((0.1, 0.2), (-0.1, 0.1)), _verdict((-0.1, 0.1), (-0.2, -0.1))
    ('stretches with depth', 'keeps its length')
    >>> _verdict((-0.1, 0.2), (-0.1, 0.1)), _verdict((-0.2, -0.1), (-0.2, -0.1))
    ('undecided', 'shrinks with depth')
    """
    if slope[0] > 0:
        return STRETCHES
    if slope[1] < 0:
        return SHRINKS
    return KEEPS if share[1] < 0 else UNDECIDED


def _add_correlations(result: xr.Dataset, models: Swept, drawn: np.ndarray, seed: int) -> None:
    # all over the same models: what is not known of one is no predictor
    names = [OUTCOME, *(n for n in PREDICTORS if not np.isnan(models.values[n]).any())]
    values = np.stack([models.values[name] for name in names])  # (variable, model)
    draws = _taken(np.stack([models.draws[name] for name in names]), drawn)
    matrix = rank_correlation(values[..., None])[..., 0]
    matrices = rank_correlation(draws)
    result.coords["first"] = result.coords["second"] = names
    both = ("first", "second")
    _add(result, "rank_correlation", xr.DataArray(matrix, dims=both), "rank correlation",
         xr.DataArray(matrices, dims=(*both, "draw")), source=RANKS)  # fmt: skip

    result.coords["predictor"] = names[1:]
    own = xr.DataArray(matrix[0, 1:], dims="predictor")
    of_draws = xr.DataArray(matrices[0, 1:], dims=("predictor", "draw"))
    _add(result, "correlation", own, "rank correlation with accuracy over models", of_draws,
         band="predictor", source=RANKS)  # fmt: skip
    chances = np.array([_chance(values[0], x, seed) for x in values[1:]])
    adjusted = np.full(chances.shape, np.nan)
    known = np.isfinite(chances)
    if known.any():
        adjusted[known] = stats.false_discovery_control(chances[known], method="by")
    for name, p in (("correlation_p", chances), ("correlation_p_adjusted", adjusted)):
        long_name = "probability of so strong a rank correlation by chance"
        array = xr.DataArray(p, dims="predictor")
        result[name] = describe(array, long_name, "1", RECONSTRUCTED, PERMUTED)
    _add_partial(result, values, draws, models.level, drawn)
    _add_advantage(result, own, of_draws)


def rank_correlation(values: np.ndarray) -> np.ndarray:
    """Spearman's between all variables over models, in each draw: (variable, model, draw) -> ...

    (variable, variable, draw); NaN where a variable does not vary, or is not known.

    >>> x = np.array([[1.0, 2, 3, 4], [1, 4, 9, 16], [4, 3, 2, 1], [1, 1, 1, 1]])
    >>> rank_correlation(x[..., None])[0, :, 0]
    array([ 1.,  1., -1., nan])
    """
    ranks = _ranks(values)
    return _correlation(ranks[:, None], ranks[None])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks over models, (..., model, draw), less their mean; rounding makes no order."""
    rounded = np.round(values, 9)
    ranks = stats.rankdata(rounded, axis=-2, nan_policy="propagate")
    return ranks - ranks.mean(axis=-2, keepdims=True)


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of what is centred over models, (..., model, draw) -> (..., draw); NaN of no variance."""
    scale = np.sqrt((x * x).sum(axis=-2) * (y * y).sum(axis=-2))
    product = (x * y).sum(axis=-2)
    return np.divide(product, scale, out=np.full_like(product, np.nan), where=scale > 1e-9)


def _chance(accuracy: np.ndarray, predictor: np.ndarray, seed: int) -> float:
    if not np.isfinite(predictor).all() or np.ptp(predictor) == 0 or np.ptp(accuracy) == 0:
        return np.nan
    ranks = [stats.rankdata(np.round(x, 9)) for x in (accuracy, predictor)]
    return float(
        stats.permutation_test(
            (ranks[0],), lambda x, axis: _against(x, ranks[1], axis), permutation_type="pairings",
            n_resamples=PERMUTATIONS, rng=seed, vectorized=True,
        ).pvalue
    )  # fmt: skip


def _against(x: np.ndarray, fixed: np.ndarray, axis: int) -> np.ndarray:
    """What a rank correlation is, but for the scale that no permutation changes."""
    return ((x - x.mean(axis=axis, keepdims=True)) * (fixed - fixed.mean())).sum(axis=axis)


def _add_partial(
    result: xr.Dataset, values: np.ndarray, draws: np.ndarray, level: np.ndarray, drawn: np.ndarray
) -> None:
    """Of ranks, less the part that is linear in the rank of the level."""
    of_draws = np.broadcast_to(level[:, None], (level.size, drawn.shape[0]))
    found = []
    for each, of_level in ((values[..., None], level[:, None]), (draws, of_draws)):
        ranks, given = _ranks(each), _ranks(of_level)
        share = (ranks * given).sum(axis=-2) / (given * given).sum(axis=-2)
        rest = ranks - share[..., None, :] * given
        rest[np.broadcast_to((rest**2).sum(axis=-2, keepdims=True) < 1e-6, rest.shape)] = 0
        found.append(_correlation(rest[1:], rest[:1]))
    value = xr.DataArray(found[0][..., 0], dims="predictor")
    said = "rank correlation with accuracy without what the level explains"
    _add(result, "partial_correlation", value, said,
         xr.DataArray(found[1], dims=("predictor", "draw")), source=RANKS)  # fmt: skip
    result["partial_correlation"].attrs["undefined"] = "it is the level, or goes with it entirely"


def _add_advantage(result: xr.Dataset, own: xr.DataArray, draws: xr.DataArray) -> None:
    """How much more closely each predictor goes with accuracy than a baseline does."""
    names = result["predictor"].values.tolist()
    others = [name for name in names if name not in BASELINES]
    baselines = [name for name in names if name in BASELINES]
    if not others or not baselines:
        return
    result.coords["candidate"], result.coords["baseline"] = others, baselines
    at, base = ([names.index(name) for name in of] for of in (others, baselines))
    value, of_draws = (
        abs(x.isel(predictor=at)).rename(predictor="candidate")
        - abs(x.isel(predictor=base)).rename(predictor="baseline")
        for x in (own, draws)
    )
    _add(result, "advantage", value, "absolute rank correlation with accuracy less the baseline's",
         of_draws, band="candidate", source=RANKS)  # fmt: skip


def _add(
    result: xr.Dataset,
    name: str,
    values: xr.DataArray,
    long_name: str,
    draws: xr.DataArray,
    *,
    units: str = "1",
    source: str = SOURCE,
    band: str | None = None,
) -> None:
    """A value with its interval and, along the dim of `band`, one that holds all at once."""
    values = values.reset_coords(drop=True)
    result[name] = describe(values, long_name, units, RECONSTRUCTED, source)
    bootstrap.add_interval(result, name, draws)
    if band is None:
        return
    ends = bootstrap.simultaneous_bounds(values, draws, band)
    for end, bound in zip(("low", "high"), ends, strict=True):
        attrs = {**result[name].attrs, "source": BAND}
        attrs["long_name"] = f"{long_name}, {end} end of the simultaneous interval"
        result[f"{name}_simultaneous_{end}"] = bound.assign_attrs(attrs)


def _described(values: xr.DataArray, long_name: str, source: str) -> xr.DataArray:
    return describe(values, long_name, "1", RECONSTRUCTED, source)
