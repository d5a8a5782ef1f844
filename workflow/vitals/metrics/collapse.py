"""How far have the features of a class shrunk to its mean, and the means to a simplex?

>>> import numpy as np, xarray as xr
>>> corners, spread = np.eye(3), np.array([[[0, 0, 0.3]], [[0, 0, -0.3]]])
>>> pooled = (corners + spread).reshape(1, 6, 1, 3)  # two images of each of three classes
>>> dataset = xr.Dataset(
...     {"pooled": (("layer", "image", "feature", "channel"), pooled)},
...     coords={"layer": ["norm"], "feature": ["cls"], "label": ("image", [0, 1, 2] * 2)},
... )
>>> result = compute(dataset, bootstrap_samples=10)
>>> result["nc2_etf_gap"].round(6).item(), result["nc1_cdnv"].round(6).item()
(0.0, 0.09)
"""

import warnings
from collections.abc import Sequence
from functools import partial

import numpy as np
import xarray as xr

from vitals.metrics import axes, bootstrap, class_regime
from vitals.metrics.class_arrays import accelerator, ratio
from vitals.metrics.class_collapse import Resampling, Statistics, TapFeature
from vitals.metrics.class_split import ClassSplit, class_split, layer_features
from vitals.metrics.classifier_lens import Classifier, classifier_of, has_own_logits, own_logits
from vitals.metrics.results import PUBLISHED, RECONSTRUCTED, describe, mark_absent
from vitals.progress import progress

SOURCE = "Papyan, Han and Donoho (2020), arXiv 2008.08186"
DISTANCE_SOURCE = "Galanti, György and Hutter (2022), arXiv 2112.15121"
LENS = f"{SOURCE}; before the final norm as a lens, ours"

NC3 = ("nc3_alignment", "nc3_distance")
NC4 = ("nc4_agreement", "nc4_margin")
SCORES = ("ncc_accuracy", *NC4)  # means over test images
COMPARED = ("nc1_quotient", "nc2_etf_excess", "nc3_alignment", "ncc_accuracy")  # keep their draws
VARIABLES = {
    "nc1_quotient": ("within over between class scatter, debiased", "1", RECONSTRUCTED, SOURCE),
    "nc1_cdnv": ("class-distance normalised variance", "1", PUBLISHED, DISTANCE_SOURCE),
    "nc1_pinv": ("within scatter over each between direction", "1", PUBLISHED, SOURCE),
    "nc2_equinorm": ("variation of the norms of class means", "1", PUBLISHED, SOURCE),
    "nc2_equiangular": ("deviation of the cosines of class means", "1", PUBLISHED, SOURCE),
    "nc2_etf_gap": ("distance of class means from a simplex", "1", PUBLISHED, SOURCE),
    "nc2_etf_excess": ("distance from a simplex above its floor", "1", RECONSTRUCTED, SOURCE),
    "nc3_alignment": ("mean cosine of class weights and class means", "1", PUBLISHED, LENS),
    "nc3_distance": ("distance of class weights from class means", "1", PUBLISHED, LENS),
    "nc4_agreement": ("agreement of classifier and nearest class mean", "1", PUBLISHED, LENS),
    "nc4_margin": ("distance inside the classifier's boundary", "activation", RECONSTRUCTED, LENS),
    "ncc_accuracy": ("accuracy of the nearest class mean", "1", PUBLISHED, SOURCE),
}
Curves = dict[str, np.ndarray]  # (layer, feature, 1 + draw) or (layer, feature, test image)


