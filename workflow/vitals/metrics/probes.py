"""Which class can be read from frozen features, layer by layer, by the simplest of readers?

>>> import numpy as np, xarray as xr
>>> label = np.arange(40) % 2
>>> pooled = (label[:, None] + 0.1 * np.random.default_rng(0).standard_normal((40, 3)))
>>> dataset = xr.Dataset(
...     {"pooled": (("layer", "image", "feature", "channel"), pooled[None, :, None])},
...     coords={
...         "layer": ["norm"],
...         "feature": ["cls"],
...         "label": ("image", label),
...         "split": ("image", ["fit"] * 20 + ["test"] * 20),
...     },
... )
>>> result = compute(dataset, bootstrap_samples=10)
>>> result["accuracy"].item(), result["knn_accuracy"].item(), result.attrs["majority_accuracy"]
(1.0, 1.0, 0.5)
"""

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr
from joblib import Parallel, delayed
from scipy.sparse import csr_array

from vitals.errors import VitalsError
from vitals.metrics import axes, bootstrap
from vitals.metrics.class_geometry import ratio
from vitals.metrics.class_split import ClassSplit, class_split, layer_features
from vitals.metrics.results import PUBLISHED, RECONSTRUCTED, describe, mark_absent
from vitals.metrics.tap_probes import ProbeSettings, TapProbes, probe_tap
from vitals.progress import progress

SOURCE = "Alain and Bengio (2016), arXiv 1610.01644; solver: scikit-learn LogisticRegression"
OURS = "closed form, as this library states it"
BOTH = "cls+patch_mean"
COMPARED = ("accuracy", "accuracy_gap")  # keep their draws
NO_TEST = "no test image is of a class with enough fit images"

VARIABLES = {
    "accuracy": ("test accuracy of the logistic probe", "1", PUBLISHED, SOURCE),
    "macro_f1": ("macro F1 of the logistic probe", "1", PUBLISHED, SOURCE),
    "nll": ("negative log-likelihood of the logistic probe", "nat", PUBLISHED, SOURCE),
    "ridge_accuracy": ("test accuracy of the ridge probe", "1", RECONSTRUCTED, OURS),
    "knn_accuracy": ("test accuracy of the nearest neighbours", "1", RECONSTRUCTED, OURS),
    "accuracy_gap": ("accuracy of patch_mean less that of cls", "1", RECONSTRUCTED, SOURCE),
    "penalty": ("inverse penalty C of the logistic probe", "1", PUBLISHED, SOURCE),
    "ridge_penalty": ("inverse penalty of the ridge probe", "1", RECONSTRUCTED, OURS),
    "converged": ("whether the logistic probe reached its tolerance", "1", PUBLISHED, SOURCE),
    "correct": ("whether the logistic probe is right", "1", PUBLISHED, SOURCE),
}


def compute(
    dataset: xr.Dataset,
    *,
    penalties: Sequence[float] = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0),
    folds: int = 5,
    seed: int = 0,
    neighbours: int = 20,
    max_iter: int = 1000,
    bootstrap_samples: int = 1000,
    bootstrap_seed: int = 0,
    jobs: int = 1,
) -> xr.Dataset:
    """Test accuracy of linear probes and nearest neighbours at each tap, with 95 % intervals.

    Features are "cls", "patch_mean" and both side by side, standardised per tap on the fit split; a
    channel that does not vary there is zero. Logistic: min Σ −log p(y) + ‖W‖²/(2C), C of most right
    images in stratified `folds` of the fit split (the smallest of several), then fitted on all of
    it. Ridge: min ‖Y − 1b − XW‖² + ‖W‖²/C on one-hot labels, C by exact leave-one-out, from one
    decomposition. Nearest neighbours: a vote of the `neighbours` largest cosines. Features that do
    not vary at all give the most frequent class of the fit split (the first of several).

    dataset: the pooled tier: `pooled` (layer, image, feature, channel), `label`, `split`.
    jobs: processes that share the taps; they change nothing in the result.
    Returns over (layer, feature), dimensionless (nll in nats): `accuracy`, `macro_f1`, `nll`,
    `ridge_accuracy`, `knn_accuracy` with `_low` and `_high`, `accuracy_draws` (…, draw), the chosen
    `penalty` and `ridge_penalty`, `converged`; `correct` (layer, feature, image) of test images;
    `accuracy_gap` (layer) = patch_mean − cls with its interval and draws. Attributes
    `majority_accuracy` and `classes`. Intervals resample the test images, paired across models.
    A class with fewer fit images than folds takes no part, and is recorded as left out; where fewer
    than two are left, all is absent. Raises VitalsError without fit or test images.
    Source: Alain and Bengio (2016), linear classifier probes; Wu et al. (2018), cosine neighbours.
    """
    axes.require(dataset, "pooled", "label", "split")
    if not (dataset["split"] == "test").any():
        raise VitalsError("no image is in the split 'test': probes need fit and test images")
    images = class_split(dataset, fewest=folds)
    reason = images.why_none or ("" if images.test.size else NO_TEST)
    if reason:
        result = xr.Dataset()
        mark_absent(result, "probes", reason)
        return result

    features = _features(dataset)
    settings = ProbeSettings(tuple(sorted(penalties)), folds, seed, neighbours, max_iter)
    taps = _taps(dataset, images, features)
    probe = delayed(probe_tap)
    probed = Parallel(n_jobs=jobs)(probe(fit, test, images, settings) for fit, test in taps)

    result = _frame(dataset, images, features)
    if images.why_left_out:
        mark_absent(result, "classes", images.why_left_out)
    _add_probed(result, probed, images)
    counts = bootstrap.image_counts(images.test.size, bootstrap_samples, bootstrap_seed)
    _add_intervals(result, probed, images, counts)
    return result


