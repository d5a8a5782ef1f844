"""Do two models hold the same geometry, and at which of their layers?

>>> x = np.random.default_rng(0).standard_normal((2, 60, 1, 3))  # two taps of 60 images
>>> def model(values):
...     array = (("layer", "image", "feature", "channel"), values)
...     return xr.Dataset(
...         {"pooled": array}, {"layer": ["embed", "position"], "feature": ["patch_mean"]}
...     )
>>> twice_as_wide = 3 * np.concatenate([x, x], axis=3)[::-1] + 1  # and its taps in reverse
>>> result = compute({"narrow": model(x), "wide": model(twice_as_wide)}, bootstrap_samples=10)
>>> result["cka"].sel(pair="narrow - wide", feature="patch_mean").round(2).values
array([[0.04, 1.  ],
       [1.  , 0.04]])
"""

from collections.abc import Iterable, Mapping
from itertools import combinations

import numpy as np
import xarray as xr

from vitals.metrics import axes
from vitals.metrics.bootstrap import put_interval
from vitals.metrics.kernel_alignment import CKA, FEWEST_IMAGES, Alignment, alignment_between
from vitals.metrics.paired_images import in_one_order
from vitals.metrics.results import PUBLISHED, absences, describe, mark_absent

DIMS = ("pair", "feature", "first_layer", "second_layer")
UNDEFINED = "not in both models, or the same for every image"


def compute(
    datasets: Mapping[str, xr.Dataset], *, bootstrap_samples: int = 1000, bootstrap_seed: int = 0
) -> xr.Dataset:
    """Linear CKA between each tap of one model and each of another, for all pairs of models.

    CKA(X, Y) = HSIC(X, Y) / √(HSIC(X, X)·HSIC(Y, Y)) of the pooled features of the same images,
    with linear kernels and the unbiased HSIC: 1 for features that differ by a rotation, a scale and
    an offset, of any two widths, and about 0 for independent ones. Summed exactly, block by block.

    datasets: by model, in the order in which pairs are named "a - b", the pooled tier: `pooled`
    (layer, image, feature, channel), coordinates `layer`, `feature` and, to match images by,
    `image_id`.
    Returns `cka` (pair, feature, first_layer, second_layer), with `_low` and `_high`, the 95 %
    interval over images. Both dims of layers name all taps that any model has; `first_depth`
    (pair, first_layer) and `second_depth` are those of the pair's own taps, in blocks, and NaN at
    others, as `cka` is. What a model lacks is absent, with its reason, in its pairs alone. Sums
    are in float64 on the accelerator, if there is one; it agrees with the CPU to 1e-6.
    Raises VitalsError where two models were given other images.
    Source: Kornblith et al. 2019, section 3, with HSIC_1 of Song et al. 2012, equation 5.
    """
    usable, reasons = _usable(datasets)
    result = _pairs(list(datasets), usable)
    for model, reason in reasons.items():
        mark_absent(result, f"cka, {model}", reason)
    if len(usable) < 2:
        found = ", ".join(usable) or "none"
        mark_absent(result, "cka", f"an alignment needs two models, found {found}")
        return result
    for model, feature in _lacking(usable, result["feature"].values):
        mark_absent(result, f"cka, {model}, {feature}", f"the model has no feature '{feature}'")

    values = xr.DataArray(np.full([result.sizes[dim] for dim in DIMS], np.nan), dims=DIMS)
    values = values.assign_coords({dim: result[dim] for dim in DIMS})
    low, high = values.copy(), values.copy()
    for first, second in combinations(usable, 2):
        for feature in _common(usable[first], usable[second]):
            found = _aligned(usable[first], usable[second], feature)
            ends = found.interval(bootstrap_samples, bootstrap_seed)
            place = {
                "pair": f"{first} - {second}",
                "feature": feature,
                "first_layer": usable[first]["layer"].values,
                "second_layer": usable[second]["layer"].values,
            }
            for array, part in zip((values, low, high), (found.cka, *ends), strict=True):
                array.loc[place] = part
    described = describe(values, "linear CKA between taps of two models", "1", PUBLISHED, CKA)
    images = next(iter(usable.values())).sizes["image"]
    result["cka"] = described.assign_attrs(images=images, undefined=UNDEFINED)
    put_interval(result, "cka", low, high)
    return result