def compute(
    dataset: xr.Dataset,
    *,
    tolerance: float = 1e-6,
    classes: Sequence | None = None,
    norm_epsilon: float = 1e-6,
    bootstrap_samples: int = 1000,
    pinv_samples: int = 200,
    bootstrap_seed: int = 0,
) -> xr.Dataset:
    """Neural collapse of each tap and feature, with 95 % intervals.

    Of the fit images, with M the class means m_c less their mean m̄ (each class counts once),
    Σ_B = MᵀM/C, and Σ_W the scatter about the m_c pooled over images (divisor n − C):
    `nc1_quotient` tr Σ_W / (tr Σ_B − tr Σ_W/ñ), ñ the harmonic mean of the class sizes;
    `nc1_cdnv` mean over class pairs of (var_a + var_b)/(2‖m_a − m_b‖²), var with divisor n_c − 1;
    `nc1_pinv` tr(Σ_W Σ_B⁺)/C from at most min(C−1, D) eigenpairs above `tolerance` × the largest;
    `nc2_equinorm` std/mean of ‖m_c − m̄‖, `nc2_equiangular` std of their cosines, `nc2_etf_gap`
    ‖MMᵀ/‖MMᵀ‖ − (I−11ᵀ/C)/√(C−1)‖, `nc2_etf_excess` = gap − √(2−2√(min(D,C−1)/(C−1)));
    `nc3_alignment` mean cos(w_c, m_c), `nc3_distance` ‖W/‖W‖ − M/‖M‖‖, W centred over classes too.
    On test images: `ncc_accuracy` of the nearest m_c, `nc4_agreement` of it with the classifier,
    `nc4_margin` (z_y − max z_other)/‖w_y − w_other‖. NC3 and NC4 see a tap before "norm" through
    the final norm; at "norm", NC4 takes the model's own `logits` where they are given. Both are
    among the classes studied: of a classifier that knows more, the other rows take no part.

    dataset: the pooled tier: `pooled` (layer, image, feature, channel) and `label`; `split` (all
    images fit without it); `head_weight` (class, channel), `head_bias` (class), `norm_scale`,
    `norm_shift` (channel) and `logits` (image, class) as the model has them. A label is a row of
    the classifier. Of a distilled model the classifier is that of [CLS], at "norm" too.
    classes: the labels or names to use, by default all that have two fit images (others are
    recorded as left out); a name, of the coordinate `class` or of `class_name` over images, is the
    same class in every model; norm_epsilon: that of the final norm;
    pinv_samples: how many of the resamples nc1_pinv takes, which decomposes Σ_B in each.
    Returns `VARIABLES` over (layer, feature) with `_low` and `_high`, and `COMPARED` also as
    `_draws` (layer, feature, draw). NaN where class means coincide and, for the quotient, where
    they spread no more than by noise; its `_high` is infinite where over 2.5 % of the draws do so.
    Fit images are resampled within classes; the draws are moved to have the estimate as their mean,
    since a resample adds the noise of the class means once more. Scores resample the test images.
    NC3 and NC4 are absent where the classifier does not give the `logits` from a feature of the
    last tap (another pooling), all is where fewer than two classes are left. Where the width, the
    number of classes or of their images rules a variable, its attribute `note` says so, and
    `regime_warning` says all. Memory: the features of a tap as stored, those of fit images less
    their means in float32 (float64 where stored so), and some 16 MB arrays; never C² values. An
    accelerator agrees with the CPU to 1e-5 of a value stored in float32.
    Raises VitalsError for `classes` that are unknown, are not two, or lack two fit images, and
    where no image is fit.
    Source: Papyan, Han and Donoho (2020); Galanti, György and Hutter (2022); variants as named.
    """
    axes.require(dataset, "pooled", "label")
    images = class_split(dataset, classes)
    if images.why_none:
        result = xr.Dataset()
        mark_absent(result, "collapse", images.why_none)
        return result
    classifier, why_none = classifier_of(dataset, images.names, norm_epsilon)
    resampling = Resampling(bootstrap_samples, pinv_samples, bootstrap_seed)
    where = accelerator()

    result = _frame(dataset, images)
    curves: Curves = {}
    taps, features = dataset["layer"].values.astype(str), result["feature"].values
    for layer, index in progress(list(np.ndindex(taps.size, features.size)), "collapse"):
        values = layer_features(dataset.isel(feature=[index]), layer)[:, 0]  # (image, channel)
        seen = TapFeature.of(values, images, where=where)
        if seen.coincides:
            mark_absent(result, f"{features[index]} at {taps[layer]}", "the class means coincide")
            continue
        found = seen.scatter(resampling, tolerance) | seen.accuracy()
        if classifier is not None and classifier.reads(taps[layer]):
            found |= _by_classifier(seen, classifier, taps[layer], dataset, resampling)
        elif classifier is not None:
            mark_absent(result, f"classifier at {taps[layer]}", "the final norm is unknown")
        for name, curve in found.items():
            if name not in curves:
                curves[name] = np.full((taps.size, features.size, curve.size), np.nan)
            curves[name][layer, index] = curve

    _add_statistics(result, curves)
    _add_scores(result, curves, bootstrap_samples, bootstrap_seed)
    _mark_absences(result, images, why_none)
    _add_notes(result, images, classifier)
    return result


def _by_classifier(
    seen: TapFeature,
    classifier: Classifier,
    tap: str,
    dataset: xr.Dataset,
    resampling: Resampling,
) -> Statistics:
    """NC3 and NC4: what the classifier sees of a tap and feature, and says of it."""
    if tap != classifier.tap and not classifier.normless:
        normalised = partial(classifier.normalised, tap=tap)
        seen = TapFeature.of(seen.features, seen.images, normalised, seen.groups.where)
    found = seen.duality(resampling, classifier.centered_weight)
    if tap == classifier.tap and has_own_logits(dataset, classifier):
        own = partial(own_logits, dataset, classifier)
        return found | seen.agreement(lambda x, images: own(images), classifier.weight)
    if classifier.bias is None:
        return found
    return found | seen.agreement(lambda x, images: classifier.logits(x), classifier.weight)


