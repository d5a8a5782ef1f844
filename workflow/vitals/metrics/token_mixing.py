"""How well can tokens be rebuilt linearly from a token itself, and from all tokens?

One family for both, Ẑ = X W_0 + Σ_r M_r X W_r, with channel maps W (channel, channel) shared by the
tokens and token mixings M (token, token) shared by the channels. "Self" has diagonal M, "all" has
full M; a ridge penalty on what lies off the diagonal leads from one to the other:

    ‖Z − Ẑ‖² + λ Σ_r s_r ‖off-diagonal of M_r‖²,   s_r = mean over tokens of Σ‖x W_r‖²

s_r makes the penalty blind to how scale is shared between M and W. The fit alternates two exact
least squares: all W given M, then all M given W.

>>> from vitals.metrics.token_moments import SecondMoments
>>> from vitals.metrics.token_pairs import Pairs
>>> x = torch.randn(3, 40, 2, dtype=torch.float64, generator=torch.manual_seed(0))
>>> neighbour = x[[1, 2, 0]]
>>> moments = SecondMoments.of(Pairs([x], [neighbour], torch.eye(2)))
>>> result = fit(moments, [0.0])
>>> abs(moments.squared_error(result.maps, result.mixing)[0] / moments.energy).item() < 1e-6
True
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vitals.metrics.extrapolation import Extrapolation
from vitals.metrics.token_moments import Moments

RACE_SWEEPS = 1
STALLED = 3
RANKING = 100  # times the tolerance: enough to rank fits
PATIENCE = 2


@dataclass(frozen=True)
class Fit:
    """P fitted problems, one for each penalty."""

    maps: Tensor  # (P, R+1, D, E)
    mixing: Tensor  # (P, R, N, M)
    objective: Tensor  # (P,), as a share of the energy of Z
    sweeps: np.ndarray  # (P,)
    converged: np.ndarray  # (P,)


def fit(
    moments: Moments,
    penalties: Sequence[float],
    *,
    rank: int = 1,
    sweeps: int = 200,
    tolerance: float = 1e-7,
    seed: int = 0,
    stalled: int = STALLED,
    race: int = RACE_SWEEPS,
    start: Tensor | None = None,
    support: Tensor | None = None,
) -> Fit:
    """The best of the family for each penalty, by alternating least squares over all its parts.

    At the middle penalty two starts race: tokens mixed with unchanged channels, and a seeded random
    mixing. From the one with the lower objective all penalties start, each until `stalled` sweeps
    on end gain less than `tolerance` of the energy of Z: one alone may lie on a plateau. On
    `moments.same_token()` the mixing stays diagonal, and a penalty means nothing.

    race: sweeps of the race; more find the lower of two minima more often.

    start (R, N, M): a mixing that all start from, without a race;
    support (N, M): the places that each token may be rebuilt from; all of them where None.
    """
    penalties = torch.as_tensor(penalties, dtype=torch.float64)
    problem = Problem(moments, support)
    if start is None:
        middle = penalties[[len(penalties) // 2]]
        racers = Descent(problem, middle.repeat(2), _starts(problem, middle, rank, seed), stalled)
        racers.run(min(race, sweeps), tolerance)
        start = racers.mixing[int(racers.objective.argmin())]
    best = Descent(problem, penalties, start.repeat(len(penalties), 1, 1, 1), stalled)
    best.run(sweeps, tolerance)
    return Fit(best.maps, best.mixing, best.objective, best.sweeps, best.converged)


def _starts(problem: "Problem", penalty: Tensor, rank: int, seed: int) -> Tensor:
    """Two mixings of one problem: (2, R, N, M)."""
    moments = problem.moments
    n, m = moments.tokens, moments.places
    drawn = np.random.default_rng(seed).standard_normal((1, rank, n, m))
    random = problem.allowed(torch.from_numpy(drawn).to(moments.place))
    d, e = moments.channels, moments.outputs
    unchanged = random.new_zeros((1, 2, d, e))
    unchanged[:, 1] = moments.unchanged
    same_channels = random.clone()  # pairs beyond the first must differ from it
    same_channels[:, :1] = problem.token_step(unchanged, penalty)
    return torch.cat([same_channels, random])


class Descent:
    """Problems on their way down: mixings, the best maps given them, and the objective there."""

    def __init__(self, problem: "Problem", penalties: Tensor, mixing: Tensor, stalled: int):
        self.problem, self.penalties, self.stalled = problem, penalties.to(mixing), stalled
        self.mixing = standardised(mixing)
        self.maps, self.objective = problem.channel_step(self.mixing, self.penalties)
        self.sweeps = np.zeros(len(penalties), dtype=int)
        self.idle = np.zeros(len(penalties), dtype=int)  # sweeps on end that gained nothing
        self._ahead = Extrapolation()

    @property
    def converged(self) -> np.ndarray:
        """Of each problem, (P,)."""
        return self.idle >= self.stalled

    def run(self, sweeps: int, tolerance: float) -> None:
        """Sweeps until each has stalled: enough of them on end that gain less than `tolerance`."""
        while self.sweeps.max() < sweeps and not self.converged.all():
            self._sweep(tolerance)

    def _sweep(self, tolerance: float) -> None:
        """All mixings given the maps, then all maps given the mixings.

        The new mixing is the one that the last sweeps point to, or, where that is worse than what
        was reached before, the plain one: no sweep goes up.
        """
        active = np.flatnonzero(~self.converged)
        plain = self._plain(active)
        mixing = standardised(self._ahead.step(self.mixing[active], plain))
        maps, reached = self.problem.channel_step(mixing, self.penalties[active])
        worse = (reached > self.objective[active]).nonzero()[:, 0].tolist()
        if worse:
            mixing[worse] = plain[worse]
            back = self.problem.channel_step(plain[worse], self.penalties[active[worse]])
            maps[worse], reached[worse] = back
            self._ahead.forget(worse)
        idle = (self.objective[active] - reached < tolerance).cpu().numpy()
        self.idle[active] = np.where(idle, self.idle[active] + 1, 0)
        running = ~self.converged[active]
        if not running.all():
            self._ahead.keep(torch.from_numpy(running))
        self.mixing[active], self.maps[active], self.objective[active] = mixing, maps, reached
        self.sweeps[active] += 1

    def _plain(self, active: np.ndarray) -> Tensor:
        return standardised(self.problem.token_step(self.maps[active], self.penalties[active]))


class Problem:
    """The two least squares over which a fit alternates."""

    def __init__(self, moments: Moments, support: Tensor | None = None):
        self.moments, self.support = moments, support

    def allowed(self, mixing: Tensor) -> Tensor:
        """The mixing where it may be other than zero."""
        if self.moments.diagonal:
            return mixing * torch.eye(*mixing.shape[-2:]).to(mixing)
        return mixing if self.support is None else mixing * self.support

    def channel_step(self, mixing: Tensor, penalties: Tensor) -> tuple[Tensor, Tensor]:
        """All W given M: (P, R+1, D, E), and the objective there (P,), as a share of the energy."""
        problems, rank, n, _ = mixing.shape
        gram, cross = self.moments.channel_equations(mixing)
        d, e = self.moments.channels, self.moments.outputs
        blocks = gram.reshape(problems, rank + 1, d, rank + 1, d)
        own = blocks[:, 0, :, 0].clone()
        off_diagonal = _off_diagonal(mixing).square().sum(dim=(2, 3))  # (P, R)
        for r in range(rank):
            # s_r depends on W_r, so the penalty on M_r is one on W_r too
            blocks[:, r + 1, :, r + 1] += (penalties * off_diagonal[:, r] / n)[:, None, None] * own
        maps = _solve(gram, cross, self.moments.jitter)
        objective = 1 - (maps * cross).sum(dim=(1, 2)) / (self.moments.energy or 1.0)
        return maps.reshape(problems, rank + 1, d, e), objective

    def token_step(self, maps: Tensor, penalties: Tensor) -> Tensor:
        """All M given W: (P, R, N, M).

        Row i of M has its own equations, for its entries (i, i) are not penalised:
        (S + L − E_i L E_iᵀ) m_i = t_i with S = ΣYYᵀ, L = λ diag(s), and E_i picking entry i of each
        pair. By Woodbury's identity one inverse of S + L serves all rows.
        """
        problems, rank = len(maps), maps.shape[1] - 1
        n, m = self.moments.tokens, self.moments.places
        gram, cross = self.moments.token_equations(maps)  # (P, RM, RM), (P, RM, N)
        variance = gram.diagonal(dim1=1, dim2=2).reshape(problems, rank, m)
        energy = variance[..., :n].mean(dim=2)
        energy = torch.where(energy > 0, energy, 1.0)  # (P, R): s
        ridge = penalties.to(maps)[:, None] * energy
        jitter = self.moments.jitter * energy
        gram.diagonal(dim1=1, dim2=2).add_((ridge + jitter).repeat_interleave(m, dim=1))
        if self.support is not None:
            return self._restricted(gram, cross, ridge)
        inverse = torch.linalg.inv(gram)
        rows = inverse @ cross  # (P, RM, N): column i is m_i, were (i, i) penalised as well

        own = inverse.reshape(problems, rank, m, rank, m).diagonal(dim1=2, dim2=4)[..., :n]
        own = own.moveaxis(-1, 1)  # (P, N, R, R): E_iᵀ (S + L)⁻¹ E_i
        first = rows.reshape(problems, rank, m, n).diagonal(dim1=2, dim2=3).mT  # (P, N, R)
        ridge = ridge[:, None, :, None]
        eye = torch.eye(rank).to(maps)
        pull = torch.linalg.solve(eye - ridge * own, ridge * first[..., None])[..., 0]
        columns = inverse.reshape(problems, rank * m, rank, m)[..., :n]
        rows = rows + torch.einsum("pkrn,pnr->pkn", columns, pull)
        return rows.reshape(problems, rank, m, n).mT

    def _restricted(self, gram: Tensor, cross: Tensor, ridge: Tensor) -> Tensor:
        """The same with equations of each row for the places that it may be rebuilt from."""
        problems, rank = ridge.shape
        n, m = self.support.shape
        rows = gram.new_empty((problems, rank, n, m))
        for i, places in enumerate(self.support):
            near = places.nonzero()[:, 0]
            kept = (torch.arange(rank).to(near)[:, None] * m + near).flatten()
            own = (near == i).repeat(rank)  # entries (i, i), which are not penalised
            equations = gram[:, kept[:, None], kept]
            penalty = ridge.repeat_interleave(len(near), dim=1) * own
            equations = equations - torch.diag_embed(penalty)
            answers = torch.linalg.solve(equations, cross[:, kept, i])
            rows[:, :, i] = 0
            rows[:, :, i, near] = answers.reshape(problems, rank, -1)
        return rows


def _off_diagonal(mixing: Tensor) -> Tensor:
    mixing = mixing.clone()
    mixing.diagonal(dim1=-2, dim2=-1).zero_()
    return mixing


def _solve(gram: Tensor, cross: Tensor, jitter: float) -> Tensor:
    """Symmetric equations with every unknown on its own scale, so that the jitter is fair."""
    variance = gram.diagonal(dim1=1, dim2=2)
    scale = 1 / torch.where(variance > 0, variance, 1.0).sqrt()[:, :, None]  # (P, K, 1)
    scaled = gram * scale * scale.mT
    scaled.diagonal(dim1=1, dim2=2).add_(jitter)
    return scale * torch.linalg.solve(scaled, scale * cross)


def standardised(mixing: Tensor) -> Tensor:
    """The same fit with M of trace zero and norm √N: W_0 and W_r hold what is taken out."""
    n, mixing = mixing.shape[-2], mixing.clone()
    diagonal = mixing.diagonal(dim1=-2, dim2=-1)
    diagonal -= diagonal.mean(dim=-1, keepdim=True)
    norm = torch.linalg.matrix_norm(mixing, keepdim=True)
    return mixing * n**0.5 / torch.where(norm > 0, norm, 1.0)


def fit_same_token(moments: Moments, scaled: bool, **settings: float | Tensor | None) -> Fit:
    """The best of the "self" family, or, not `scaled`, of Ẑ = X W_0: one map for all positions."""
    moments = moments.same_token()
    if scaled:
        return fit(moments, [0.0], **settings)
    shape = (1, int(settings.get("rank", 1)), moments.tokens, moments.places)
    mixing = torch.zeros(shape, dtype=torch.float64, device=moments.place)
    maps, objective = Problem(moments).channel_step(mixing, mixing.new_zeros(1))
    return Fit(maps, mixing, objective, np.zeros(1, dtype=int), np.ones(1, dtype=bool))


@dataclass(frozen=True)
class Choice:
    """What cross-validation chose: the kind of "self", and the penalty of "all".

    start (R, N, M): the mixing of a fit on all parts but one with this penalty; None if infinite.
    """

    scaled: bool
    penalty: float
    start: Tensor | None


def cross_validate(
    whole: Moments,
    parts: Sequence[Moments],
    penalties: Sequence[float],
    *,
    kinds: Sequence[bool] = (False, True),
    tolerance: float = 1e-7,
    **settings: int,
) -> Choice:
    """The kind of "self" and the penalty with the least error on parts left out in turn.

    The diagonal of M lets a second map serve a few positions only, which with fewer images than
    channels fits them by heart; hence `kinds`, without it and with it. The penalty is infinite,
    "all" the same as "self", unless a finite one has less error. Ties go to the smaller family.
    """
    settings = {**settings, "tolerance": RANKING * tolerance, "stalled": 1}
    same, diagonal = np.zeros(len(kinds)), whole.same_token()
    for part in parts:
        rest = diagonal - part.same_token()
        for index, scaled in enumerate(kinds):
            fitted = fit_same_token(rest, scaled, **settings)
            same[index] += part.squared_error(fitted.maps, fitted.mixing).item()
    errors = _held_out_together if whole.together else _held_out_in_turn
    everything, starts = errors(whole, parts, penalties, settings)
    tie = 1e-9 * whole.energy
    kind = int(np.argmax(same <= same.min() + tie))
    best = int(np.argmin(everything))
    if everything[best] < same[kind] - tie:
        return Choice(kinds[kind], float(penalties[best]), starts[best])
    return Choice(kinds[kind], np.inf, None)


def _held_out_together(
    whole: Moments, parts: Sequence[Moments], penalties: Sequence[float], settings: dict
) -> tuple[np.ndarray, Sequence[Tensor]]:
    """The error of each penalty on parts left out, all side by side, and a mixing of its."""
    errors = np.zeros(len(penalties))
    for part in parts:
        fitted = fit(whole - part, penalties, **settings)
        errors += part.squared_error(fitted.maps, fitted.mixing).cpu().numpy()
    return errors, fitted.mixing


def _held_out_in_turn(
    whole: Moments, parts: Sequence[Moments], penalties: Sequence[float], settings: dict
) -> tuple[np.ndarray, Sequence[Tensor]]:
    """The same from the largest penalty down, each fit starting from the one before.

    It ends where `PATIENCE` penalties on end are worse than the best; errors beyond are infinite.
    """
    errors, mixings = np.full(len(penalties), np.inf), [None] * len(penalties)
    starts: list[Tensor | None] = [None] * len(parts)
    worse = 0
    for index in np.argsort(penalties)[::-1]:
        best, errors[index] = errors.min(), 0.0
        for fold, part in enumerate(parts):
            fitted = fit(whole - part, [penalties[index]], start=starts[fold], **settings)
            starts[fold] = fitted.mixing[0]
            errors[index] += part.squared_error(fitted.maps, fitted.mixing).item()
        mixings[index] = starts[-1]
        worse = worse + 1 if errors[index] > best else 0
        if worse == PATIENCE:
            break
    return errors, mixings
