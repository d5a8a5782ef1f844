"""Intervals from a bootstrap over images, drawn alike for every model that saw the same images."""

from functools import lru_cache

import numpy as np
import xarray as xr

LEVEL = 0.95
ROUNDING = 1e-12  # of the largest draw: what varies by less does not vary
DRAWS_PER_BLOCK = 128  # of the counts, what is in memory as float64 at a time


@lru_cache(maxsize=2)
def image_counts(images: int, samples: int, seed: int) -> np.ndarray:
    """How often each image is drawn in each resample: (draw, image), every row sums to `images`.

    The counts depend on the number of images, the number of samples and the seed alone, so draws of
    two models over the same images are paired. It is the same array each time, and read-only.

    >>> image_counts(5, 3, seed=0).sum(axis=1)
    array([5, 5, 5])
    """
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(images, np.full(images, 1 / images), size=samples)
    counts.flags.writeable = False
    return counts


def mean_draws(values: xr.DataArray, samples: int, seed: int) -> xr.DataArray:
    """The mean over `image` in each resample: dims of `values` with `draw` in place of `image`.

    Images whose value is NaN (nothing was defined there) take no part in the mean.
    """
    counts = image_counts(values.sizes["image"], samples, seed)
    return xr.apply_ufunc(
        _weighted_mean,
        values.astype(np.float64),
        input_core_dims=[["image"]],
        output_core_dims=[["draw"]],
        kwargs={"counts": counts},
    )


def _weighted_mean(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(..., image) -> (..., draw)"""
    defined = np.isfinite(values)
    total = _weighted(np.where(defined, values, 0.0), counts)
    if defined.all():
        return total / values.shape[-1]
    weight = _weighted(defined.astype(np.float64), counts)
    return np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)


def _weighted(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    blocks = (counts[i : i + DRAWS_PER_BLOCK] for i in range(0, len(counts), DRAWS_PER_BLOCK))
    return np.concatenate([values @ block.T.astype(np.float64) for block in blocks], axis=-1)


def bounds(draws: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """The 2.5 % and 97.5 % percentiles over `draw`; NaN where no draw is defined."""
    tail = (1 - LEVEL) / 2
    low, high = (_quantile(draws, q) for q in (tail, 1 - tail))
    return low, high


def simultaneous_bounds(
    values: xr.DataArray, draws: xr.DataArray, dim: str
) -> tuple[xr.DataArray, xr.DataArray]:
    """The ends of a band that holds the whole curve along `dim` with 95 % confidence.

    value ± c·σ, with σ the deviation of the draws at each point, and c the 95 % percentile over
    draws of the largest |draw − value| / σ along the curve; nowhere narrower than the interval of
    the point alone. NaN where no draw is defined.
    Source: the studentised maximum (max-t) bootstrap (Romano & Wolf 2005).
    """
    spread = draws.std("draw")
    varies = spread > ROUNDING * abs(draws).max()
    largest = (abs(draws - values) / spread.where(varies)).max(dim)
    reach = _quantile(largest, LEVEL).fillna(0.0) * spread
    low, high = bounds(draws)
    return np.minimum(values - reach, low), np.maximum(values + reach, high)


def _quantile(draws: xr.DataArray, q: float) -> xr.DataArray:
    return xr.apply_ufunc(_defined_quantile, draws, input_core_dims=[["draw"]], kwargs={"q": q})


def _defined_quantile(values: np.ndarray, q: float) -> np.ndarray:
    defined = ~np.isnan(values)
    whole, some = defined.all(axis=-1), defined.any(axis=-1)
    found = np.full(whole.shape, np.nan)
    found[whole] = np.quantile(values[whole], q, axis=-1)
    partly = some & ~whole  # sorting around NaN takes far longer
    found[partly] = np.nanquantile(values[partly], q, axis=-1)
    return found


def add_interval(result: xr.Dataset, name: str, draws: xr.DataArray) -> None:
    """Put `{name}_low` and `{name}_high` beside `result[name]`, described like it."""
    put_interval(result, name, *bounds(draws))


def put_interval(result: xr.Dataset, name: str, low: xr.DataArray, high: xr.DataArray) -> None:
    """Put these ends of the interval beside `result[name]`, described like it."""
    for suffix, bound in zip(("low", "high"), (low, high), strict=True):
        attrs = dict(result[name].attrs)
        attrs["long_name"] = f"{attrs['long_name']}, {suffix} end of the {LEVEL:.0%} interval"
        result[f"{name}_{suffix}"] = bound.assign_attrs(attrs)


def add_draws(result: xr.Dataset, name: str, draws: xr.DataArray) -> None:
    """Put `{name}_low`, `{name}_high` and `{name}_draws` beside `result[name]`, `draw` last."""
    add_interval(result, name, draws)
    attrs = dict(result[name].attrs)
    attrs["long_name"] = f"{attrs['long_name']}, in each resample of the images"
    stored = draws.transpose(..., "draw").astype(np.float32)
    result[f"{name}_draws"] = stored.assign_attrs(attrs)