def _frame(dataset: xr.Dataset, images: ClassSplit) -> xr.Dataset:
    """The empty result, which warns where width and number of classes rule its values."""
    channels, classes = dataset.sizes["channel"], images.names.size
    attrs = {
        "classes": classes,
        "channels": channels,
        "fit_images": images.fit.size,
        "test_images": images.test.size,
        "nc2_etf_floor": float(class_regime.etf_floor(channels, classes)),
    }
    said = class_regime.warnings_of(channels, images.sizes)
    if said:
        attrs["regime_warning"] = class_regime.in_words(said)
        warnings.warn(attrs["regime_warning"], stacklevel=3)
    feature = dataset["feature"].values
    return xr.Dataset(coords={**axes.layer_coordinates(dataset), "feature": feature}, attrs=attrs)


def _add_statistics(result: xr.Dataset, curves: Curves) -> None:
    """NC1, NC2 and NC3: the estimate, and the interval of its resamples."""
    curves = {name: _recentered(values) for name, values in curves.items() if name not in SCORES}
    if not curves:
        return
    floor = result.attrs["nc2_etf_floor"]
    curves["nc1_quotient"] = ratio(curves.pop("within"), curves.pop("between"))
    curves["nc2_etf_gap"] = np.maximum(curves["nc2_etf_gap"], floor)
    curves["nc2_etf_excess"] = curves["nc2_etf_gap"] - floor
    for name in (name for name in VARIABLES if name in curves):
        lowest, highest = (-1, 1) if name == "nc3_alignment" else (0, np.inf)
        values = np.clip(curves[name], lowest, highest)
        draws = xr.DataArray(values[..., 1:], dims=("layer", "feature", "draw"))
        _add(result, name, draws.isel(draw=0, drop=True).copy(data=values[..., 0]), draws)

    undefined = np.isnan(curves["nc1_quotient"][..., 1:]).mean(axis=-1) > (1 - bootstrap.LEVEL) / 2
    unbounded = undefined & np.isfinite(result["nc1_quotient_low"])
    result["nc1_quotient_high"] = result["nc1_quotient_high"].where(~unbounded, np.inf)


def _recentered(values: np.ndarray) -> np.ndarray:
    """Draws moved so that their mean is the estimate, which stands first in (..., 1 + draw)."""
    draws = values[..., 1:]
    defined = np.isfinite(draws)
    total = np.where(defined, draws, 0).sum(axis=-1)
    bias = ratio(total, defined.sum(axis=-1)) - values[..., 0]
    return np.concatenate([values[..., :1], draws - bias[..., None]], axis=-1)


def _add_scores(result: xr.Dataset, curves: Curves, samples: int, seed: int) -> None:
    """Means over the test images, and the interval of their resamples."""
    for name in (name for name in SCORES if name in curves):
        values = xr.DataArray(curves[name], dims=("layer", "feature", "image"))
        _add(result, name, values.mean("image"), bootstrap.mean_draws(values, samples, seed))


def _add(result: xr.Dataset, name: str, values: xr.DataArray, draws: xr.DataArray) -> None:
    result[name] = describe(values, *VARIABLES[name])
    add = bootstrap.add_draws if name in COMPARED else bootstrap.add_interval
    add(result, name, draws)


def _mark_absences(result: xr.Dataset, images: ClassSplit, why_none: str) -> None:
    """Say of each variable that is not there why, by the first part that it needs and lacks."""
    if images.why_left_out:
        mark_absent(result, "classes", images.why_left_out)
    for name in (name for name in VARIABLES if name not in result):
        if name in SCORES and not images.test.size:
            mark_absent(result, name, "no image is in the split 'test'")
        elif name in (*NC3, *NC4):
            mark_absent(
                result, name, why_none or "the final norm or the classifier's bias is unknown"
            )
        else:
            mark_absent(result, name, "the class means coincide at every tap")


def _add_notes(result: xr.Dataset, images: ClassSplit, classifier: Classifier | None) -> None:
    """Beside each variable what rules it, and what its classifier is not."""
    said = class_regime.warnings_of(result.attrs["channels"], images.sizes)
    of_classifier = classifier.note if classifier is not None else ""
    for name in (name for name in VARIABLES if name in result):
        notes = [class_regime.note(said, name), of_classifier if name in (*NC3, *NC4) else ""]
        if note := "; ".join(filter(None, notes)):
            result[name].attrs["note"] = note
