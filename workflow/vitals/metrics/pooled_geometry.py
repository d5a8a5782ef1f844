"""The geometry of pooled features, a vector for each image: its dimension, and which taps agree."""

from collections.abc import Callable, Iterable

import numpy as np
import xarray as xr

from vitals.metrics import axes, bootstrap, intrinsic_dimension, kernel_alignment
from vitals.metrics.results import PUBLISHED, absences, describe, mark_absent
from vitals.progress import progress

TWO_NN = "Facco et al. 2017, TWO-NN"
VARIABLES = ("intrinsic_dimension", "cka")
UNDEFINED = "the feature is the same for every image"


def add(
    result: xr.Dataset,
    pooled: xr.Dataset | None,
    discarded_share: float,
    neighbour_images: int,
    samples: int,
    seed: int,
) -> None:
    """Put `intrinsic_dimension` and `cka` in the result, or why they are absent.

    pooled: the pooled tier, with `pooled` (layer, image, feature, channel), or None.
    """
    if pooled is None or "pooled" not in pooled:
        reason = None if pooled is None else absences(pooled).get("pooled")
        for name in VARIABLES:
            mark_absent(result, name, reason or "the pooled features are not there")
        return
    features = pooled["pooled"].transpose("feature", "layer", "image", "channel")
    if "feature" in pooled.coords:
        result.coords["feature"] = pooled["feature"].values
    some = features.isel(image=slice(neighbour_images))
    _add_intrinsic_dimension(result, some, discarded_share, samples, seed)
    images = features.sizes["image"]
    if images < kernel_alignment.FEWEST_IMAGES:
        reason = f"it needs {kernel_alignment.FEWEST_IMAGES} images, found {images}"
        mark_absent(result, "cka", reason)
    else:
        _add_cka(result, features, samples, seed)


def _add_intrinsic_dimension(
    result: xr.Dataset, features: xr.DataArray, discarded: float, samples: int, seed: int
) -> None:
    name, images = "intrinsic_dimension", features.sizes["image"]
    counts = bootstrap.image_counts(images, samples, seed)
    values = np.empty((features.sizes["layer"], features.sizes["feature"]))
    draws = np.empty((*values.shape, samples))
    for layer, feature in progress(list(np.ndindex(values.shape)), "neighbours"):
        points = features.isel(layer=layer, feature=feature).values
        found = intrinsic_dimension.neighbours(points)
        values[layer, feature] = intrinsic_dimension.two_nn(found.ratios, discarded)
        draws[layer, feature] = intrinsic_dimension.resampled(found, counts, discarded)
    array = xr.DataArray(values, dims=("layer", "feature"))
    long_name = "intrinsic dimension of the pooled features"
    described = describe(array, long_name, "dimensions", PUBLISHED, TWO_NN)
    result[name] = described.assign_attrs(images=images, undefined=UNDEFINED)
    drawn = xr.DataArray(draws, dims=("layer", "feature", "draw"))
    bootstrap.add_draws(result, name, drawn)


def _add_cka(result: xr.Dataset, features: xr.DataArray, samples: int, seed: int) -> None:
    found = [
        kernel_alignment.alignment(_blocks(features.isel(feature=feature)))
        for feature in range(features.sizes["feature"])
    ]
    dims = ("feature", "layer", "other_layer")
    array = xr.DataArray(np.stack([of.cka for of in found]), dims=dims)
    if "layer" in result.coords:
        result.coords["other_layer"] = result["layer"].values
    described = describe(array, "linear CKA between taps", "1", PUBLISHED, kernel_alignment.CKA)
    result["cka"] = described.assign_attrs(images=features.sizes["image"], undefined=UNDEFINED)
    ends = zip(*(of.interval(samples, seed) for of in found), strict=True)
    bootstrap.put_interval(result, "cka", *(array.copy(data=np.stack(end)) for end in ends))


def _blocks(features: xr.DataArray) -> Callable[[], Iterable[np.ndarray]]:
    """Blocks (layer, image, channel) of one feature."""
    ordered = features.transpose("image", "layer", "channel")

    def blocks() -> Iterable[np.ndarray]:
        for _, values in axes.image_blocks(ordered):
            # in one order, because that of sums follows the order in memory
            yield np.ascontiguousarray(values.swapaxes(0, 1))

    return blocks
