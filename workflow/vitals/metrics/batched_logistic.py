"""Logistic probes of many taps, folds and penalties at once, for an accelerator.

>>> import numpy as np
>>> fit, codes = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([0, 0, 1, 1])
>>> search = Search(penalties=(0.1, 1.0), folds=2, seed=0, max_iter=100)
>>> one, other = probes([fit, 2 * fit], codes, search, torch.device("cpu"))
>>> one.penalty, one.largest_gradient(fit, codes) < 1e-5, other.predict(fit, codes)[0]
(0.1, True, array([0, 0, 1, 1]))
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vitals.metrics.batched_lbfgs import PAIRS, minimise
from vitals.metrics.logistic_probe import (
    FINAL_TOLERANCE,
    SEARCH_TOLERANCE,
    LogisticProbe,
    Search,
    held_out_folds,
)

NUMBERS = 2**29  # float32 numbers of weights and features on the device at once, 2 GiB
COPIES = 2 * PAIRS + 6  # of the weights of a problem, while it is minimised
SCORES_AT_ONCE = 2**25  # (tap, image, problem, class)


def taps_at_once(images: int, channels: int, classes: int, search: Search) -> int:
    """How many taps of so many fit images fit on the device together."""
    problems = len(search.penalties) * search.folds
    weights = COPIES * problems * (channels + 1) * classes
    return max(1, NUMBERS // (weights + 3 * images * channels))  # features in float32 and float64


def probes(
    fits: Sequence[np.ndarray], codes: np.ndarray, search: Search, device: torch.device
) -> list[LogisticProbe]:
    """What `logistic_probe.probe` gives of each tap in fits, each (image, channel), codes (image,).

    The objective is scikit-learn's. So is the search, except that each fit starts from nothing.
    """
    with torch.inference_mode():
        penalties = _chosen(_Features.of(fits, codes, torch.float32, device), search)
        features = _Features.of(fits, codes, torch.float64, device)
        every = torch.ones(1, len(codes), dtype=torch.bool, device=device)
        weights = features.fitted(
            every, torch.tensor(penalties)[:, None], FINAL_TOLERANCE, search.max_iter
        )
    return [
        _labelled(weight, penalty)
        for weight, penalty in zip(weights[:, :, 0].cpu().numpy(), penalties, strict=True)
    ]


def _labelled(weight: np.ndarray, penalty: float) -> LogisticProbe:
    """From weight (channel + 1, class), its last row the intercept."""
    if weight.shape[1] == 2:  # the second's logit over the first's
        weight = weight - weight[:, :1]
    return LogisticProbe(np.ascontiguousarray(weight[:-1].T), weight[-1], penalty)


@dataclass(frozen=True)
class MultinomialLoss:
    """Σ_i share_i (−log p(y_i)) + decay ‖W‖²/2 of each tap and problem, and its gradient.

    x (tap, image, channel + 1), its last channel 1; codes (image,); share (image, problem);
    decay (tap, problem). Weights are (tap, channel + 1, problem, class).
    """

    x: Tensor
    codes: Tensor
    share: Tensor
    decay: Tensor

    def at(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Values (tap, problem) in float64 and the gradient, a block of images at a time."""
        penalised = weight.clone()
        penalised[:, -1] = 0  # not the intercept
        gradient = self.decay.to(weight.dtype)[:, None, :, None] * penalised
        value = self.decay / 2 * penalised.square().sum(dim=(1, 3), dtype=torch.float64)
        flat = gradient.view(*gradient.shape[:2], -1)  # (tap, channel + 1, problem · class)
        for block, scores in _scores(self.x, weight):
            own = self.codes[block][None, :, None, None].expand(*scores.shape[:3], 1)
            log_norm = scores.logsumexp(dim=3, keepdim=True)
            share = self.share[block, :, None]
            value += (share * (log_norm - scores.gather(3, own))).sum(dim=(1, 3))
            residual = scores.sub_(log_norm).exp_()
            residual.scatter_add_(3, own, residual.new_full((1,), -1).expand(own.shape))
            residual *= share.to(residual.dtype)
            flat.baddbmm_(self.x[:, block].mT, residual.flatten(start_dim=2))
        return value, gradient

    def of(self, taps: Tensor, problems: Tensor) -> "MultinomialLoss":
        """The same of some taps and of some problems."""
        x = self.x if len(taps) == len(self.x) else self.x[taps]
        return MultinomialLoss(
            x, self.codes, self.share[:, problems], self.decay[taps][:, problems]
        )


