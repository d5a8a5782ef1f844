"""The model's own classifier, read at any tap: the final norm, then the class weights.

>>> import numpy as np
>>> layer_norm(np.array([[1.0, 3.0]]), scale=np.array([2.0, 2.0]), shift=1.0, epsilon=0.0)
array([[-1.,  3.]])
"""

from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from vitals.metrics import axes
from vitals.metrics.class_split import layer_features
from vitals.metrics.results import absences

# Of the deviation of the logits: more than half precision costs, less than another feature does.
MISREAD = 0.1


@dataclass(frozen=True)
class Classifier:
    """weight (class, channel) and bias (class,) of the studied classes, with the final norm.

    `rows` are their rows in the model's classifier of `known` classes; `bias`, `scale` and `shift`
    may be missing. `averaged`: whether the model's logits are the mean of this classifier's, which
    reads [CLS], and of another's, which reads the distillation token. `tap`: what it reads as it
    is; `normless`: whether that is so at every tap, as the model has no final norm.
    """

    rows: np.ndarray
    known: int
    averaged: bool
    weight: np.ndarray
    bias: np.ndarray | None
    scale: np.ndarray | None
    shift: np.ndarray | None
    epsilon: float
    tap: str = axes.NORM
    normless: bool = False

    @property
    def note(self) -> str:
        """What the classifier is not: all of the model's classes, or all that gives its logits."""
        said = []
        if self.rows.size < self.known:
            said.append(
                f"the classifier is asked about {self.rows.size} of its {self.known} classes"
            )
        if self.averaged:
            said.append("the classifier of [CLS] alone, not its mean with that of distillation")
        if self.normless:
            said.append("the model has no final norm: the classifier reads each tap as it is")
        return "; ".join(said)

    @property
    def centered_weight(self) -> np.ndarray:
        """Weights less their mean over classes, which moves all logits alike: (class, channel)."""
        return self.weight - self.weight.mean(axis=0)

    def reads(self, tap: str) -> bool:
        """Whether the tap is after the final norm, or the norm is known."""
        normed = self.scale is not None and self.shift is not None
        return tap == self.tap or self.normless or normed

    def normalised(self, features: np.ndarray, tap: str) -> np.ndarray:
        """What the classifier would see of `features` (image, channel): float64."""
        features = features.astype(np.float64)
        if tap == self.tap or self.normless:
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
    """The classifier of the classes `names`, or None and the reason why there is none.

    Where the dataset has the model's logits, the classifier must give them from one of the features
    at the last tap: a head that reads anything else is none that can be held against class means.
    """
    if "head_weight" not in dataset.variables:
        reasons = absences(dataset)
        none = "the model has no linear classifier of a token or the mean patch (no head_weight)"
        return None, reasons.get("head_weight") or reasons.get("logits") or none
    rows = _rows(dataset, names)
    if rows is None:
        return None, "the classes of the images are not those of the classifier"

    def parameter(name: str) -> np.ndarray | None:
        return dataset[name].values.astype(np.float64) if name in dataset.variables else None

    bias = parameter("head_bias")
    if bias is None and "logits" in dataset.variables:
        bias = np.zeros(dataset.sizes["class"])  # which the logits below confirm or refute
    classifier = Classifier(
        rows,
        dataset.sizes["class"],
        "token_kind" in dataset.coords and "distillation" in dataset["token_kind"].values,
        dataset["head_weight"].transpose("class", "channel").values.astype(np.float64)[rows],
        None if bias is None else bias[rows],
        parameter("norm_scale"),
        parameter("norm_shift"),
        epsilon,
    )
    tap = _last_tap(dataset)
    if not (classifier.reads(tap) or classifier.averaged) and "logits" in dataset.variables:
        classifier = replace(classifier, tap=tap, normless=True)
    reason = _misread(dataset, classifier)
    return (None, reason) if reason else (classifier, "")


def own_logits(dataset: xr.Dataset, classifier: Classifier, images: np.ndarray) -> np.ndarray:
    """What the model's classifier says of these images and the studied classes: (image, class).

    The model's own logits, but for a classifier that is averaged with another those that it gives
    itself of [CLS] at the last tap.
    """
    some = dataset.isel(image=images)
    if classifier.averaged:
        values = layer_features(some, -1)[:, _features(dataset).index("cls")]
        return classifier.logits(classifier.normalised(values, _last_tap(dataset)))
    logits = some["logits"].transpose("image", "class").isel({"class": classifier.rows})
    return logits.values.astype(np.float64)


def has_own_logits(dataset: xr.Dataset, classifier: Classifier) -> bool:
    """Whether `own_logits` are known."""
    if classifier.averaged:
        return "cls" in _features(dataset) and classifier.bias is not None
    return "logits" in dataset.variables


def _features(dataset: xr.Dataset) -> list[str]:
    return dataset["feature"].values.tolist()


def _last_tap(dataset: xr.Dataset) -> str:
    return str(dataset["layer"].values[-1])


def _misread(dataset: xr.Dataset, classifier: Classifier) -> str:
    """Why the classifier is not the one behind the model's logits; "" where it is, or unknown."""
    tap, known = _last_tap(dataset), "logits" in dataset.variables and classifier.bias is not None
    if classifier.averaged or not known or not classifier.reads(tap):
        return ""
    some = dataset.isel(image=slice(axes.IMAGES_PER_BLOCK))
    logits = own_logits(dataset, classifier, np.arange(some.sizes["image"]))
    values = layer_features(some, -1)  # (image, feature, channel)
    read = [classifier.logits(classifier.normalised(x, tap)) for x in values.swapaxes(0, 1)]
    missed = min(np.sqrt(np.square(x - logits).mean()) for x in read)
    if missed <= MISREAD * logits.std():
        return ""
    features = " or ".join(map(str, dataset["feature"].values))
    return f"the classifier does not give the model's logits from {features} at '{tap}'"


def _rows(dataset: xr.Dataset, names: np.ndarray) -> np.ndarray | None:
    """The classifier's row of each class: by the coordinate `class`, else label = row."""
    known = np.arange(dataset.sizes["class"])
    if "class" in dataset.coords and dataset["class"].dtype.kind == names.dtype.kind:
        known = dataset["class"].values
    row = {name: index for index, name in enumerate(known.tolist())}
    rows = [row.get(name) for name in names.tolist()]
    return None if None in rows else np.array(rows)
