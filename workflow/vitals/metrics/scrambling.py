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

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from vitals.errors import VitalsError, unknown
from vitals.metrics import axes
from vitals.metrics.noise_null import NoiseNull
from vitals.metrics.recovered_shares import add_precision, add_shares, described
from vitals.metrics.token_mixing import Fit, cross_validate, fit, fit_same_token
from vitals.metrics.token_moments import Moments, SecondMoments, Source, StreamedMoments
from vitals.metrics.token_pairs import NoisePairs, TapPairs
from vitals.progress import progress

NULLS = ("none", "noise_matched")
EXTRACTED_NULLS = ("patch_shuffled", "attention_off")
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
# Second moments of a study are held in memory up to this size, else taken pass by pass.
MOMENT_BYTES = 2**30
FITS = {
    "scaled": ("whether the same token's map varies over positions, by cross-validation", "1"),
    "penalty": ("ridge penalty of the context, chosen by cross-validation", "1"),
    "sweeps": ("sweeps of alternating least squares", "count"),
    "converged": ("whether the fit converged within the sweeps allowed", "1"),
}


@dataclass(frozen=True)
class Scores:
    """What one tap, or one null of it, gives."""

    error_self: np.ndarray  # (test image,)
    error_all: np.ndarray  # (test image,)
    scaled: bool
    penalty: float
    sweeps: int
    converged: bool
    noise_scale: float


