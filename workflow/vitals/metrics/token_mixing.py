"""How well can tokens be rebuilt linearly from a token itself, and from all tokens?

One family for both, Ẑ = X W_0 + Σ_r M_r X W_r, with channel maps W (channel, channel) shared by the
tokens and token mixings M (token, token) shared by the channels. "Self" has diagonal M, "all" has
full M; a ridge penalty on what lies off the diagonal leads from one to the other:

    ‖Z − Ẑ‖² + λ Σ_r s_r ‖off-diagonal of M_r‖²,   s_r = mean over tokens of Σ‖x W_r‖²

s_r makes the penalty blind to how scale is shared between M and W. The fit alternates two exact
least squares: all W given M, then all M given W.

>>> from vitals.metrics.token_moments import SecondMoments
>>> class Pairs:
...     tokens, channels = 3, 2
...     def blocks(self, images):
...         x = np.random.default_rng(0).standard_normal((40, 3, 2))
...         yield x, x[:, [1, 2, 0]]  # each token is its neighbour
>>> moments = SecondMoments.of(Pairs(), np.arange(40))
>>> result = fit(moments, [0.0])
>>> abs(held_out_error(moments, result)[0] / moments.energy).round(6).item()
0.0
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np

from vitals.metrics.token_moments import Moments

# Exactly collinear regressors (X and M X at the tap that is fitted to itself) are told apart by a
# ridge this far below the equations' own scale.
JITTER = 1e-10
RACE_SWEEPS = 1


@dataclass(frozen=True)
class Fit:
    """P fitted problems, one for each penalty."""

    maps: np.ndarray  # (P, R+1, D, D)
    mixing: np.ndarray  # (P, R, N, N)
    objective: np.ndarray  # (P,), as a share of the energy of Z
    sweeps: np.ndarray  # (P,)
    converged: np.ndarray  # (P,)

    def predict(self, x: np.ndarray, problem: int = 0) -> np.ndarray:
        """Ẑ of centred tokens x (image, token, channel)."""
        own, *mixed = self.maps[problem]
        context = (m @ (x @ w) for m, w in zip(self.mixing[problem], mixed, strict=True))
        return sum(context, start=x @ own)


def fit(
    moments: Moments,
    penalties: Sequence[float],
    *,
    rank: int = 1,
    sweeps: int = 200,
    tolerance: float = 1e-7,
    seed: int = 0,
) -> Fit:
    """The best of the family for each penalty, by alternating least squares over all its parts.

    Two starts race for a few sweeps: tokens mixed with unchanged channels, and a seeded random
    mixing; the one with the lower objective goes on until a sweep gains less than `tolerance` of
    the energy of Z. On `moments.same_token()` the mixing stays diagonal, and a penalty means
    nothing.
    """
    penalties = np.asarray(penalties, dtype=np.float64)
    problems = penalties.size
    race = _Descent(moments, np.tile(penalties, 2), _starts(moments, penalties, rank, seed))
    for _ in range(min(RACE_SWEEPS, sweeps)):
        race.sweep(np.arange(2 * problems), tolerance)
    winner = race.objective.reshape(2, problems).argmin(axis=0)
    best = race.only(winner * problems + np.arange(problems))
    while best.sweeps.max() < sweeps and not best.converged.all():
        best.sweep(np.flatnonzero(~best.converged), tolerance)
    return Fit(best.maps, best.mixing, best.objective, best.sweeps, best.converged)


def _starts(moments: Moments, penalties: np.ndarray, rank: int, seed: int) -> np.ndarray:
    """Two mixings of each problem, one after the other: (2·P, R, N, N)."""
    n, d = moments.tokens, moments.channels
    random = np.random.default_rng(seed).standard_normal((rank, n, n))
    random = np.tile(random * np.eye(n) if moments.diagonal else random, (penalties.size, 1, 1, 1))
    unchanged = np.zeros((penalties.size, 2, d, d))
    unchanged[:, 1] = np.eye(d)
    same_channels = random.copy()  # pairs beyond the first must differ from it
    same_channels[:, :1] = _token_step(moments, unchanged, penalties)
    return np.concatenate([same_channels, random])


class _Descent:
    """Problems on their way down: mixings, the best maps given them, and the objective there."""

    def __init__(self, moments: Moments, penalties: np.ndarray, mixing: np.ndarray):
        self.moments, self.penalties = moments, penalties
        self.mixing = _standardised(mixing)
        self.maps, self.objective = _channel_step(moments, self.mixing, penalties)
        self.sweeps = np.zeros(penalties.size, dtype=int)
        self.converged = np.zeros(penalties.size, dtype=bool)

    def sweep(self, active: np.ndarray, tolerance: float) -> None:
        """All mixings given the maps, then all maps given the mixings."""
        penalties = self.penalties[active]
        mixing = _standardised(_token_step(self.moments, self.maps[active], penalties))
        maps, reached = _channel_step(self.moments, mixing, penalties)
        self.converged[active] = self.objective[active] - reached < tolerance
        self.mixing[active], self.maps[active], self.objective[active] = mixing, maps, reached
        self.sweeps[active] += 1

    def only(self, problems: np.ndarray) -> "_Descent":
        """These problems, as far as they have come."""
        chosen = copy(self)
        for name in ("penalties", "mixing", "maps", "objective", "sweeps", "converged"):
            setattr(chosen, name, getattr(self, name)[problems])
        return chosen


def _channel_step(
    moments: Moments, mixing: np.ndarray, penalties: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """All W given M: (P, R+1, D, D), and the objective there (P,), as a share of the energy."""
    problems, rank = mixing.shape[:2]
    d, n = moments.channels, moments.tokens
    gram, cross = moments.channel_equations(mixing)
    blocks = gram.reshape(problems, rank + 1, d, rank + 1, d)
    own = blocks[:, 0, :, 0].copy()
    off_diagonal = np.square(mixing * (1 - np.eye(n))).sum(axis=(2, 3))  # (P, R)
    for r in range(rank):
        # s_r depends on W_r, so the penalty on M_r is one on W_r too
        blocks[:, r + 1, :, r + 1] += (penalties * off_diagonal[:, r] / n)[:, None, None] * own
    maps = _solve(gram, cross)
    objective = 1 - (maps * cross).sum(axis=(1, 2)) / (moments.energy or 1.0)
    return maps.reshape(problems, rank + 1, d, d), objective


def _solve(gram: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """Symmetric equations with every unknown on its own scale, so that the jitter is fair."""
    variance = np.diagonal(gram, axis1=1, axis2=2)
    scale = 1 / np.sqrt(np.where(variance > 0, variance, 1.0))[:, :, None]  # (P, K, 1)
    scaled = gram * scale * scale.swapaxes(1, 2)
    diagonal = np.arange(gram.shape[1])
    scaled[:, diagonal, diagonal] += JITTER
    return scale * np.linalg.solve(scaled, scale * cross)


def _token_step(moments: Moments, maps: np.ndarray, penalties: np.ndarray) -> np.ndarray:
    """All M given W: (P, R, N, N).

    Row i of M has its own equations, for its entries (i, i) are not penalised: (S + L − E_i L E_iᵀ)
    m_i = t_i with S = ΣYYᵀ, L = λ diag(s), and E_i picking entry i of each pair. By Woodbury's
    identity one inverse of S + L serves all rows.
    """
    problems, rank, n = len(maps), maps.shape[1] - 1, moments.tokens
    gram, cross = moments.token_equations(maps)  # (P, RN, RN), (P, RN, N)
    energy = np.diagonal(gram, axis1=1, axis2=2).reshape(problems, rank, n).mean(axis=2)
    energy = np.where(energy > 0, energy, 1.0)  # (P, R): s
    ridge = penalties[:, None] * energy
    diagonal = np.arange(rank * n)
    gram[:, diagonal, diagonal] += np.repeat(ridge + JITTER * energy, n, axis=1)
    inverse = np.linalg.inv(gram)
    rows = inverse @ cross  # (P, RN, N): column i is m_i, were (i, i) penalised as well

    own = inverse.reshape(problems, rank, n, rank, n).diagonal(axis1=2, axis2=4)  # (P, R, R, N)
    own = np.moveaxis(own, -1, 1)  # (P, N, R, R): E_iᵀ (S + L)⁻¹ E_i
    first = (
        rows.reshape(problems, rank, n, n).diagonal(axis1=2, axis2=3).swapaxes(1, 2)
    )  # (P, N, R)
    ridge = ridge[:, None, :, None]
    pull = np.linalg.solve(np.eye(rank) - ridge * own, ridge * first[..., None])[..., 0]
    columns = inverse.reshape(problems, rank * n, rank, n)
    rows += np.einsum("pkrn,pnr->pkn", columns, pull)
    return rows.reshape(problems, rank, n, n).swapaxes(2, 3)


def _standardised(mixing: np.ndarray) -> np.ndarray:
    """The same fit with M of trace zero and norm √N: W_0 and W_r hold what is taken out."""
    n = mixing.shape[-1]
    trace = np.trace(mixing, axis1=-2, axis2=-1)[..., None, None]
    mixing = mixing - trace / n * np.eye(n)
    norm = np.linalg.norm(mixing, axis=(-2, -1), keepdims=True)
    return mixing * np.sqrt(n) / np.where(norm > 0, norm, 1.0)


def held_out_error(moments: Moments, fitted: Fit) -> np.ndarray:
    """Σ‖Z − Ẑ‖² of each problem over the images of `moments`: (P,)."""
    gram, cross = moments.channel_equations(fitted.mixing)
    maps = fitted.maps.reshape(*cross.shape)
    return moments.energy + (maps * (gram @ maps - 2 * cross)).sum(axis=(1, 2))


def fit_same_token(moments: Moments, scaled: bool, **settings: float) -> Fit:
    """The best of the "self" family, or, not `scaled`, of Ẑ = X W_0: one map for all positions."""
    moments = moments.same_token()
    if scaled:
        return fit(moments, [0.0], **settings)
    n = moments.tokens
    mixing = np.zeros((1, int(settings.get("rank", 1)), n, n))
    maps, objective = _channel_step(moments, mixing, np.zeros(1))
    return Fit(maps, mixing, objective, np.zeros(1, dtype=int), np.ones(1, dtype=bool))


@dataclass(frozen=True)
class Choice:
    """What cross-validation chose: the kind of "self", and the penalty of "all"."""

    scaled: bool
    penalty: float


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
    settings = {**settings, "tolerance": 10 * tolerance}  # enough to rank
    same, everything = np.zeros(len(kinds)), np.zeros(len(penalties))
    for part in parts:
        rest = whole - part
        for index, scaled in enumerate(kinds):
            fitted = fit_same_token(rest, scaled, **settings)
            same[index] += held_out_error(part.same_token(), fitted)[0]
        everything += held_out_error(part, fit(rest, penalties, **settings))
    tie = 1e-9 * whole.energy
    kind = int(np.argmax(same <= same.min() + tie))
    best = int(np.argmin(everything))
    penalty = penalties[best] if everything[best] < same[kind] - tie else np.inf
    return Choice(kinds[kind], float(penalty))
