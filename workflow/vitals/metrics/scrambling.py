"""How much of the patch embeddings is left at each layer, and has it moved to other tokens?

The patch embeddings before positions, Z, are rebuilt linearly from a layer: from the same token
alone, and from all tokens. What only all tokens together give back has been scrambled.

>>> import numpy as np, xarray as xr
>>> embed = np.random.default_rng(0).standard_normal((80, 4, 3))
>>> moved = np.roll(embed, 1, axis=1)  # each token lies where its neighbour was
>>> dataset = xr.Dataset(
...     {"tokens": (("layer", "image", "token", "channel"), np.stack([embed, moved]))},
...     coords={
...         "layer": ["embed", "block.0"],
...         "token_kind": ("token", ["patch"] * 4),
...         "split": ("image", ["fit"] * 60 + ["test"] * 20),
...     },
... )
>>> result = compute(dataset, nulls=("none",), bootstrap_samples=10)
>>> result["r2_all"].sel(null="none").values.round(2)
array([1., 1.])
>>> result["isi"].sel(null="none").values[0]
np.float64(0.0)
"""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from vitals.errors import VitalsError, unknown
from vitals.metrics import axes
from vitals.metrics.recovered_shares import (
    add_by_distance,
    add_precision,
    add_shares,
    add_whitened,
    described,
)
from vitals.metrics.results import absences, mark_absent
from vitals.metrics.tap_recovery import Recovery, Scores, Settings
from vitals.progress import progress

NOISE = "noise_matched"
NULLS = ("none", NOISE)
EXTRACTED_NULLS = ("patch_shuffled", "attention_off")
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
FITS = {
    "scaled": ("whether the same token's map varies over positions, by cross-validation", "1"),
    "penalty": ("ridge penalty of the context, chosen by cross-validation", "1"),
    "sweeps": ("sweeps of alternating least squares", "count"),
    "converged": ("whether the fit converged within the sweeps allowed", "1"),
}


def compute(
    dataset: xr.Dataset,
    *,
    nulls: Sequence[str] = NULLS,
    variants: Mapping[str, xr.Dataset] | None = None,
    rank: int = 1,
    penalties: Sequence[float] = PENALTIES,
    folds: int = 5,
    sweeps: int = 200,
    tolerance: float = 1e-7,
    seed: int = 0,
    cls_context: bool = False,
    distances: Sequence[float] = (),
    target_standard_error: float = 0.0005,
    bootstrap_samples: int = 1000,
    bootstrap_seed: int = 0,
) -> xr.Dataset:
    """How linearly recoverable the patch embeddings are from each tap, with and without context.

    Z ≈ X W_0 + Σ_r M_r X W_r, r = 1 … `rank`, fitted on the split "fit" and scored on "test": R² =
    1 − Σ‖Z−Ẑ‖² / Σ‖Z−Z̄‖², Z̄ the fit split's mean per position. M is diagonal for `r2_self` and
    full for `r2_all`, under a ridge penalty off the diagonal that `folds`-fold cross-validation
    over fit images chooses from `penalties` and infinity (then both are the same). It also chooses
    whether `r2_self` has M at all (`scaled`), or one map for all positions. `isi` = r2_all −
    r2_self, `recovered` = isi / (1 − r2_self), and `isi_excess` = isi − that of the null
    "noise_matched": the embedding plus isotropic noise that leaves the same r2_self. With
    `cls_context`, M has a column for [CLS] too.

    dataset: the token tier: `tokens` (layer, image, token, channel) with a layer "embed",
    coordinates `token_kind` and `split`, and `row` and `column` for `distances`.
    variants: by null, the same of the forward passes that "patch_shuffled" and "attention_off"
    need; without them these nulls are absent.
    Returns the shares over (null, layer) with `_low` and `_high` from a bootstrap over test images
    (the fits stay as they are) and, of those that models are compared by, `_draws`; the sums they
    are ratios of, `error_self`, `error_all` (null, layer, image) and `total` (null, image), over
    test images; `r2_self_whitened`, `r2_all_whitened`, `isi_whitened`, the same fits scored with
    every principal channel of the embedding weighing alike; `isi_by_distance` (null, layer,
    distance), the index where a patch is rebuilt from those within so many patches of it;
    `isi_standard_error` and `test_images_needed`, so that it is `target_standard_error`; and the
    choices of the fits. `recovered` is NaN where the same token recovers all but 1e-4.
    Small studies are computed in float64; larger ones by passes over the images, on the accelerator
    where there is one, from products in float32 and sums in float64. Tolerance in R²: 1e-5, seen
    on a small study on the CPU.
    Raises VitalsError where the layer "embed", a split, a second patch token or enough fit images
    are missing, for tokens that are not finite, and for a variant of other taps or images.
    Source: arXiv 2511.21635, Information Scrambling Index; the estimator is ours.
    """
    variants = variants or {}
    _check_settings(nulls, variants, rank, penalties, folds, distances)
    settings = Settings(penalties, folds, rank, sweeps, tolerance, seed)
    context = ["cls"] if cls_context else []
    missing = _why_no_grid(dataset) if len(distances) else "no distance was asked for"
    distances = () if missing else distances

    recovery = Recovery(dataset, settings, context, NOISE in nulls, distances)
    scores: dict[str, list[Scores]] = {"none": []}
    totals = {"none": recovery.total}
    if NOISE in nulls:
        scores[NOISE], totals[NOISE] = [], recovery.total
    for layer in progress(range(dataset.sizes["layer"]), "scrambling"):
        scores["none"].append(recovery.tap(layer))
        if NOISE in nulls:
            scores[NOISE].append(recovery.noise(scores["none"][-1]))
    given = {null: of for null, of in variants.items() if null in nulls and "tokens" in of}
    for null in given:
        _check_variant(null, variants[null], dataset)
        other = Recovery(variants[null], settings, context, False, distances)
        layers = progress(range(dataset.sizes["layer"]), f"scrambling, {null}")
        scores[null], totals[null] = [other.tap(layer) for layer in layers], other.total

    result = _collect(dataset, scores, totals, recovery.test_images)
    add_shares(result, bootstrap_samples, bootstrap_seed)
    whitened = {arm: _gathered(scores, f"error_{arm}")[:, :, 1] for arm in ("self", "all")}
    total = np.array([totals[null][1] for null in scores])
    add_whitened(result, *whitened.values(), total, bootstrap_samples, bootstrap_seed)
    if missing:
        mark_absent(result, "isi_by_distance", missing)
    else:
        near = _gathered(scores, "error_near")[:, :, :, 0]
        add_by_distance(result, near, distances, bootstrap_samples, bootstrap_seed)
    add_precision(result, target_standard_error)
    for null in [null for null in nulls if null not in scores]:
        reason = f"the null '{null}' needs a forward pass of its own"
        mark_absent(result, null, absences(variants.get(null, result)).get("tokens", reason))
    return result