def compute(
    dataset: xr.Dataset,
    *,
    nulls: Sequence[str] = NULLS,
    rank: int = 1,
    penalties: Sequence[float] = PENALTIES,
    folds: int = 5,
    sweeps: int = 200,
    tolerance: float = 1e-7,
    seed: int = 0,
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
    "noise_matched": the embedding plus isotropic noise that leaves the same r2_self.

    dataset: the token tier: `tokens` (layer, image, token, channel) with a layer "embed",
    coordinates `token_kind` and `split`.
    Returns the shares over (null, layer) with `_low` and `_high` from a bootstrap over test images
    (the fits stay as they are) and, of those that models are compared by, `_draws`; the sums they
    are ratios of, `error_self`, `error_all` (null, layer, image) and `total` (image), over test
    images; `isi_standard_error` and `test_images_needed`, so that it is `target_standard_error`;
    and the choices of the fits. `recovered` is NaN where the same token recovers all but 1e-4.
    Raises VitalsError for a null that needs a forward pass of its own, and where the layer "embed",
    a split, a second patch token or enough fit images are missing.
    Source: arXiv 2511.21635, Information Scrambling Index; the estimator is ours.
    """
    _check_settings(nulls, rank, penalties, folds)
    embedding, patches = axes.patch_embedding(dataset, "scrambling")
    fit_images, test_images = (axes.split_indices(dataset, s) for s in ("fit", "test"))
    parts = _folds(fit_images, folds, seed)

    settings = {"rank": rank, "sweeps": sweeps, "tolerance": tolerance, "seed": seed}
    noise = NoisePairs(embedding, fit_images, seed)
    total = np.concatenate([np.square(z).sum((1, 2)) for _, z in noise.blocks(test_images)])
    if not total.sum() > 0:
        raise VitalsError("scrambling needs patch embeddings that differ between test images")
    in_memory = _moment_bytes(embedding, folds) <= MOMENT_BYTES
    null = NoiseNull(noise, parts, test_images, in_memory) if "noise_matched" in nulls else None

    scores = {name: [] for name in nulls}
    kind = SecondMoments if in_memory else StreamedMoments
    for layer in progress(range(dataset.sizes["layer"]), "scrambling"):
        pairs = TapPairs(_patch_tokens(dataset, layer, patches), embedding, fit_images)
        moments = [kind.of(pairs, images) for images in parts]
        measured = _scores(pairs, moments, test_images, penalties, settings)
        scores["none"].append(measured)
        if null is not None:
            scores["noise_matched"].append(
                _null_scores(null, measured, total, test_images, penalties, settings)
            )

    result = _collect(dataset, scores, total, test_images)
    add_shares(result, bootstrap_samples, bootstrap_seed)
    add_precision(result, target_standard_error)
    return result


def _check_settings(
    nulls: Sequence[str], rank: int, penalties: Sequence[float], folds: int
) -> None:
    for null in nulls:
        if null in EXTRACTED_NULLS:
            raise VitalsError(
                f"the null '{null}' needs an extraction variant, a forward pass of its own; "
                f"from stored tokens there are {', '.join(NULLS)}"
            )
        if null not in NULLS:
            raise unknown("null", null, [*NULLS, *EXTRACTED_NULLS])
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


def _patch_tokens(dataset: xr.Dataset, layer: int, patches: np.ndarray) -> xr.DataArray:
    return dataset["tokens"].isel(layer=layer, token=patches)


def _folds(images: np.ndarray, folds: int, seed: int) -> list[np.ndarray]:
    """The fit images dealt out at random to parts of equal size."""
    if images.size < 2 * folds:
        raise VitalsError(
            f"{folds} folds need at least {2 * folds} fit images, found {images.size}"
        )
    shuffled = np.random.default_rng(seed).permutation(images)
    return [np.sort(part) for part in np.array_split(shuffled, folds)]


def _moment_bytes(embedding: xr.DataArray, folds: int) -> int:
    """Two matrices for the tap, four for the null: of each fold, the test split and a rest."""
    width = embedding.sizes["token"] * embedding.sizes["channel"]
    return 8 * width**2 * 6 * (folds + 2)


def _scores(
    pairs: Source,
    parts: list[Moments],
    test: np.ndarray,
    penalties: Sequence[float],
    settings: dict,
    kinds: Sequence[bool] = (False, True),
    noise_scale: float = 0.0,
) -> Scores:
    whole = sum(parts[1:], start=parts[0])
    choice = cross_validate(whole, parts, penalties, kinds=kinds, **settings)
    own = fit_same_token(whole, choice.scaled, **settings)
    no_context = np.isinf(choice.penalty)
    everything = own if no_context else fit(whole, [choice.penalty], **settings)
    errors = [_errors(pairs, test, fitted) for fitted in (own, everything)]
    return Scores(
        *errors,
        scaled=choice.scaled,
        penalty=choice.penalty,
        sweeps=int(everything.sweeps[0]),
        converged=bool(own.converged[0] and everything.converged[0]),
        noise_scale=noise_scale,
    )


def _errors(pairs: Source, images: np.ndarray, fitted: Fit) -> np.ndarray:
    """Σ‖z − ẑ‖² of each image."""
    blocks = pairs.blocks(images)
    return np.concatenate([np.square(z - fitted.predict(x)).sum((1, 2)) for x, z in blocks])


def _null_scores(
    null: NoiseNull,
    measured: Scores,
    total: np.ndarray,
    test: np.ndarray,
    penalties: Sequence[float],
    settings: dict,
) -> Scores:
    r2_self = 1 - measured.error_self.sum() / total.sum()
    kind = measured.scaled
    scale = null.matching_scale(r2_self, kind, **settings)
    if np.isinf(scale):  # noise alone: the mean is all that either arm can give
        return Scores(total, total, kind, np.inf, 0, True, scale)
    pairs, parts = null.pairs(scale), null.moments(scale)
    return _scores(pairs, parts, test, penalties, settings, (kind,), scale)


def _collect(
    dataset: xr.Dataset, scores: dict[str, list[Scores]], total: np.ndarray, test: np.ndarray
) -> xr.Dataset:
    result = xr.Dataset(
        coords={
            "null": list(scores),
            **axes.layer_coordinates(dataset),
            **axes.image_coordinates(dataset.isel(image=test)),
        }
    )

    def gathered(name: str) -> np.ndarray:
        return np.array([[getattr(score, name) for score in row] for row in scores.values()])

    for arm, tokens in (("self", "the same token"), ("all", "all tokens")):
        errors = xr.DataArray(gathered(f"error_{arm}"), dims=("null", "layer", "image"))
        long_name = f"squared error of the patch embeddings rebuilt from {tokens}"
        result[f"error_{arm}"] = described(errors, long_name, "activation²")
    result["total"] = described(
        xr.DataArray(total, dims="image"),
        "squared deviation of the patch embeddings from the fit split's mean",
        "activation²",
    )
    for name, (long_name, units) in FITS.items():
        values = xr.DataArray(gathered(name), dims=("null", "layer"))
        result[name] = described(values, long_name, units)
    if "noise_matched" in scores:
        scales = [score.noise_scale for score in scores["noise_matched"]]
        result["noise_scale"] = described(
            xr.DataArray(scales, dims="layer"),
            "standard deviation of the noise-matched null's noise; infinite: noise alone",
            "activation",
        )
    return result
