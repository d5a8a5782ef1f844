"""Intervals from a bootstrap over images, drawn alike for every model that saw the same images."""

import numpy as np
import xarray as xr

LEVEL = 0.95


def image_counts(images: int, samples: int, seed: int) -> np.ndarray:
    """How often each image is drawn in each resample: (draw, image), every row sums to `images`.

    The counts depend on the number of images, the number of samples and the seed alone, so draws of
    two models over the same images are paired.

    >>> image_counts(5, 3, seed=0).sum(axis=1)
    array([5, 5, 5])
    """
    generator = np.random.default_rng(seed)
    return generator.multinomial(images, np.full(images, 1 / images), size=samples)


def mean_draws(values: xr.DataArray, samples: int, seed: int) -> xr.DataArray:
    """The mean over `image` in each resample: dims of `values` with `draw` in place of `image`.

    Images whose value is NaN (nothing was defined there) take no part in the mean.
    """
    counts = image_counts(values.sizes["image"], samples, seed).astype(np.float64)
    return xr.apply_ufunc(
        _weighted_mean,
        values.astype(np.float64),
        input_core_dims=[["image"]],
        output_core_dims=[["draw"]],
        kwargs={"counts": counts},
    )


def _weighted_mean(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    defined = np.isfinite(values)
    total = np.where(defined, values, 0.0) @ counts.T  # (..., image) -> (..., draw)
    weight = defined.astype(np.float64) @ counts.T
    return np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)


def bounds(draws: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """The 2.5 % and 97.5 % percentiles over `draw`; NaN where no draw is defined."""
    tail = (1 - LEVEL) / 2
    low, high = (_quantile(draws, q) for q in (tail, 1 - tail))
    return low, high


def _quantile(draws: xr.DataArray, q: float) -> xr.DataArray:
    return xr.apply_ufunc(_defined_quantile, draws, input_core_dims=[["draw"]], kwargs={"q": q})


def _defined_quantile(values: np.ndarray, q: float) -> np.ndarray:
    undefined = np.isnan(values).all(axis=-1)
    safe = np.where(undefined[..., None], 0.0, values)
    return np.where(undefined, np.nan, np.nanquantile(safe, q, axis=-1))


def add_interval(result: xr.Dataset, name: str, draws: xr.DataArray) -> None:
    """Put `{name}_low` and `{name}_high` beside `result[name]`, described like it."""
    for suffix, bound in zip(("low", "high"), bounds(draws), strict=True):
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