def _check_settings(
    nulls: Sequence[str],
    variants: Mapping[str, xr.Dataset],
    rank: int,
    penalties: Sequence[float],
    folds: int,
    distances: Sequence[float],
) -> None:
    for null in nulls:
        if null not in (*NULLS, *EXTRACTED_NULLS):
            raise unknown("null", null, [*NULLS, *EXTRACTED_NULLS])
    for null in variants:
        if null not in EXTRACTED_NULLS:
            raise unknown("variant", null, EXTRACTED_NULLS)
    if "none" not in nulls:
        raise VitalsError(
            "nulls must hold 'none', the measurement that the others are held against"
        )
    if rank < 1 or folds < 2:
        raise VitalsError(f"rank must be at least 1 and folds 2, found {rank} and {folds}")
    if not len(penalties) or not all(0 < penalty < np.inf for penalty in penalties):
        raise VitalsError(
            f"penalties must be positive and finite (infinity is always tried), found {penalties}"
        )
    if not all(distance > 0 for distance in distances):
        raise VitalsError(f"distances must be positive, found {distances}")


def _why_no_grid(dataset: xr.Dataset) -> str:
    """Why patches have no distance; nothing where they have."""
    missing = [name for name in ("row", "column") if name not in dataset.coords]
    return f"patches have no {' and no '.join(missing)}" if missing else ""


def _check_variant(null: str, variant: xr.Dataset, dataset: xr.Dataset) -> None:
    for name in ("layer", "image_id", "split"):
        if name in dataset.coords and not (
            name in variant.coords and np.array_equal(variant[name], dataset[name])
        ):
            raise VitalsError(f"variant '{null}' differs from the dataset in {name}")


def _gathered(scores: Mapping[str, Sequence[Scores]], name: str) -> np.ndarray:
    """(null, layer, ...)"""
    return np.array([[getattr(score, name) for score in row] for row in scores.values()])


def _collect(
    dataset: xr.Dataset,
    scores: Mapping[str, Sequence[Scores]],
    totals: Mapping[str, np.ndarray],
    test: np.ndarray,
) -> xr.Dataset:
    result = xr.Dataset(
        coords={
            "null": list(scores),
            **axes.layer_coordinates(dataset),
            **axes.image_coordinates(dataset.isel(image=test)),
        }
    )
    for arm, tokens in (("self", "the same token"), ("all", "all tokens")):
        plain = _gathered(scores, f"error_{arm}")[:, :, 0]
        errors = xr.DataArray(plain, dims=("null", "layer", "image"))
        long_name = f"squared error of the patch embeddings rebuilt from {tokens}"
        result[f"error_{arm}"] = described(errors, long_name, "activation²")
    result["total"] = described(
        xr.DataArray([total[0] for total in totals.values()], dims=("null", "image")),
        "squared deviation of the patch embeddings from the fit split's mean",
        "activation²",
    )
    for name, (long_name, units) in FITS.items():
        values = xr.DataArray(_gathered(scores, name), dims=("null", "layer"))
        result[name] = described(values, long_name, units)
    if NOISE in scores:
        scales = [score.noise_scale for score in scores[NOISE]]
        result["noise_scale"] = described(
            xr.DataArray(scales, dims="layer"),
            "standard deviation of the noise-matched null's noise; infinite: noise alone",
            "activation",
        )
    return result
