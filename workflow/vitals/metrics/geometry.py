"""How many dimensions tokens fill, which taps are alike, and what few activations dwarf the rest.

>>> import numpy as np, xarray as xr
>>> flat = np.random.default_rng(0).standard_normal((1, 50, 40, 8)) * (np.arange(8) < 3)
>>> dataset = xr.Dataset(
...     {"tokens": (("layer", "image", "token", "channel"), flat)},  # isotropic in 3 of 8 channels
...     coords={"layer": ["embed"], "token_kind": ("token", ["patch"] * 40)},
... )
>>> result = compute(dataset, bootstrap_samples=10)
>>> result["effective_rank"].round(1).item(), result["participation_ratio"].round(1).item()
(3.0, 3.0)
"""

from functools import partial

import numpy as np
import torch
import xarray as xr

from vitals.errors import VitalsError
from vitals.metrics import (
    axes,
    bootstrap,
    effective_rank,
    intrinsic_dimension,
    outlier_activations,
    pooled_geometry,
    workers,
)
from vitals.metrics.accelerator import float64_device
from vitals.metrics.results import PUBLISHED, RECONSTRUCTED, describe
from vitals.progress import progress

RANK = "Roy & Vetterli 2007"
PARTICIPATION = "Gao et al. 2017"
MASSIVE = "Sun et al. 2024, massive activations; the multiple is a stated choice"
HIGH_NORM = "Darcet et al. 2024, high-norm tokens; the threshold is a stated choice"

SPECTRAL = {
    "effective_rank": (effective_rank.effective_rank, "effective rank of the patch tokens", RANK),
    "participation_ratio": (
        effective_rank.participation_ratio,
        "participation ratio of the patch tokens",
        PARTICIPATION,
    ),
}
PER_IMAGE = {
    "image_effective_rank": ("effective rank within an image", "dimensions", PUBLISHED, RANK),
    "image_participation_ratio": (
        "participation ratio within an image",
        "dimensions",
        PUBLISHED,
        PARTICIPATION,
    ),
    "massive_share": ("share of massive activations", "1", RECONSTRUCTED, MASSIVE),
    "massive_ratio": ("largest activation over the median", "medians", RECONSTRUCTED, MASSIVE),
    "high_norm_share": ("share of high-norm patch tokens", "1", RECONSTRUCTED, HIGH_NORM),
    "high_norm_ratio": ("largest patch norm over the median", "medians", RECONSTRUCTED, HIGH_NORM),
}
CHANNEL = "channel that peaks highest over the median activation"
CHANNEL_RATIO = "mean peak of a channel over the median activation"
HIGH_NORM_MAP = "share of images in which the patch is a high-norm token"