@dataclass(frozen=True)
class _Features:
    """Taps side by side on the device: x (tap, image, channel + 1), its last channel 1."""

    x: Tensor
    codes: Tensor
    classes: int

    @classmethod
    def of(
        cls,
        fits: Sequence[np.ndarray],
        codes: np.ndarray,
        dtype: torch.dtype,
        device: torch.device,
    ) -> "_Features":
        images, channels = fits[0].shape
        x = torch.ones(len(fits), images, channels + 1, dtype=dtype, device=device)
        for place, fit in zip(x, fits, strict=True):
            place[:, :-1] = torch.from_numpy(fit)
        return cls(x, torch.from_numpy(codes).to(device), int(codes.max()) + 1)

    def fitted(self, kept: Tensor, penalties: Tensor, tolerance: float, max_iter: int) -> Tensor:
        """Weights (tap, channel + 1, problem, class) of fits to some images each.

        kept (problem, image): those that take part; penalties (tap or 1, problem): C.
        """
        share = kept.T.double()
        share /= share.sum(dim=0)
        images = kept.sum(dim=1)
        # of two classes scikit-learn penalises the difference of their weights, w and −w, and that
        # is half as much: ‖2w‖²/2 = 2‖w‖² for (‖w‖² + ‖w‖²)/2 = ‖w‖²
        times = 2 if self.classes == 2 else 1
        decay = times / (penalties.double().to(images.device) * images)
        loss = MultinomialLoss(self.x, self.codes, share, decay.expand(len(self.x), -1))
        start = self.x.new_zeros(len(self.x), self.x.shape[2], len(kept), self.classes)
        return minimise(loss, start, tolerance / self.classes, max_iter)

    def right(self, weight: Tensor, asked: Tensor) -> Tensor:
        """Images asked (problem, image) whose class the weights name: (tap, problem)."""
        found = torch.zeros(
            weight.shape[0], weight.shape[2], dtype=torch.int64, device=asked.device
        )
        for block, scores in _scores(self.x, weight):
            named = scores.argmax(dim=3) == self.codes[block, None]  # (tap, image, problem)
            found += (named & asked.T[block]).sum(dim=1)
        return found


def _chosen(features: _Features, search: Search) -> list[float]:
    """The penalty of each tap with most right held-out images, the smallest of several."""
    taps, _, channels = features.x.shape
    if len(search.penalties) == 1:
        return [search.penalties[0]] * taps
    codes, device = features.codes, features.x.device
    folds = torch.from_numpy(held_out_folds(codes.cpu().numpy(), search.folds, search.seed))
    held_out = folds.to(device) == torch.arange(search.folds, device=device)[:, None]
    held_out = held_out.repeat(len(search.penalties), 1)  # (problem, image), penalty by penalty
    penalties = torch.tensor(search.penalties).repeat_interleave(search.folds)[None]
    step = max(1, NUMBERS // (COPIES * taps * channels * features.classes))
    right = []
    for start in range(0, len(held_out), step):
        asked = held_out[start : start + step]
        weight = features.fitted(
            ~asked, penalties[:, start : start + step], SEARCH_TOLERANCE, search.max_iter
        )
        right.append(features.right(weight, asked))
    by_penalty = (
        torch.cat(right, dim=1).reshape(taps, len(search.penalties), search.folds).sum(dim=2)
    )
    return [search.penalties[row.argmax()] for row in by_penalty.cpu().numpy()]


def _scores(x: Tensor, weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of images, with their scores (tap, image, problem, class)."""
    taps, _, problems, classes = weight.shape
    step = max(1, SCORES_AT_ONCE // (taps * problems * classes))
    for start in range(0, x.shape[1], step):
        block = slice(start, start + step)
        scores = x[:, block] @ weight.flatten(start_dim=2)
        yield block, scores.unflatten(2, (problems, classes))
