"""The model's own classifier, read at any tap: the final norm, then the class weights.

>>> import numpy as np
>>> layer_norm(np.array([[1.0, 3.0]]), scale=np.array([2.0, 2.0]), shift=1.0, epsilon=0.0)
array([[-1.,  3.]])
"""

from dataclasses import dataclass

import numpy as np
import xarray as xr

FINAL_TAP = "norm"


@dataclass(frozen=True)
class Classifier:
    """weight (class, channel) and bias (class,) of the studied classes, with the final norm.

    `rows` are their rows in the model's classifier; `bias`, `scale` and `shift` may be missing.
    """

    rows: np.ndarray
    weight: np.ndarray
    bias: np.ndarray | None
    scale: np.ndarray | None
    shift: np.ndarray | None
    epsilon: float

    @property
    def centered_weight(self) -> np.ndarray:
        """Weights less their mean over classes, which moves all logits alike: (class, channel)."""
        return self.weight - self.weight.mean(axis=0)

    def reads(self, tap: str) -> bool:
        """Whether the tap is after the final norm, or the norm is known."""
        return tap == FINAL_TAP or (self.scale is not None and self.shift is not None)

    def normalised(self, features: np.ndarray, tap: str) -> np.ndarray:
        """What the classifier would see of `features` (image, channel): float64."""
        features = features.astype(np.float64)
        if tap == FINAL_TAP:
            return features
        return layer_norm(features, self.scale, self.shift, self.epsilon)

    def logits(self, normalised: np.ndarray) -> np.ndarray:
        """(image, class)."""
        return normalised @ self.weight.T + self.bias


def layer_norm(x: np.ndarray, scale: np.ndarray, shift: np.ndarray, epsilon: float) -> np.ndarray:
    """(x − mean) / √(var + ε) · scale + shift over the channels of x (image, channel)."""
    centered = x - x.mean(axis=1, keepdims=True)
    variance = np.square(centered).mean(axis=1, keepdims=True)
    # With no epsilon a constant vector has no direction: zero, as with one.
    deviation = np.sqrt(variance + epsilon)
    unit = np.divide(centered, deviation, out=np.zeros_like(centered), where=deviation > 0)
    return unit * scale + shift


def classifier_of(
    dataset: xr.Dataset, names: np.ndarray, epsilon: float
) -> tuple[Classifier | None, str]:
    """The classifier of the classes `names`, or None and the reason why there is none."""
    if "head_weight" not in dataset.variables:
        return None, "the model has no linear classifier (no head_weight)"
    rows = _rows(dataset, names)
    if rows is None:
        return None, "the classes of the images are not those of the classifier"

    def parameter(name: str) -> np.ndarray | None:
        return dataset[name].values.astype(np.float64) if name in dataset.variables else None

    bias = parameter("head_bias")
    return Classifier(
        rows,
        dataset["head_weight"].transpose("class", "channel").values.astype(np.float64)[rows],
        None if bias is None else bias[rows],
        parameter("norm_scale"),
        parameter("norm_shift"),
        epsilon,
    ), ""


def _rows(dataset: xr.Dataset, names: np.ndarray) -> np.ndarray | None:
    """The classifier's row of each class: by the coordinate `class`, else label = row."""
    known = np.arange(dataset.sizes["class"])
    if "class" in dataset.coords and dataset["class"].dtype.kind == names.dtype.kind:
        known = dataset["class"].values
    row = {name: index for index, name in enumerate(known.tolist())}
    rows = [row.get(name) for name in names.tolist()]
    return None if None in rows else np.array(rows)
