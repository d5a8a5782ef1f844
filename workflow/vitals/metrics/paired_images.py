"""Models are compared over the same images, in the same order.

>>> def of(*images):
...     values = {"x": ("image", np.arange(len(images)))}
...     return xr.Dataset(values, {"image_id": ("image", [*images])})
>>> ordered = in_one_order({"small": of("a", "b"), "large": of("b", "a")}, "x")
>>> ordered["large"]["x"].values.tolist()
[1, 0]
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from vitals.errors import VitalsError


def in_one_order(datasets: Mapping[str, xr.Dataset], what: str) -> dict[str, xr.Dataset]:
    """The datasets with their images in the order of the first, matched by `image_id` if known.

    Raises VitalsError, which names `what` and two models, where they are other images.
    """
    ordered: dict[str, xr.Dataset] = {}
    reference = None
    for model, dataset in datasets.items():
        images = _images(dataset)
        reference = images if reference is None else reference
        if len(images) != len(reference) or set(images) != set(reference):
            raise VitalsError(
                f"{what} of '{model}' is over other images than that of "
                f"'{next(iter(ordered))}': measure both on the same image list"
            )
        if not np.array_equal(images, reference):
            dataset = dataset.isel(image=images.get_indexer(reference))
        ordered[model] = dataset
    return ordered


def _images(dataset: xr.Dataset) -> pd.Index:
    if "image_id" in dataset.coords:
        return pd.Index(dataset["image_id"].values)
    return pd.RangeIndex(dataset.sizes["image"])
