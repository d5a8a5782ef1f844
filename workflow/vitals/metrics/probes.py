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
from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from vitals.errors import VitalsError
from vitals.metrics import axes, bootstrap
from vitals.metrics.class_split import ClassSplit, class_split
from vitals.metrics.logistic_probe import CONVERGED, Search
from vitals.metrics.probe_runs import chosen_solver, probed
from vitals.metrics.probe_scores import macro_f1
from vitals.metrics.results import PUBLISHED, RECONSTRUCTED, describe, mark_absent
from vitals.metrics.tap_probes import ProbeSettings, Tap, TapProbes

SOURCE = "Alain and Bengio (2016), arXiv 1610.01644"
OURS = "closed form, as this library states it"
DISCRIMINANT = "Friedman (1989), regularised discriminant analysis"
NEIGHBOURS = "Wu et al. (2018), arXiv 1805.01978, with a plain vote"
BOTH = "cls+patch_mean"
COMPARED = ("accuracy", "accuracy_gap")  # keep their draws
NO_TEST = "no test image is of a class with enough fit images"

VARIABLES = {
    "accuracy": ("test accuracy of the logistic probe", "1", PUBLISHED, SOURCE),
    "macro_f1": ("macro F1 of the logistic probe", "1", PUBLISHED, SOURCE),
    "nll": ("negative log-likelihood of the logistic probe", "nat", PUBLISHED, SOURCE),
    "ridge_accuracy": ("test accuracy of the ridge probe", "1", RECONSTRUCTED, OURS),
    "lda_accuracy": ("test accuracy of the linear discriminant", "1", PUBLISHED, DISCRIMINANT),
    "knn_accuracy": ("test accuracy of the nearest neighbours", "1", RECONSTRUCTED, NEIGHBOURS),
    "accuracy_gap": ("accuracy of patch_mean less that of cls", "1", RECONSTRUCTED, SOURCE),
    "penalty": ("inverse penalty C of the logistic probe", "1", PUBLISHED, SOURCE),
    "ridge_penalty": ("inverse penalty of the ridge probe", "1", RECONSTRUCTED, OURS),
    "lda_penalty": ("inverse penalty of the linear discriminant", "1", RECONSTRUCTED, OURS),
    "gradient": ("largest gradient where the logistic probe stopped", "1", RECONSTRUCTED, OURS),
    "converged": ("whether the logistic probe is at its minimum", "1", RECONSTRUCTED, OURS),
    "correct": ("whether the logistic probe is right", "1", PUBLISHED, SOURCE),
}
# What each probe settled on, by the name it has in `TapProbes`.
SETTLED = {
    "penalty": "penalty",
    "ridge_penalty": "ridge_penalty",
    "lda_penalty": "discriminant_penalty",
    "gradient": "gradient",
}
# The predictions of the probes, likewise.
PREDICTIONS = {
    "accuracy": "predicted",
    "ridge_accuracy": "ridge",
    "lda_accuracy": "discriminant",
    "knn_accuracy": "neighbours",
}


def compute(
    dataset: xr.Dataset,
    *,
    penalties: Sequence[float] = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0),
    folds: int = 5,
    seed: int = 0,
    neighbours: int = 20,
    max_iter: int = 1000,
    solver: str = "auto",
    bootstrap_samples: int = 1000,
    bootstrap_seed: int = 0,
    jobs: int | None = None,
) -> xr.Dataset:
    """Test accuracy of linear probes and nearest neighbours at each tap, with 95 % intervals.

    Features are "cls", "patch_mean" and both side by side, standardised per tap on the fit split; a
    channel that does not vary there is zero. Logistic: min Σ −log p(y) + ‖W‖²/(2C), C of most right
    images in stratified `folds` of the fit split (the smallest of several), then fitted on all of
    it. Ridge: min ‖Y − 1b − XW‖² + ‖W‖²/C on one-hot labels; linear discriminant analysis: the
    covariance (S_W + I/C)/(n − classes); of both, C by exact leave-one-out. Nearest neighbours: a
    vote of the `neighbours` largest cosines. Features that do not vary at all give the most
    frequent class of the fit split (the first of several).

    dataset: the pooled tier: `pooled` (layer, image, feature, channel), `label`, `split`.
    solver: of the logistic probe: "scikit-learn" on the CPU, "batched" over taps, folds and
    penalties, or "auto": batched where there is an accelerator. They agree to 0.2 points of
    accuracy and 1e-3 of the objective.
    jobs: threads that share the taps, as many as torch has by default; they change nothing in the
    result. Each holds the features and the scores of one tap.
    Returns over (layer, feature), dimensionless (nll in nats): `accuracy`, `macro_f1`, `nll`,
    `ridge_accuracy`, `lda_accuracy`, `knn_accuracy` with `_low` and `_high`, `accuracy_draws`
    (…, draw), the chosen `penalty`, `ridge_penalty`, `lda_penalty`; `gradient`, the largest of the
    mean loss where the solver stopped times the number of classes, and whether the probe has
    `converged` by it; `correct` (layer, feature, image) of test images; `accuracy_gap` (layer) =
    patch_mean − cls with its interval and draws. Attributes `majority_accuracy`, `classes` and
    `solver`. Intervals resample the test images, paired across models.
    A class with fewer fit images than folds takes no part, nor do its test images, and is recorded
    as left out; where fewer than two are left, all is absent. Raises VitalsError without fit or
    test images, for a number that is not finite and for an unknown solver.
    Source: Alain and Bengio (2016), linear classifier probes; Friedman (1989), the shrunk
    covariance; Wu et al. (2018), cosine neighbours.
    """
    axes.require(dataset, "pooled", "label", "split")
    if not (dataset["split"] == "test").any():
        raise VitalsError("no image is in the split 'test': probes need fit and test images")
    solver = chosen_solver(solver)
    images = class_split(dataset, fewest=folds)
    reason = images.why_none or ("" if images.test.size else NO_TEST)
    if reason:
        result = xr.Dataset()
        mark_absent(result, "probes", reason)
        return result

    features = _features(dataset)
    settings = ProbeSettings(Search(tuple(sorted(penalties)), folds, seed, max_iter), neighbours)
    taps = [
        Tap(dataset["pooled"], layer, feature.split("+") if feature == BOTH else [feature], images)
        for feature in features
        for layer in range(dataset.sizes["layer"])
    ]
    found = probed(taps, images, settings, solver, jobs or torch.get_num_threads())

    result = _frame(dataset, images, features).assign_attrs(solver=solver)
    if images.why_left_out:
        mark_absent(result, "classes", images.why_left_out)
    _add_settled(result, found)
    _add_scores(result, found, images, bootstrap_samples, bootstrap_seed)
    return result


