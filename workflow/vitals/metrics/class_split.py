"""The pooled tier as class metrics read it: one vector an image, its class, and its split."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from vitals.errors import VitalsError, unknown
from vitals.metrics import axes

NAMED = 5  # of many classes that are left out


@dataclass(frozen=True)
class ClassSplit:
    """Which images fit, sorted by class, and which test, in the order of the dataset.

    names (class,), in the order in which the list of images first has them; fit and test: positions
    along `image`; fit_codes and test_codes: the class of each of these images, as an index into
    names; sizes (class,): fit images of each class; left_out: classes with less than `fewest` of
    them, whose images take no part.
    """

    names: np.ndarray
    fit: np.ndarray
    test: np.ndarray
    fit_codes: np.ndarray
    test_codes: np.ndarray
    sizes: np.ndarray
    left_out: np.ndarray
    fewest: int

    @property
    def majority(self) -> int:
        """The most frequent class of the fit images; of several the one of smallest label."""
        most = np.flatnonzero(self.sizes == self.sizes.max())
        return int(most[np.argmin(self.names[most])])

    @property
    def why_left_out(self) -> str:
        """Which classes take no part, and why; "" where all do."""
        if not self.left_out.size:
            return ""
        named = ", ".join(map(str, self.left_out[:NAMED]))
        more = f" and {self.left_out.size - NAMED} more" if self.left_out.size > NAMED else ""
        return f"left out: {named}{more}, with fewer than {self.fewest} images in the split 'fit'"

    @property
    def why_none(self) -> str:
        """Why no classes can be told apart; "" where they can."""
        if self.names.size > 1:
            return ""
        found = f"classes can be told apart only where there are 2, found {self.names.size}"
        return "; ".join(filter(None, (found, self.why_left_out)))


def class_split(
    dataset: xr.Dataset, classes: Sequence | None = None, fewest: int = 2
) -> ClassSplit:
    """The images of `classes` (of every class by default) by split; without `split` all are fit.

    classes: labels, or names where the dataset has them: by `class_name` over the images, or by the
    coordinate `class`, of which a label is a row. A name is the same class in every model, a label
    is a model's own.

    Of all classes, those with less than `fewest` fit images are left out. The order of the classes
    is that of the images, so that models that number the same classes otherwise draw alike.
    Raises VitalsError where no image is fit and, of `classes`, for one that has no image or less
    than `fewest` fit images, and for fewer than two.
    """
    axes.require(dataset, "label")
    labels = dataset["label"].values
    split = dataset["split"].values if "split" in dataset.variables else np.full(len(labels), "fit")
    if not (split == "fit").any():
        raise VitalsError("no image is in the split 'fit': class metrics need images to fit")

    present, first, place = np.unique(labels, return_index=True, return_inverse=True)
    asked = np.argsort(first)  # of present
    if classes is not None:
        asked = asked[_asked(classes, present, _names(dataset, present, first))[asked]]
    enough = np.bincount(place[split == "fit"], minlength=present.size) >= fewest
    if classes is not None:
        _check_asked(present[asked], present[asked[~enough[asked]]], fewest)

    kept = asked[enough[asked]]
    code = np.full(present.size, -1)
    code[kept] = np.arange(kept.size)
    codes = code[place]  # (image,), −1 where it takes no part
    fit, test = (np.flatnonzero((split == s) & (codes >= 0)) for s in ("fit", "test"))
    fit = fit[np.argsort(codes[fit], kind="stable")]
    return ClassSplit(
        names=present[kept],
        fit=fit,
        test=test,
        fit_codes=codes[fit],
        test_codes=codes[test],
        sizes=np.bincount(codes[fit], minlength=kept.size),
        left_out=present[asked[~enough[asked]]],
        fewest=fewest,
    )


def _names(dataset: xr.Dataset, labels: np.ndarray, first: np.ndarray) -> np.ndarray | None:
    """The name of each label, whose first image is `first`; None where the dataset has no names."""
    if "class_name" in dataset.coords and dataset["class_name"].dims == ("image",):
        return dataset["class_name"].values[first].astype(str)
    if "class" not in dataset.coords or labels.dtype.kind not in "iu":
        return None
    names = dataset["class"].values
    return names[labels].astype(str) if 0 <= labels.min() <= labels.max() < names.size else None


def _asked(classes: Sequence, labels: np.ndarray, names: np.ndarray | None) -> np.ndarray:
    """Which of the labels are asked for; a VitalsError for what is neither label nor name."""
    known = [labels.tolist(), [] if names is None else names.tolist()]
    for asked in classes:
        if not any(asked in of for of in known):
            raise unknown("class", str(asked), map(str, known[1] or known[0]))
    wanted = set(classes)
    of_labels, of_names = (np.array([x in wanted for x in of], dtype=bool) for of in known)
    return of_labels | of_names if of_names.size else of_labels


def _check_asked(found: np.ndarray, few: np.ndarray, fewest: int) -> None:
    """Raise VitalsError for a choice of classes that the images cannot serve."""
    if found.size < 2:
        raise VitalsError(f"classes can be told apart only where there are 2, found {found.size}")
    if few.size:
        raise VitalsError(
            f"class {few[0]} has fewer than {fewest} images in the split 'fit': leave it out of "
            "classes, or give more images"
        )


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
