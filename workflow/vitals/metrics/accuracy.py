"""How often is the model right, and is that what was published for its weights?

>>> import numpy as np, xarray as xr
>>> logits = np.eye(3)[[0, 1, 2, 0]]  # the last image is of class 1
>>> dataset = xr.Dataset(
...     {"logits": (("image", "class"), logits)},
...     coords={"label": ("image", [0, 1, 2, 1]), "split": ("image", ["test"] * 4)},
... )
>>> compute(dataset, bootstrap_samples=10)["top1"].item()
0.75
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from vitals.errors import VitalsError
from vitals.metrics import axes, bootstrap
from vitals.metrics.results import PUBLISHED, absences, describe, mark_absent

SOURCE = "top-1 and top-5 accuracy, Russakovsky et al. 2015"
POINT = 0.01
VALIDATION_CLASSES, VALIDATION_OF_CLASS = 1000, 50  # images of ImageNet-1k
FEW = 5
VARIABLES = {
    "top1": "top-1 accuracy on the test split",
    "top5": "top-5 accuracy on the test split",
    "top1_all": "top-1 accuracy on all images",
}
COMPARED = {
    "published_top1": "top-1 accuracy that is published for the weights",
    "published_difference": "top-1 accuracy on all images, less what is published",
}


def compute(
    dataset: xr.Dataset,
    *,
    tolerance: float = 0.3,
    bootstrap_samples: int = 1000,
    bootstrap_seed: int = 0,
) -> xr.Dataset:
    """The share of images whose own class has the largest logit, of all rows of the classifier.

    `top1` and `top5` (the class is among the five largest) on the test split, `top1_all` on all
    images, each with `_low`, `_high` and `_draws` from a bootstrap over images. Of a classifier of
    more classes than the images have, all compete. Of a model that was trained on the fit split,
    `top1_all` holds what it was trained on.
    Where the images are the whole validation set of ImageNet-1k (50 of each of 1,000 classes), and
    an accuracy is published for these weights and this preparation of images, `published_top1` and
    `published_difference`, whose interval is that of `top1_all` and says nothing of their error.

    dataset: the pooled tier: `logits` (image, class), `label`, a row of the classifier, and
    `split`; attribute `published`: {"top1": percent, "source"}. tolerance: in percentage points.
    A model without a classifier gives all as absent.
    Raises VitalsError where the difference is larger than `tolerance`: then the images, their
    classes, their preparation or the weights are not what they are said to be, and neither is
    anything else that is measured on them.
    Source: Russakovsky et al. 2015; the published values name theirs.
    """
    result = xr.Dataset()
    if "logits" not in dataset.variables:
        reason = absences(dataset).get("logits", "the model has no classifier")
        for name in (*VARIABLES, *COMPARED):
            mark_absent(result, name, reason)
        return result
    axes.require(dataset, "label", "split")
    ranks = _ranks(dataset)
    test = axes.split_indices(dataset, "test")
    scores = {"top1": ranks[test] < 1, "top5": ranks[test] < FEW, "top1_all": ranks < 1}
    for name, right in scores.items():
        if name == "top5" and dataset.sizes["class"] <= FEW:
            mark_absent(result, name, f"the classifier has {dataset.sizes['class']} classes")
            continue
        values = xr.DataArray(right.astype(np.float64), dims="image")
        result[name] = describe(values.mean(), VARIABLES[name], "1", PUBLISHED, SOURCE)
        result[name].attrs["note"] = f"of {values.size} images, {dataset.sizes['class']} classes"
        draws = bootstrap.mean_draws(values, bootstrap_samples, bootstrap_seed)
        bootstrap.add_draws(result, name, draws)
    _compare(result, dataset, tolerance)
    return result


def _ranks(dataset: xr.Dataset) -> np.ndarray:
    """How many classes have a larger logit than the image's own: (image,)."""
    labels, ranks = dataset["label"].values, np.empty(dataset.sizes["image"], dtype=np.int64)
    for images, logits in axes.image_blocks(dataset["logits"]):
        own = np.take_along_axis(logits, labels[images, None], axis=1)
        ranks[images] = (logits > own).sum(axis=1)
    return ranks


def _compare(result: xr.Dataset, dataset: xr.Dataset, tolerance: float) -> None:
    published: Mapping[str, Any] | None = dataset.attrs.get("published")
    if reason := _incomparable(published, dataset["label"].values):
        for name in COMPARED:
            mark_absent(result, name, reason)
        return
    expected, source = published["top1"] * POINT, published["source"]
    found = {"published_top1": expected, "published_difference": result["top1_all"] - expected}
    for name, value in found.items():
        array = xr.DataArray(value)
        result[name] = describe(array, COMPARED[name], "1", PUBLISHED, source)
    low, high = (result[f"top1_all_{end}"] - expected for end in ("low", "high"))
    bootstrap.put_interval(result, "published_difference", low, high)
    apart = abs(result["published_difference"].item()) / POINT
    if apart > tolerance:
        raise VitalsError(
            f"top-1 on the validation set of ImageNet-1k is {result['top1_all'].item():.2%}, "
            f"{published['top1']:.2f}% is published ({source}): {apart:.2f} points apart, more "
            f"than metrics.accuracy.tolerance = {tolerance}. The set-up is at fault, and all "
            "that is measured with it: look at which folder is which class, at how the images were "
            "scaled before, at the transform and at the weights"
        )


def _incomparable(published: Mapping[str, Any] | None, labels: np.ndarray) -> str:
    """Why a published accuracy says nothing of these images; "" where it does."""
    if not published:
        return "no accuracy is known that is published for these weights and images so prepared"
    _, counts = np.unique(labels, return_counts=True)
    if counts.size == VALIDATION_CLASSES and (counts == VALIDATION_OF_CLASS).all():
        return ""
    return (
        f"it is published for the {VALIDATION_CLASSES * VALIDATION_OF_CLASS} validation images of "
        f"ImageNet-1k: here are {labels.size} images of {counts.size} classes"
    )