def _features(dataset: xr.Dataset) -> list[str]:
    features = [str(name) for name in dataset["feature"].values]
    return [*features, BOTH] if {"cls", "patch_mean"} <= set(features) else features


def _frame(dataset: xr.Dataset, images: ClassSplit, features: list[str]) -> xr.Dataset:
    tested = axes.image_coordinates(dataset.isel(image=images.test))
    return xr.Dataset(
        coords={**axes.layer_coordinates(dataset), "feature": features, **tested},
        attrs={
            "classes": images.names.size,
            "majority_accuracy": float(np.mean(images.test_codes == images.majority)),
        },
    )


def _add_settled(result: xr.Dataset, found: list[TapProbes]) -> None:
    """What each probe settled on."""
    for name, attribute in SETTLED.items():
        values = _over_taps(result, [getattr(tap, attribute) for tap in found])
        result[name] = describe(values, *VARIABLES[name])
    converged = describe(result["gradient"] <= CONVERGED, *VARIABLES["converged"])
    result["converged"] = converged.assign_attrs(tolerance=CONVERGED)
    if unfinished := int((~converged).sum()):
        warnings.warn(
            f"{unfinished} of {len(found)} logistic probes did not converge: raise max_iter",
            stacklevel=3,
        )


def _add_scores(
    result: xr.Dataset, found: list[TapProbes], images: ClassSplit, samples: int, seed: int
) -> None:
    """Scores of the test images, and of their resamples."""
    codes = images.test_codes
    for name, attribute in PREDICTIONS.items():
        right = _over_taps(result, [getattr(tap, attribute) == codes for tap in found], "image")
        accuracy = _add_mean(result, name, right, samples, seed)
        if name == "accuracy":
            result["correct"] = describe(right, *VARIABLES["correct"])
            _add_gap(result, *accuracy)
    nll = _over_taps(result, [tap.nll for tap in found], "image")
    _add_mean(result, "nll", nll, samples, seed)
    drawn = bootstrap.image_counts(codes.size, samples, seed)
    counts = np.concatenate([np.ones_like(drawn[:1]), drawn])  # the images as they are, first
    f1 = [macro_f1(tap.predicted, codes, images.names.size, counts) for tap in found]
    f1 = _over_taps(result, f1, "draw")
    _add(result, "macro_f1", f1.isel(draw=0), f1.isel(draw=slice(1, None)), codes.size)


def _add_mean(
    result: xr.Dataset, name: str, values: xr.DataArray, samples: int, seed: int
) -> tuple[xr.DataArray, xr.DataArray, int]:
    """A mean over the test images, and what it is made of."""
    images = values.sizes["image"]
    mean, draws = values.mean("image"), bootstrap.mean_draws(values, samples, seed)
    _add(result, name, mean, draws, images)
    return mean, draws, images


def _add_gap(result: xr.Dataset, mean: xr.DataArray, draws: xr.DataArray, images: int) -> None:
    features = result["feature"].values.tolist()
    if BOTH in features:
        patch, cls = features.index("patch_mean"), features.index("cls")
        gap = [each.isel(feature=patch) - each.isel(feature=cls) for each in (mean, draws)]
        _add(result, "accuracy_gap", *gap, images)
        return
    for name in ("accuracy_gap", BOTH):
        reason = f"it needs the features cls and patch_mean, found {', '.join(features)}"
        mark_absent(result, name, reason)


def _add(
    result: xr.Dataset, name: str, estimate: xr.DataArray, draws: xr.DataArray, images: int
) -> None:
    result[name] = describe(estimate, *VARIABLES[name]).assign_attrs(images=images)
    add = bootstrap.add_draws if name in COMPARED else bootstrap.add_interval
    add(result, name, draws)


def _over_taps(result: xr.Dataset, values: list, *dims: str) -> xr.DataArray:
    """One array over `dims` for each feature and tap, in order: (layer, feature, *dims)."""
    array = np.stack(values)
    shape = result.sizes["feature"], result.sizes["layer"], *array.shape[1:]
    array = xr.DataArray(array.reshape(shape), dims=("feature", "layer", *dims))
    return array.transpose("layer", "feature", ...)
