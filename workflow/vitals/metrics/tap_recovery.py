"""What is recovered of the patch embeddings at each tap of one dataset, and at its noise null.

The images are dealt into groups, the folds of the fit split and the test split, and the patch
embeddings are kept centred on their principal channels. Then one tap at a time: the penalty by
cross-validation, the two arms fitted on the fit split, their squared errors on each test image.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from vitals.errors import VitalsError
from vitals.metrics import axes
from vitals.metrics.accelerator import float64_device
from vitals.metrics.noise_null import NoiseNull
from vitals.metrics.token_mixing import Fit, cross_validate, fit, fit_same_token
from vitals.metrics.token_moments import SecondMoments, StreamedMoments, predicted
from vitals.metrics.token_pairs import (
    Pairs,
    TapTokens,
    gathered,
    spread,
)

# Second moments of a study are held in memory up to this size, else taken pass by pass.
MOMENT_BYTES = 2**30
# Principal channels with less than this share of the largest variance are rounding.
ROUNDING = 1e-6
# They are not rebuilt as long as all of them hold no more than this share of all variance.
LEFT_OUT = 1e-6


@dataclass(frozen=True)
class Settings:
    """What the fits are told."""

    penalties: Sequence[float]
    folds: int
    rank: int
    sweeps: int
    tolerance: float
    seed: int

    @property
    def descent(self) -> dict:
        """Those of one fit."""
        return {name: getattr(self, name) for name in ("rank", "sweeps", "tolerance", "seed")}


@dataclass(frozen=True)
class Scores:
    """What one tap, or one null of it, gives; errors are (plain or whitened, test image)."""

    error_self: np.ndarray
    error_all: np.ndarray
    scaled: bool
    penalty: float
    sweeps: int
    converged: bool
    error_near: np.ndarray = field(default_factory=lambda: np.zeros((0, 2, 0)))  # (distance, ...)
    noise_scale: float = 0.0


class Recovery:
    """The taps of one dataset, each against its patch embeddings.

    context: kinds of tokens that are context beside the patches, as "cls"; noise: whether the null
    of noise is asked for; distances: how far, in patches, the context reaches that is tried beside
    the whole.
    """

    def __init__(
        self,
        dataset: xr.Dataset,
        settings: Settings,
        context: Sequence[str] = (),
        noise: bool = False,
        distances: Sequence[float] = (),
    ):
        embedding, self.patches = axes.patch_embedding(dataset, "scrambling")
        beside = [axes.token_indices(dataset, kind) for kind in context]
        self.places = np.concatenate([self.patches, *beside])
        self.dataset, self.settings = dataset, settings
        self.fit_images = axes.split_indices(dataset, "fit")
        self.test_images = axes.split_indices(dataset, "test")
        parts = folds_of(self.fit_images, settings.folds, settings.seed)
        self.groups = [*parts, self.test_images]

        held = moment_bytes(dataset, self.places.size, settings.folds) <= MOMENT_BYTES
        self.moments = SecondMoments if held else StreamedMoments
        self.device = torch.device("cpu") if held else float64_device()
        self.kind = torch.float64 if held else torch.float32

        tokens = TapTokens(embedding)
        self.channels = spread(tokens, self.fit_images, self.device)
        variances, rotation = self.channels.principal
        first = rebuilt_from(variances)
        self.rotation, variances = rotation[:, first:], variances[first:]
        self.weights = torch.where(variances > ROUNDING * variances[-1], 1 / variances, 0.0)
        mean = self.channels.mean
        embedding = gathered(tokens, self.groups, mean, rotation, self.kind)
        self.embedding = [[block[..., first:] for block in stack] for stack in embedding]
        self.total = self._sums(self.embedding[-1])
        if not self.total[0].sum() > 0:
            raise VitalsError("scrambling needs patch embeddings that differ between test images")
        self.null = None
        if noise:
            self.null = NoiseNull(embedding, self.channels, first, self.groups, settings.seed)
        self.supports = [self._within(distance) for distance in distances]

    def tap(self, layer: int) -> Scores:
        """The measurement of one tap."""
        tokens = TapTokens(self.dataset["tokens"].isel(layer=layer, token=self.places))
        across = spread(tokens, self.fit_images, self.device)
        basis = across.whitening()
        inputs = gathered(tokens, self.groups, across.mean, basis, self.kind)
        unchanged = basis.T @ across.covariance @ self.rotation
        pairs = [Pairs(x, z, unchanged) for x, z in zip(inputs, self.embedding, strict=True)]
        return self._scores(pairs)

    def noise(self, measured: Scores) -> Scores:
        """The null of noise that leaves as much in each token as was measured."""
        r2_self = 1 - measured.error_self[0].sum() / self.total[0].sum()
        kind = measured.scaled
        scale = self.null.matching_scale(
            r2_self, kind, self.total[0].sum(), **self.settings.descent
        )
        if scale in (0, np.inf):  # the embedding itself, or noise alone, of which the mean is left
            error = self.total if scale else np.zeros_like(self.total)
            near = np.repeat(error[None], len(self.supports), axis=0)
            return Scores(error, error, kind, np.inf, 0, True, near, scale)
        return self._scores(self.null.pairs(scale), (kind,), scale)

    def _scores(
        self,
        pairs: list[Pairs],
        kinds: Sequence[bool] = (False, True),
        noise_scale: float = 0.0,
    ) -> Scores:
        *fit_pairs, test = pairs
        descent = self.settings.descent
        parts = [self.moments.of(part) for part in fit_pairs]
        whole = sum(parts[1:], start=parts[0])
        choice = cross_validate(whole, parts, self.settings.penalties, kinds=kinds, **descent)
        # a sweep with a diagonal mixing costs little: both starts go on to the end
        own = everything = fit_same_token(whole, choice.scaled, race=descent["sweeps"], **descent)
        near = [own] * len(self.supports)
        if np.isfinite(choice.penalty):
            everything = fit(whole, [choice.penalty], start=choice.start, **descent)
            near = [fit(whole, [choice.penalty], support=s, **descent) for s in self.supports]
        errors = [self._errors(test, one) for one in (own, everything, *near)]
        return Scores(
            errors[0],
            errors[1],
            scaled=choice.scaled,
            penalty=choice.penalty,
            sweeps=int(everything.sweeps[0]),
            converged=bool(own.converged[0] and everything.converged[0]),
            error_near=np.array(errors[2:]).reshape(len(near), *self.total.shape),
            noise_scale=noise_scale,
        )

    def _errors(self, test: Pairs, fitted: Fit) -> np.ndarray:
        maps, mixing = fitted.maps[0], fitted.mixing[0]
        return self._sums(z - predicted(x, maps, mixing) for x, z in test.blocks())

    def _sums(self, blocks: Iterable[Tensor]) -> np.ndarray:
        """Σ of squares over tokens and channels, plain and whitened: (2, image)."""
        weights = torch.stack([torch.ones_like(self.weights), self.weights])
        sums = [weights @ block.to(self.device).double().square().sum(dim=0).T for block in blocks]
        return torch.cat(sums, dim=1).cpu().numpy()

    def _within(self, distance: float) -> Tensor:
        """Which places lie within so many patches of each token: (N, M)."""
        grid = np.stack([self.dataset[c].values[self.patches] for c in ("row", "column")])
        apart = np.hypot(*(grid[:, :, None] - grid[:, None]))
        near = np.zeros((self.patches.size, self.places.size), dtype=bool)
        near[:, : self.patches.size] = apart <= distance
        return torch.from_numpy(near).to(self.device)


def rebuilt_from(variances: Tensor) -> int:
    """The first principal channel, from the least variance up, that is more than rounding."""
    rounding = variances < ROUNDING * variances[-1]
    rounding &= variances.cumsum(dim=0) <= LEFT_OUT * variances.sum()
    return int(rounding.sum())


def folds_of(images: np.ndarray, folds: int, seed: int) -> list[np.ndarray]:
    """The fit images dealt out at random to parts of equal size."""
    if images.size < 2 * folds:
        raise VitalsError(
            f"{folds} folds need at least {2 * folds} fit images, found {images.size}"
        )
    shuffled = np.random.default_rng(seed).permutation(images)
    return [np.sort(part) for part in np.array_split(shuffled, folds)]


def moment_bytes(dataset: xr.Dataset, places: int, folds: int) -> int:
    """Two matrices of the folds, the fit split and what is left of it without a fold."""
    return 8 * (places * dataset.sizes["channel"]) ** 2 * 2 * (folds + 2)
