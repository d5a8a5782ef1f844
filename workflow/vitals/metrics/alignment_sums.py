"""The sums over images that make the unbiased HSIC, with and without each image."""

import numpy as np
import torch


class HsicSums:
    """HSIC of x, one tap (image, channel), with each of y (tap, image, channel), summed in blocks.

    First all blocks are added; then, block by block again, each image is left out. For K̃ and L̃, the
    kernels XXᵀ and YYᵀ with zeros on their diagonals, leaving out image i takes from tr K̃L̃ twice
    Σ_j K̃_ij L̃_ij, from the sums of K̃ and L̃ twice their rows a_i and b_i, and from 1ᵀK̃L̃1 = Σ_j
    a_j b_j what i adds to the rows of the others, and its own.
    """

    def __init__(self):
        self.images = 0
        self.xy = self.x_sum = self.y_sum = (
            0.0  # (tap, x channel, y channel), (channel,), (tap, channel)
        )
        self.x_sizes = self.y_sizes = self.both_sizes = 0.0  # (), (tap,), (tap,)
        self.x_by_size = self.y_by_size = 0.0  # (tap, x channel), (tap, y channel)
        self.lost: list[tuple[torch.Tensor, ...]] = []
        self.sums: tuple[torch.Tensor, ...] | None = None

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """The first pass, over x (image, channel) and y (tap, image, channel) of a block."""
        x_size, y_size = x.square().sum(dim=-1), y.square().sum(dim=-1)
        self.images += len(x)
        self.xy = self.xy + x.T @ y
        self.x_sum, self.y_sum = self.x_sum + x.sum(dim=0), self.y_sum + y.sum(dim=1)
        self.x_sizes, self.y_sizes = self.x_sizes + x_size.sum(), self.y_sizes + y_size.sum(dim=1)
        self.both_sizes = self.both_sizes + y_size @ x_size
        self.x_by_size = self.x_by_size + y_size @ x
        self.y_by_size = self.y_by_size + x_size @ y

    def _finish(self) -> None:
        """What both passes need: tr K̃L̃, 1ᵀK̃1, 1ᵀL̃1 and 1ᵀK̃L̃1."""
        self.y_by_a = self.x_sum @ self.xy - self.y_by_size  # Σ_j a_j y_j: (tap, channel)
        self.x_by_b = (self.xy @ self.y_sum[..., None])[..., 0] - self.x_by_size
        rows = (self.y_sum * self.y_by_a).sum(dim=1) - self.x_by_size @ self.x_sum + self.both_sizes
        self.sums = (
            self.xy.square().sum(dim=(1, 2)) - self.both_sizes,
            self.x_sum @ self.x_sum - self.x_sizes,
            self.y_sum.square().sum(dim=1) - self.y_sizes,
            rows,
        )

    def leave_out(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """The second pass, over the same blocks."""
        if self.sums is None:
            self._finish()
        x_size, y_size = x.square().sum(dim=-1), y.square().sum(dim=-1)
        own = ((x @ self.xy) * y).sum(dim=-1) - x_size * y_size  # (tap, image)
        a, b = x @ self.x_sum - x_size, (y * self.y_sum[:, None]).sum(dim=-1) - y_size
        a_of_others = (y * self.y_by_a[:, None]).sum(dim=-1) - a * y_size
        b_of_others = self.x_by_b @ x.T - b * x_size
        self.lost.append((own, a, b, a * b + a_of_others + b_of_others - own))

    def hsic(self) -> np.ndarray:
        """(tap,)"""
        return _hsic(*self.sums, self.images).cpu().numpy()

    def hsic_without(self) -> np.ndarray:
        """(tap, image)"""
        own, a, b, lost = (torch.cat(parts, dim=-1) for parts in zip(*self.lost, strict=True))
        trace, all_k, all_l, rows = self.sums
        left = (
            trace[:, None] - 2 * own,
            all_k - 2 * a,
            all_l[:, None] - 2 * b,
            rows[:, None] - lost,
        )
        return _hsic(*left, self.images - 1).cpu().numpy()


def _hsic(
    trace: torch.Tensor, all_k: torch.Tensor, all_l: torch.Tensor, rows: torch.Tensor, n: int
) -> torch.Tensor:
    pairs = all_k * all_l / ((n - 1) * (n - 2))
    return (trace + pairs - 2 * rows / (n - 2)) / (n * (n - 3))