def _usable(
    datasets: Mapping[str, xr.Dataset],
) -> tuple[dict[str, xr.Dataset], dict[str, str]]:
    """The models that take part, images in one order; and why others do not."""
    reasons = {}
    for model, dataset in datasets.items():
        if "pooled" not in dataset:
            reason = absences(dataset).get("pooled", "the pooled features are not there")
            reasons[model] = reason
            continue
        axes.require(dataset, "layer", "feature")
        if dataset.sizes["image"] < FEWEST_IMAGES:
            found = dataset.sizes["image"]
            reasons[model] = f"it needs {FEWEST_IMAGES} images, found {found}"
    there = {model: dataset for model, dataset in datasets.items() if model not in reasons}
    return in_one_order(there, "pooled"), reasons


def _pairs(models: list[str], usable: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """An empty result with its coordinates."""
    pairs = list(combinations(models, 2))
    layers = _layers(usable)
    sides = list(zip(*pairs, strict=True)) or [(), ()]
    features = [name for dataset in usable.values() for name in dataset["feature"].values.tolist()]
    depths = {model: _depths(usable, model, layers) for model in models}
    return xr.Dataset(
        coords={
            "pair": [f"{a} - {b}" for a, b in pairs],
            "feature": list(dict.fromkeys(features)),
            **{
                name: coordinate
                for side, of in zip(("first", "second"), sides, strict=True)
                for name, coordinate in {
                    side: ("pair", np.array(of, dtype=str)),
                    f"{side}_layer": layers,
                    f"{side}_depth": (
                        ("pair", f"{side}_layer"),
                        np.array([depths[model] for model in of]).reshape(len(pairs), len(layers)),
                    ),
                }.items()
            },
        }
    )


def _layers(usable: Mapping[str, xr.Dataset]) -> list[str]:
    """The names of all taps in the order of their depth; "norm", beyond each model's last, last."""
    depths: dict[str, float] = {}
    for dataset in usable.values():
        of = zip(dataset["layer"].values.tolist(), axes.depth(dataset).values.tolist(), strict=True)
        depths |= dict(of)
    return sorted(depths, key=lambda name: (name == axes.NORM, depths[name]))


def _depths(usable: Mapping[str, xr.Dataset], model: str, layers: list[str]) -> list[float]:
    """The depth of each of these taps in a model, NaN where it has none."""
    if model not in usable:
        return [np.nan] * len(layers)
    dataset = usable[model]
    own = dict(zip(dataset["layer"].values.tolist(), axes.depth(dataset).values, strict=True))
    return [float(own.get(layer, np.nan)) for layer in layers]


def _lacking(
    usable: Mapping[str, xr.Dataset], features: Iterable[str]
) -> Iterable[tuple[str, str]]:
    return [
        (model, str(feature))
        for model, dataset in usable.items()
        for feature in features
        if feature not in dataset["feature"].values
    ]


def _common(first: xr.Dataset, second: xr.Dataset) -> list[str]:
    return [name for name in first["feature"].values.tolist() if name in second["feature"].values]


def _aligned(first: xr.Dataset, second: xr.Dataset, feature: str) -> Alignment:
    """Of all taps of two models, (first's layer, second's layer)."""
    sides = [
        dataset["pooled"].sel(feature=feature).transpose("image", "layer", "channel")
        for dataset in (first, second)
    ]
    widest = max(side[0].size for side in sides)
    images = max(1, axes.NUMBERS_PER_BLOCK // widest)

    def blocks() -> Iterable[tuple[np.ndarray, np.ndarray]]:
        for pair in zip(*(axes.image_blocks(side, images) for side in sides), strict=True):
            # in one order, because that of sums follows the order in memory
            yield tuple(np.ascontiguousarray(values.swapaxes(0, 1)) for _, values in pair)

    return alignment_between(blocks)
