"""Many smooth convex problems minimised at once, by L-BFGS with a step of its own for each.

>>> import torch
>>> class Parabolas:
...     def __init__(self, curvature):
...         self.curvature = curvature  # (tap, problem)
...     def at(self, x):
...         weight = self.curvature[:, None, :, None]
...         return (weight * (x - 3) ** 2 / 2).sum(dim=(1, 3)), weight * (x - 3)
...     def of(self, taps, problems):
...         return Parabolas(self.curvature[taps][:, problems])
>>> start = torch.zeros(1, 2, 3, 1, dtype=torch.float64)  # three problems in two numbers each
>>> found = minimise(Parabolas(torch.tensor([[0.01, 1.0, 50.0]])), start, 1e-9, 100)
>>> found.sub(3).abs().max().item() < 1e-6
True
"""

from typing import Protocol

import torch
from torch import Tensor

PAIRS = 10  # of a step and its change of gradient, that the curvature is known from
HALVINGS = 20  # of a step, before a problem is given up
SUFFICIENT = 1e-4  # share of the decrease that the slope foretells (Armijo)
FLAT = 64 * torch.finfo(torch.float64).eps  # relative decrease at which a problem is at its floor


class Loss(Protocol):
    """Problems in a rectangle of taps and problems, each in the numbers x[tap, :, problem, :]."""

    def at(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values (tap, problem) in float64, and the gradient, of the shape of x."""

    def of(self, taps: Tensor, problems: Tensor) -> "Loss":
        """The same problems, of some taps and of some columns."""


def minimise(loss: Loss, start: Tensor, tolerance: float, max_iter: int) -> Tensor:
    """Where each problem's gradient is no larger than `tolerance`, or as near as it comes.

    start: (tap, number, problem, class). Problems that are finished wait until they are half of
    the rectangle, which is then cut down to the others.
    """
    found = start.clone()
    taps, problems = (torch.arange(start.shape[dim], device=start.device) for dim in (0, 2))
    x, (value, gradient) = start, loss.at(start)
    history, active = _History(), _largest(gradient) > tolerance
    for _ in range(max_iter):
        if 2 * active.any(dim=1).sum() * active.any(dim=0).sum() <= active.numel():
            found[taps[:, None], :, problems] = x.transpose(1, 2)
            rows, columns = (active.any(dim=dim).nonzero()[:, 0] for dim in (1, 0))
            if not rows.numel():
                return found
            taps, problems, loss = taps[rows], problems[columns], loss.of(rows, columns)
            x, gradient = (_cut(tensor, rows, columns) for tensor in (x, gradient))
            value, active = value[rows][:, columns], active[rows][:, columns]
            history.cut(rows, columns)
        direction = history.direction(gradient) * _wide(active)
        moved, new = _descend(loss, x, direction, value, gradient)
        x_new, value_new, gradient_new = new
        history.add(x_new - x, gradient_new - gradient)
        size = torch.maximum(value.abs(), value_new.abs()).clamp(min=1)
        active &= moved & (value - value_new > FLAT * size) & (_largest(gradient_new) > tolerance)
        x, value, gradient = new
    found[taps[:, None], :, problems] = x.transpose(1, 2)
    return found


class _History:
    """The last steps and their changes of gradient, newest last, as the inverse curvature."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []  # step, change, 1/(step · change)
        self.scale: Tensor | None = None  # (tap, problem)

    def add(self, step: Tensor, change: Tensor) -> None:
        """A pair of a step without positive curvature, as that of a problem at rest, is void."""
        product, square = _dot(step, change), _dot(change, change)
        curved = product > torch.finfo(step.dtype).eps * square
        inverse = torch.where(curved, 1 / product, 0)
        self.scale = torch.where(curved, product / square, self.scale)
        self.pairs = [*self.pairs[1 - PAIRS :], (step, change, inverse)]

    def direction(self, gradient: Tensor) -> Tensor:
        """Minus the inverse curvature times the gradient; of length 1 at most where none is known.

        Nocedal and Wright (2006), algorithm 7.4.
        """
        if self.scale is None:
            self.scale = 1 / _dot(gradient, gradient).sqrt().clamp(min=1)
        q, along = -gradient, []
        for step, change, inverse in reversed(self.pairs):
            along.append(inverse * _dot(step, q))
            q -= _wide(along[-1]) * change
        q *= _wide(self.scale)
        for step, change, inverse in self.pairs:
            q += _wide(along.pop() - inverse * _dot(change, q)) * step
        return q

    def cut(self, taps: Tensor, problems: Tensor) -> None:
        for index, (step, change, inverse) in enumerate(self.pairs):
            step, change = (_cut(tensor, taps, problems) for tensor in (step, change))
            self.pairs[index] = step, change, inverse[taps][:, problems]
        if self.scale is not None:
            self.scale = self.scale[taps][:, problems]


def _descend(
    loss: Loss, x: Tensor, direction: Tensor, value: Tensor, gradient: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Which problems have come down along their direction, and all where they are then.

    Each halves its step until it is down by enough; one that never is stays where it was.
    """
    slope = _dot(gradient, direction)
    rounding = torch.finfo(x.dtype).eps * value.abs()  # a value is known no better
    length = torch.ones_like(slope)
    for _ in range(HALVINGS):
        x_new = x + _wide(length) * direction
        value_new, gradient_new = loss.at(x_new)
        enough = value_new <= value + SUFFICIENT * (length * slope).double() + rounding
        if enough.all():
            return enough, (x_new, value_new, gradient_new)
        length = torch.where(enough, length, length / 2)
    x_new = torch.where(_wide(enough), x_new, x)
    return enough, (x_new, *loss.at(x_new))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.einsum("tnpc,tnpc->tp", a, b)


def _largest(gradient: Tensor) -> Tensor:
    return gradient.abs().amax(dim=(1, 3))


def _wide(values: Tensor) -> Tensor:
    """(tap, problem) beside (tap, number, problem, class)."""
    return values[:, None, :, None]


def _cut(tensor: Tensor, taps: Tensor, problems: Tensor) -> Tensor:
    return tensor[taps][:, :, problems]
