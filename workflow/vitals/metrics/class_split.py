"""The pooled tier as class metrics read it: one vector an image, its class, and its split."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from vitals.errors import VitalsError
from vitals.metrics import axes


@dataclass(frozen=True)
class ClassSplit:
    """Which images fit, sorted by class, and which test, in the order of the dataset.

    names (class,); fit and test: positions along `image`; fit_codes and test_codes: the class of
    each of these images, as an index into names; sizes (class,): fit images of each class.
    """

    names: np.ndarray
    fit: np.ndarray
    test: np.ndarray
    fit_codes: np.ndarray
    test_codes: np.ndarray
    sizes: np.ndarray


def class_split(
    dataset: xr.Dataset, classes: Sequence | None = None, fewest: int = 2
) -> ClassSplit:
    """The images of `classes` (of every class by default) by split; without `split` all are fit.

    Raises VitalsError for a class that has no image, for fewer than two classes, and where a class
    has fewer than `fewest` fit images.
    """
    axes.require(dataset, "label")
    labels = dataset["label"].values
    present = np.unique(labels)
    names = present if classes is None else np.unique(np.asarray(classes))
    if unknown := [str(name) for name in names if name not in present]:
        raise VitalsError(f"no image is of class {', '.join(unknown)}: name classes of the study")
    if names.size < 2:
        raise VitalsError(f"classes can be told apart only where there are 2, found {names.size}")

    codes = np.searchsorted(names, labels)
    codes = np.where(np.isin(labels, names), codes, -1)
    split = dataset["split"].values if "split" in dataset.variables else np.full(len(codes), "fit")
    fit, test = (np.flatnonzero((split == s) & (codes >= 0)) for s in ("fit", "test"))
    fit = fit[np.argsort(codes[fit], kind="stable")]
    sizes = np.bincount(codes[fit], minlength=names.size)
    if sizes.min() < fewest:
        raise VitalsError(
            f"class {names[sizes.argmin()]} has {sizes.min()} images in the split 'fit', "
            f"and at least {fewest} of each class are needed"
        )
    return ClassSplit(names, fit, test, codes[fit], codes[test], sizes)


def layer_features(dataset: xr.Dataset, layer: int) -> np.ndarray:
    """One tap's vectors as they are stored: (image, feature, channel).

    Raises VitalsError where a value is not finite.
    """
    tap = dataset["pooled"].isel(layer=layer).transpose("image", "feature", "channel")
    values = tap.values
    if not np.isfinite(values).all():
        raise VitalsError(f"pooled features of tap {tap['layer'].item()} are not all finite")
    return values


def without_offset(features: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The same vectors in float64, seen from one of them: (image, channel).

    What all images share is gone before anything is squared, and what is the same vector for every
    image, as [CLS] at the embedding is, becomes exactly zero.
    """
    return features.astype(np.float64) - reference.astype(np.float64)
