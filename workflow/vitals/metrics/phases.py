"""Does token similarity fall, rest and rise again with depth, and where does each phase end?

>>> import numpy as np, xarray as xr
>>> t = np.arange(26.0)
>>> curve = 0.02 - 0.022 * np.minimum(t, 1) + 0.03 * np.maximum(t - 15, 0)
>>> result = compute(xr.Dataset({"centered_cosine": ("layer", curve)}))
>>> [result[name].item() for name in ("cliff_end", "climb_start", "pieces")]
[1.0, 15.0, 3]
"""

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr

from vitals.errors import VitalsError
from vitals.metrics import axes, bootstrap, piecewise
from vitals.metrics.results import PAPER, RECONSTRUCTED, describe, mark_absent

SOURCE = f"{PAPER}, Cliff, Plateau and Climb; the fit is a stated choice"
KNOT_STEP = 0.25
LATEST_CLIFF_END = 3.0
MINIMUM_TAPS = 5

VARIABLES = {
    "cliff_end": ("depth at which the cliff ends", "layers"),
    "climb_start": ("depth at which the climb starts", "layers"),
    "slope_cliff": ("slope of the cliff", "1/layer"),
    "slope_plateau": ("slope of the plateau", "1/layer"),
    "slope_climb": ("slope of the climb", "1/layer"),
    "cliff_depth": ("fall of the similarity where positions are added", "1"),
    "plateau_length": ("length of the plateau between the knots", "layers"),
    "plateau_length_relative": ("length of the plateau, relative to depth", "1"),
    "plateau_length_threshold": ("longest run of taps close to the minimum", "layers"),
    "pieces": ("number of linear pieces with the lowest BIC", "count"),
    "pieces_share": ("share of resamples in which so many pieces have the lowest BIC", "1"),
    "bic": ("Bayesian information criterion of the fit with so many pieces", "nat"),
    "fit": ("three-piece fit of the mean centred cosine", "1"),
    "residual_rms": ("root mean square residual of the three-piece fit", "1"),
}


def compute(
    dataset: xr.Dataset,
    *,
    thresholds: Sequence[float] = (0.05, 0.1, 0.2),
    bootstrap_samples: int = 1000,
    bootstrap_seed: int = 0,
) -> xr.Dataset:
    """The phases of the mean centred-cosine curve s(t), with their 95 % intervals over images.

    s(t) ≈ a + b·t + c₁·(t − k₁)₊ + c₂·(t − k₂)₊ by least squares, with knots on a quarter-layer
    grid, k₁ ≤ 3 and k₂ ≥ k₁ + 1: `cliff_end` k₁, `climb_start` k₂, `plateau_length` k₂ − k₁, the
    slopes b, b + c₁, b + c₁ + c₂. Knots that fit equally well: the longest plateau, so that a
    cliff or climb that is absent leaves the plateau its room. `pieces` is the lowest of
    `bic` = n·log(RSS/n) + 2p·log n over p = 1, 2, 3 pieces (dim `piece_count`; only those with
    fewer parameters, 2p, than taps, n). `plateau_length_threshold` is the length of the longest run
    of taps with s ≤ min + κ·(max − min), for κ in `thresholds` (dim `threshold`); a tap has the
    depth between the middles to its neighbours, one layer where taps are one apart.

    dataset: the result of similarity: `centered_cosine` (layer, image), or its mean (layer), which
    has no interval. t is its `depth`, in blocks, so that taps within a block stand between those of
    the blocks; tap "norm" is left out. Scalars in layers unless `VARIABLES` says otherwise; `fit`
    is over (layer); `{name}_draws` over (..., draw). Fewer than five taps, or taps that span too
    little depth for two knots, give the metric as absent.
    Raises VitalsError where `centered_cosine` is missing or depth does not increase.
    Source: arXiv 2511.21635 names the phases; the fit is a stated choice.
    """
    axes.require(dataset, "centered_cosine")
    taps = axes.stream_taps(dataset[["centered_cosine"]])
    depth = axes.depth(taps).values.astype(np.float64)
    if np.any(np.diff(depth) <= 0):
        raise VitalsError(f"phases need a depth that increases over layers, found {depth.tolist()}")

    result = xr.Dataset(
        coords={
            **axes.layer_coordinates(taps),
            "threshold": np.asarray(thresholds, dtype=np.float64),
        }
    )
    curves = _curves(taps["centered_cosine"], bootstrap_samples, bootstrap_seed)
    reason = _unfit(curves, depth)
    if reason:
        mark_absent(result, "phases", reason)
        return result
    if len(curves) == 1:
        mark_absent(result, "interval", "the curve is given as a mean, without its images")

    three = piecewise.fit(depth, curves, three_piece_knots(depth))
    for name, values in _headlines(depth, three).items():
        _add(result, name, values)
    _add_cliff_depth(result, taps, curves)
    runs = np.stack([longest_run(curves, depth, share) for share in thresholds])
    _add(result, "plateau_length_threshold", runs, ("threshold",))
    _add_pieces(result, depth, curves, three)
    _add(result, "fit", three.fitted.T, ("layer",), bootstrap.add_interval)
    _describe(result, "residual_rms", np.sqrt(three.residual[0] / depth.size))
    return result


