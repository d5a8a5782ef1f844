"""Where do the last steps of a slow alternation point? Anderson's extrapolation.

Alternating least squares creeps where its two halves pull against each other. Each sweep is a map g
of the mixing; where the last x_k and g(x_k) are about affine in one another, the combination of
them with the least ‖Σ c_k (g(x_k) − x_k)‖, Σ c_k = 1, is near the fixed point.

>>> ahead, x = Extrapolation(), torch.tensor([[8.0, 4.0]], dtype=torch.float64)
>>> for _ in range(6):
...     x = ahead.step(x, torch.tensor([0.9, 0.7]) * x)  # alone it would take a hundred steps
>>> x.abs().max().item() < 1e-5
True
"""

import torch
from torch import Tensor

MEMORY = 5  # steps that are looked back on
FEWEST = 3  # the first steps are far from affine


class Extrapolation:
    """The last steps of several alternations side by side.

    Source: Walker and Ni 2011, Anderson Acceleration for Fixed-Point Iterations, section 2.
    """

    def __init__(self) -> None:
        self.reached: list[Tensor] = []  # g(x_k)
        self.steps: list[Tensor] = []  # g(x_k) − x_k
        self.known: list[Tensor] = []  # whether of this alternation

    def step(self, start: Tensor, reached: Tensor) -> Tensor:
        """The next x, from the last x and g of it: (P, ...) each."""
        for kept, new in (
            (self.reached, reached.flatten(1)),
            (self.steps, (reached - start).flatten(1)),
            (self.known, torch.ones_like(reached.flatten(1)[:, :1])),
        ):
            kept.append(new)
            del kept[:-MEMORY]
        if len(self.steps) < FEWEST:
            return reached
        known = torch.stack(self.known[:-1], dim=1)  # (P, k, 1)
        change, moved = (
            torch.stack(kept, dim=1).diff(dim=1) * known for kept in (self.steps, self.reached)
        )
        gram = change @ change.mT
        diagonal = gram.diagonal(dim1=1, dim2=2)
        diagonal += 1e-12 * diagonal.mean(dim=1, keepdim=True) + torch.finfo(gram.dtype).tiny
        weights = torch.linalg.solve(gram, change @ self.steps[-1][..., None])
        return reached - (moved.mT @ weights).reshape(reached.shape)

    def forget(self, alternations: list[int]) -> None:
        """Start some of them anew."""
        for known in self.known:
            known[alternations] = 0

    def keep(self, alternations: Tensor) -> None:
        """Go on with some of them: a mask."""
        for kept in (self.reached, self.steps, self.known):
            kept[:] = [values[alternations] for values in kept]
