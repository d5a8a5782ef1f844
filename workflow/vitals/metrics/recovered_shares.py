"""The shares of the patch embeddings recovered, from each test image's sums of squares.

All are ratios of sums over images, so intervals resample images and take the ratio anew; the draws
are the same for both arms, all nulls, and models that saw the same images.
"""

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr

from vitals.metrics import bootstrap
from vitals.metrics.results import PAPER, RECONSTRUCTED, describe, mark_absent

SOURCE = f"{PAPER}, Information Scrambling Index; the estimator is ours"
# Where a token by itself recovers all but this share, there is nothing left to recover.
NOTHING_LEFT = 1e-4

RATIOS = {
    "r2_self": "share of the patch embedding recovered from the same token",
    "r2_all": "share of the patch embedding recovered from all tokens",
    "isi": "Information Scrambling Index: recovered from all tokens and not from the same",
    "recovered": "share of what the same token has lost that all tokens give back",
}


def add_shares(result: xr.Dataset, samples: int, seed: int) -> None:
    """The shares, their intervals and draws, all from the same resamples of test images."""
    sums = [result[name] for name in ("error_self", "error_all", "total")]
    values, draws = _values_and_draws(_ratios, sums, samples, seed)
    for name, long_name in RATIOS.items():
        array = described(values[name], long_name, "1")
        result[name] = array.assign_attrs(images=result.sizes["image"])
        add = bootstrap.add_interval if name == "recovered" else bootstrap.add_draws
        add(result, name, draws[name])

    if "noise_matched" not in result["null"]:
        mark_absent(result, "isi_excess", "it is isi above the null 'noise_matched', not asked for")
        return
    long_name = "Information Scrambling Index above that of the noise-matched null"
    result["isi_excess"] = described(_excess(values["isi"]), long_name, "1")
    bootstrap.add_draws(result, "isi_excess", _excess(draws["isi"]))


def add_whitened(
    result: xr.Dataset,
    error_self: np.ndarray,
    error_all: np.ndarray,
    total: np.ndarray,
    samples: int,
    seed: int,
) -> None:
    """The shares of sums in which all principal channels of the embedding weigh alike.

    error_self, error_all (null, layer, image); total (null, image).
    """
    dims = ("null", "layer", "image")
    errors = [xr.DataArray(error, dims=dims) for error in (error_self, error_all)]
    sums = [*errors, xr.DataArray(total, dims=("null", "image"))]
    values, draws = _values_and_draws(_ratios, sums, samples, seed)
    for name in ("r2_self", "r2_all", "isi"):
        whitened = f"{name}_whitened"
        long_name = f"{RATIOS[name]}, whitened"
        result[whitened] = described(values[name], long_name, "1")
        bootstrap.add_interval(result, whitened, draws[name])


def add_by_distance(
    result: xr.Dataset,
    error_near: np.ndarray,
    distances: Sequence[float],
    samples: int,
    seed: int,
) -> None:
    """The index where a patch is rebuilt from the patches near it.

    error_near (null, layer, distance, image).
    """
    result.coords["distance"] = xr.DataArray(
        np.asarray(distances, dtype=np.float64),
        dims="distance",
        attrs={"long_name": "distance that context reaches", "units": "patches"},
    )
    near = xr.DataArray(error_near, dims=("null", "layer", "distance", "image"))
    sums = [result["error_self"], near, result["total"]]
    values, draws = _values_and_draws(_gained, sums, samples, seed)
    long_name = "Information Scrambling Index of the patches within a distance"
    result["isi_by_distance"] = described(values["isi"], long_name, "1")
    bootstrap.add_interval(result, "isi_by_distance", draws["isi"])


def _values_and_draws(
    ratios: Callable[..., dict[str, xr.DataArray]],
    sums: Sequence[xr.DataArray],
    samples: int,
    seed: int,
) -> tuple[dict[str, xr.DataArray], dict[str, xr.DataArray]]:
    """Ratios of sums over all images, and over each resample of them."""
    counts = bootstrap.image_counts(sums[0].sizes["image"], samples, seed).astype(np.float64)
    weights = xr.DataArray(counts, dims=("draw", "image"))
    values, draws = ratios(*(s.sum("image") for s in sums)), ratios(*(s.dot(weights) for s in sums))
    return values, draws


def _gained(
    error_self: xr.DataArray, error_near: xr.DataArray, total: xr.DataArray
) -> dict[str, xr.DataArray]:
    dims = [dim for dim in (*error_near.dims[:3], "draw") if dim in error_near.dims]
    return {"isi": ((error_self - error_near) / total).transpose(*dims)}


def _ratios(
    error_self: xr.DataArray, error_all: xr.DataArray, total: xr.DataArray
) -> dict[str, xr.DataArray]:
    lost = error_self / total
    isi = (error_self - error_all) / total
    recovered = (isi / lost.where(lost > NOTHING_LEFT)).transpose(*isi.dims)
    return {
        "r2_self": 1 - lost,
        "r2_all": 1 - error_all / total,
        "isi": isi,
        "recovered": recovered,
    }


def _excess(isi: xr.DataArray) -> xr.DataArray:
    return isi.sel(null="none", drop=True) - isi.sel(null="noise_matched", drop=True)


def add_precision(result: xr.Dataset, target: float) -> None:
    """How sure isi is, and how many test images would make it as sure as `target`."""
    images = result.sizes["image"]
    gained = result["error_self"] - result["error_all"]
    # Each image's pull on the ratio Σ gained / Σ total, to first order
    influence = (gained - result["isi"] * result["total"]) / result["total"].mean("image")
    deviation = influence.std("image", ddof=1 if images > 1 else 0)
    result["isi_standard_error"] = described(
        deviation / np.sqrt(images), "standard error of the Information Scrambling Index", "1"
    )
    needed = np.ceil(np.square(deviation / target))
    result["test_images_needed"] = described(
        needed, f"test images for a standard error of {target:g} in isi", "count"
    ).assign_attrs(target_standard_error=target)


def described(array: xr.DataArray, long_name: str, units: str) -> xr.DataArray:
    """The same array with the attributes of a scrambling result."""
    return describe(array, long_name, units, RECONSTRUCTED, SOURCE)