def three_piece_knots(depth: np.ndarray) -> np.ndarray:
    """The candidates (k₁, k₂) for the two knots, the longest plateau first: (candidate, 2)."""
    grid = piecewise.knot_grid(depth, KNOT_STEP)
    first, second = (knots.ravel() for knots in np.meshgrid(grid, grid, indexing="ij"))
    allowed = (first <= LATEST_CLIFF_END) & (second >= first + 1)
    knots = np.stack([first, second], axis=1)[allowed]
    return knots[np.argsort(knots[:, 0] - knots[:, 1], kind="stable")]


def longest_run(curves: np.ndarray, depth: np.ndarray, share: float) -> np.ndarray:
    """Layers of the longest run within `share` of a curve's range above its minimum: (curve,)."""
    low, high = curves.min(axis=1), curves.max(axis=1)
    close = curves <= (low + share * (high - low))[:, None]
    length = longest = np.zeros(len(curves))
    for tap, own in zip(close.T, _spans(depth), strict=True):
        length = (length + own) * tap
        longest = np.maximum(longest, length)
    return longest


def _spans(depth: np.ndarray) -> np.ndarray:
    """The layers that each tap stands for: half the steps before and after it, its one at an end.

    >>> _spans(np.array([0, 0.5, 1, 2, 3]))
    array([0.5 , 0.5 , 0.75, 1.  , 1.  ])
    """
    steps = np.diff(depth)
    return (np.append(steps[0], steps) + np.append(steps, steps[-1])) / 2


def _curves(similarity: xr.DataArray, samples: int, seed: int) -> np.ndarray:
    """The mean curve, and after it that of each resample of the images: (1 + draw, layer)."""
    similarity = similarity.astype(np.float64).compute()
    if "image" not in similarity.dims:
        return similarity.values[None]
    mean = bootstrap.mean_draws(similarity, samples, seed).transpose("draw", "layer").values
    return np.concatenate([similarity.mean("image").values[None], mean])


def _unfit(curves: np.ndarray, depth: np.ndarray) -> str | None:
    """Why no phases can be fitted, if so."""
    if depth.size < MINIMUM_TAPS:
        return f"three pieces need at least {MINIMUM_TAPS} taps, found {depth.size}"
    if not len(three_piece_knots(depth)):
        return f"two knots, a layer apart, do not fit between the taps at {depth.tolist()}"
    if not np.isfinite(curves).all():
        return "the centred cosine is not defined at every tap"
    return None


def _headlines(depth: np.ndarray, three: piecewise.Fit) -> dict[str, np.ndarray]:
    first, second = three.knots.T
    cliff, plateau, climb = three.slopes.T
    return {
        "cliff_end": first,
        "climb_start": second,
        "slope_cliff": cliff,
        "slope_plateau": plateau,
        "slope_climb": climb,
        "plateau_length": second - first,
        "plateau_length_relative": (second - first) / depth.max(),
    }


def _add_cliff_depth(result: xr.Dataset, taps: xr.Dataset, curves: np.ndarray) -> None:
    """s(embed) − s(position), the first two taps where the layers have no names."""
    names = list(taps["layer"].values) if "layer" in taps.coords else ["embed", "position"]
    missing = [name for name in ("embed", "position") if name not in names]
    if missing:
        mark_absent(result, "cliff_depth", f"the model has no tap '{missing[0]}'")
        return
    _add(
        result, "cliff_depth", curves[:, names.index("embed")] - curves[:, names.index("position")]
    )


def _add_pieces(
    result: xr.Dataset, depth: np.ndarray, curves: np.ndarray, three: piecewise.Fit
) -> None:
    """`pieces`, `bic` and `pieces_share`, of the fits with fewer parameters than taps."""
    residuals = {
        1: piecewise.fit(depth, curves, np.empty((1, 0))).residual,
        2: piecewise.fit(depth, curves, piecewise.knot_grid(depth, KNOT_STEP)[:, None]).residual,
        3: three.residual,
    }
    counts = np.array([pieces for pieces in residuals if 2 * pieces < depth.size])
    bic = np.stack([piecewise.bic(curves, residuals[n], parameters=2 * n) for n in counts])
    best = counts[bic.argmin(axis=0)]  # (curve,)
    result.coords["piece_count"] = counts
    _describe(result, "bic", bic[:, 0], ("piece_count",))
    _describe(result, "pieces", best[0])
    if len(curves) > 1:
        share = (best[1:] == counts[:, None]).mean(axis=1)
        _describe(result, "pieces_share", share, ("piece_count",))


def _add(
    result: xr.Dataset,
    name: str,
    values: np.ndarray,
    dims: tuple[str, ...] = (),
    add: Callable[[xr.Dataset, str, xr.DataArray], None] = bootstrap.add_draws,
) -> None:
    """A variable from its values (..., curve): the mean curve's, and what `add` makes of draws."""
    _describe(result, name, values[..., 0], dims)
    if values.shape[-1] > 1:
        add(result, name, xr.DataArray(values[..., 1:], dims=(*dims, "draw")))


def _describe(
    result: xr.Dataset, name: str, values: np.ndarray, dims: tuple[str, ...] = ()
) -> None:
    long_name, units = VARIABLES[name]
    result[name] = describe(
        xr.DataArray(values, dims=dims), long_name, units, RECONSTRUCTED, SOURCE
    )