def compute(
    dataset: xr.Dataset,
    *,
    pooled: xr.Dataset | None = None,
    discarded_share: float = intrinsic_dimension.DISCARDED_SHARE,
    neighbour_images: int = 5000,
    massive_multiple: float = 100.0,
    massive_channels: int = 5,
    high_norm_mads: float = 5.0,
    bootstrap_samples: int = 1000,
    bootstrap_seed: int = 0,
) -> xr.Dataset:
    """The geometry of each tap, all with 95 % intervals from resamples of images.

    Of the matrix of all images' patch tokens about their common mean, (layer,), with `_draws`:
    - `effective_rank`: exp of the entropy of its normalised singular values; `participation_ratio`:
      (Σλ)²/Σλ² of its squared ones. `image_effective_rank` and `image_participation_ratio` (layer,
      image) are those of an image's own patches about their own mean.
    Of the pooled features of each image:
    - `intrinsic_dimension` (layer, feature), with `_draws`: TWO-NN over the first
      `neighbour_images` images, the fit without the largest `discarded_share` of the ratios;
    - `cka` (feature, layer, other_layer): linear CKA between taps by unbiased HSIC.
    Of all tokens, (layer, image): `massive_share`, of activations with |x| beyond
    `massive_multiple` times their median in the image, and `massive_ratio`, the largest over it.
    `massive_channel` (layer, order) are the channels with the highest peaks, highest first, and
    `massive_channel_ratio` the peaks, averages over images.
    Of patch tokens, (layer, image): `high_norm_share`, with ‖x‖ beyond median +
    `high_norm_mads`·MAD of their image, and `high_norm_ratio`, max/median. `high_norm_map` (layer,
    patch) is the share of images in which each patch is one, with `row` and `column` if known.

    dataset: the token tier: `tokens` (layer, image, token, channel), coordinate `token_kind`.
    pooled: the pooled tier, with `pooled` (layer, image, feature, channel).
    Without `pooled`, what is of it is absent. What is the same for every image has no dimension and
    no CKA: NaN. Sums are in float64 on the accelerator, if there is one; it agrees with the CPU to
    1e-6. Raises VitalsError where there are fewer than two patch tokens.
    Source: as each variable says.
    """
    axes.require(dataset, "tokens")
    patches = axes.token_indices(dataset, "patch")
    if patches.size < 2:
        raise VitalsError(f"geometry needs at least 2 patch tokens, found {patches.size}")
    interval = (bootstrap_samples, bootstrap_seed)
    result = xr.Dataset(
        coords={
            **axes.layer_coordinates(dataset),
            **axes.image_coordinates(dataset),
            **_patch_coordinates(dataset, patches),
        },
        attrs={
            "patches": patches.size,
            "massive_multiple": massive_multiple,
            "high_norm_mads": high_norm_mads,
            "discarded_share": discarded_share,
        },
    )
    counts = bootstrap.image_counts(dataset.sizes["image"], *interval)
    outliers = (massive_multiple, massive_channels, high_norm_mads)
    stored = [dataset["tokens"].isel(layer=layer) for layer in range(dataset.sizes["layer"])]
    look = partial(_Tap, patches=patches, counts=counts, outliers=outliers)
    taps = list(progress(workers.each(look, stored), "geometry", len(stored)))
    for name, (long_name, units, status, source) in PER_IMAGE.items():
        values = np.stack([tap.per_image[name] for tap in taps])
        array = xr.DataArray(values, dims=("layer", "image"))
        result[name] = describe(array, long_name, units, status, source)
        bootstrap.add_interval(result, name, bootstrap.mean_draws(result[name], *interval))
    _add_spectra(result, taps)
    _add_massive_channels(result, taps, *interval)
    _add_high_norm_map(result, taps, *interval)
    pooled_geometry.add(result, pooled, discarded_share, neighbour_images, *interval)
    return result


def _patch_coordinates(dataset: xr.Dataset, patches: np.ndarray) -> dict[str, tuple]:
    """The number of each patch over `patch`, and its row and column where the dataset has them."""
    placed = [name for name in ("row", "column") if name in dataset.coords]
    values = {name: ("patch", dataset[name].values[patches]) for name in placed}
    return {"patch": np.arange(patches.size), **values}


class _Tap:
    """What passes over the tokens of a tap find.

    spectral, spectral_drawn: the variables of `SPECTRAL`, and of resamples (draw,); per_image:
    those of `PER_IMAGE` (image,); channels (order,) with the highest peaks, and peaks (order,
    image), their largest |x| over the median; high (patch, image): high-norm tokens.
    """

    def __init__(
        self,
        tokens: xr.DataArray,
        patches: np.ndarray,
        counts: np.ndarray,
        outliers: tuple[float, int, float],
    ):
        multiple, channels, mads = outliers
        where = float64_device()
        spectrum = effective_rank.spectrum(tokens, patches, where)
        drawn = spectrum.resampled(counts)  # (draw, direction)
        measures = {name: measure for name, (measure, *_) in SPECTRAL.items()}
        self.spectral = {name: of(spectrum.variances) for name, of in measures.items()}
        self.spectral_drawn = {name: of(drawn) for name, of in measures.items()}
        every = np.arange(tokens.sizes["token"])
        found = [
            _block(x, x[:, patches], multiple, mads)
            for x in effective_rank.blocks(tokens, every, where)
        ]
        per_image, peaks, high = zip(*found, strict=True)
        self.per_image = {name: np.concatenate([p[name] for p in per_image]) for name in PER_IMAGE}
        peaks = np.concatenate(peaks)
        self.channels = outlier_activations.largest_channels(peaks, channels)
        self.peaks, self.high = peaks[:, self.channels].T, np.concatenate(high).T