def _features(dataset: xr.Dataset) -> list[str]:
    features = [str(name) for name in dataset["feature"].values]
    return [*features, BOTH] if {"cls", "patch_mean"} <= set(features) else features


def _taps(
    dataset: xr.Dataset, images: ClassSplit, features: list[str]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each tap's features in turn, fit (image, channel) and test (test image, channel)."""
    position = {str(name): index for index, name in enumerate(dataset["feature"].values)}
    for layer in progress(range(dataset.sizes["layer"]), "probes"):
        values = layer_features(dataset, layer)  # (image, feature, channel)
        for feature in features:
            parts = feature.split("+") if feature == BOTH else [feature]
            x = np.concatenate([values[:, position[part]] for part in parts], axis=1)
            yield x[images.fit], x[images.test]


def _frame(dataset: xr.Dataset, images: ClassSplit, features: list[str]) -> xr.Dataset:
    tested = axes.image_coordinates(dataset.isel(image=images.test))
    return xr.Dataset(
        coords={**axes.layer_coordinates(dataset), "feature": features, **tested},
        attrs={
            "classes": images.names.size,
            "majority_accuracy": float(np.mean(images.test_codes == images.sizes.argmax())),
        },
    )


def _add_probed(result: xr.Dataset, probed: list[TapProbes], images: ClassSplit) -> None:
    """What each probe settled on, and where it is right."""
    for name in ("penalty", "ridge_penalty", "converged"):
        values = _over_taps(result, [getattr(tap, name) for tap in probed])
        result[name] = describe(values, *VARIABLES[name])
    correct = _over_taps(result, [tap.predicted == images.test_codes for tap in probed], "image")
    result["correct"] = describe(correct, *VARIABLES["correct"])
    if unfinished := int((~result["converged"]).sum()):
        warnings.warn(
            f"{unfinished} of {len(probed)} logistic probes did not converge: raise max_iter",
            stacklevel=3,
        )


def _add_intervals(
    result: xr.Dataset, probed: list[TapProbes], images: ClassSplit, counts: np.ndarray
) -> None:
    """Scores of the test images, and of their resamples by counts (draw, image)."""
    codes, classes = images.test_codes, images.names.size
    # the estimate, then its draws, as whole numbers: an accuracy of 1 is exactly 1
    weights = np.concatenate([np.ones_like(counts[:1]), counts]).astype(np.float64)
    scores = {
        "accuracy": lambda tap: weights @ (tap.predicted == codes) / codes.size,
        "macro_f1": lambda tap: macro_f1(tap.predicted, codes, classes, weights),
        "nll": lambda tap: weights @ tap.nll / codes.size,
        "ridge_accuracy": lambda tap: weights @ (tap.ridge == codes) / codes.size,
        "knn_accuracy": lambda tap: weights @ (tap.neighbours == codes) / codes.size,
    }
    for name, score in scores.items():
        values = _over_taps(result, [score(tap) for tap in probed], "draw")
        _add(result, name, values.assign_attrs(images=codes.size))
        if name == "accuracy":
            _add_gap(result, values)


def _add_gap(result: xr.Dataset, accuracy: xr.DataArray) -> None:
    if BOTH in result["feature"].values:
        accuracy = accuracy.assign_coords(feature=result["feature"])
        patch, cls = (accuracy.sel(feature=f, drop=True) for f in ("patch_mean", "cls"))
        _add(result, "accuracy_gap", (patch - cls).assign_attrs(accuracy.attrs))
        return
    found = ", ".join(map(str, result["feature"].values))
    for name in ("accuracy_gap", BOTH):
        mark_absent(result, name, f"it needs the features cls and patch_mean, found {found}")


def _add(result: xr.Dataset, name: str, values: xr.DataArray) -> None:
    """The estimate, first over `draw`, and the interval of the draws after it."""
    estimate, draws = values.isel(draw=0), values.isel(draw=slice(1, None))
    result[name] = describe(estimate, *VARIABLES[name])
    add = bootstrap.add_draws if name in COMPARED else bootstrap.add_interval
    add(result, name, draws)


def _over_taps(result: xr.Dataset, values: list, *dims: str) -> xr.DataArray:
    """One array over `dims` for each tap and feature, in order: (layer, feature, *dims)."""
    array = np.stack(values)
    shape = result.sizes["layer"], result.sizes["feature"], *array.shape[1:]
    return xr.DataArray(array.reshape(shape), dims=("layer", "feature", *dims))


def macro_f1(
    predicted: np.ndarray, codes: np.ndarray, classes: int, weights: np.ndarray
) -> np.ndarray:
    """Mean over classes of F1 = 2·right/(labelled + predicted), by weights (draw, image): (draw,).

    A class that a draw neither holds nor predicts takes no part.
    """
    right = predicted == codes
    labelled = weights @ _one_hot(codes, classes)  # (draw, class)
    named = weights @ _one_hot(predicted, classes)
    both = weights[:, right] @ _one_hot(codes[right], classes)
    return np.nanmean(ratio(2 * both, labelled + named), axis=1)


def _one_hot(codes: np.ndarray, classes: int) -> csr_array:
    image = np.arange(codes.size)
    return csr_array((np.ones(codes.size), (image, codes)), shape=(codes.size, classes))