def _block(
    x: torch.Tensor, patch: torch.Tensor, multiple: float, mads: float
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Per-image variables, channel peaks and high norms of x (image, token, channel)."""
    variances = effective_rank.image_variances(patch)
    ratios = outlier_activations.activation_ratios(x)
    massive = (ratios > multiple).double().mean(dim=(1, 2))
    peaks = ratios.amax(dim=1)  # (image, channel)
    high, norm_ratio = outlier_activations.high_norms(patch, mads)
    values = {
        "image_effective_rank": effective_rank.effective_rank(variances),
        "image_participation_ratio": effective_rank.participation_ratio(variances),
        "massive_share": massive.where(peaks[:, 0].isfinite(), torch.nan).cpu().numpy(),
        "massive_ratio": peaks.amax(dim=1).cpu().numpy(),
        "high_norm_share": high.double().mean(dim=1).cpu().numpy(),
        "high_norm_ratio": norm_ratio.cpu().numpy(),
    }
    return values, peaks.cpu().numpy(), high.cpu().numpy()


def _add_spectra(result: xr.Dataset, taps: list[_Tap]) -> None:
    for name, (_, long_name, source) in SPECTRAL.items():
        array = xr.DataArray(np.stack([tap.spectral[name] for tap in taps]), dims="layer")
        described = describe(array, long_name, "dimensions", PUBLISHED, source)
        result[name] = described.assign_attrs(images=result.sizes["image"])
        draws = np.stack([tap.spectral_drawn[name] for tap in taps])
        bootstrap.add_draws(result, name, xr.DataArray(draws, dims=("layer", "draw")))


def _add_massive_channels(result: xr.Dataset, taps: list[_Tap], samples: int, seed: int) -> None:
    channels = np.stack([tap.channels for tap in taps])  # (layer, order)
    result.coords["order"] = np.arange(1, channels.shape[1] + 1)
    array = xr.DataArray(channels, dims=("layer", "order"))
    result["massive_channel"] = describe(array, CHANNEL, "channel", RECONSTRUCTED, MASSIVE)
    peaks = xr.DataArray(np.stack([tap.peaks for tap in taps]), dims=("layer", "order", "image"))
    name = "massive_channel_ratio"
    result[name] = describe(peaks.mean("image"), CHANNEL_RATIO, "medians", RECONSTRUCTED, MASSIVE)
    bootstrap.add_interval(result, name, bootstrap.mean_draws(peaks, samples, seed))


def _add_high_norm_map(result: xr.Dataset, taps: list[_Tap], samples: int, seed: int) -> None:
    name = "high_norm_map"
    shares = xr.DataArray(
        np.stack([tap.high.mean(axis=1) for tap in taps]), dims=("layer", "patch")
    )
    result[name] = describe(shares, HIGH_NORM_MAP, "1", RECONSTRUCTED, HIGH_NORM)
    # tap by tap, because the draws of all are many: (layer, patch, draw)
    of_taps = [xr.DataArray(tap.high, dims=("patch", "image")) for tap in taps]
    ends = [bootstrap.bounds(bootstrap.mean_draws(values, samples, seed)) for values in of_taps]
    low, high = (
        shares.copy(data=np.stack([b.values for b in of])) for of in zip(*ends, strict=True)
    )
    bootstrap.put_interval(result, name, low, high)
