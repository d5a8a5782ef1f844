"""All taps through all probes: by scikit-learn, spread over threads, or in batches on a device."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
from joblib import Parallel, delayed
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from vitals.errors import unknown
from vitals.metrics import batched_logistic, logistic_probe, workers
from vitals.metrics.accelerator import float64_device
from vitals.metrics.class_split import ClassSplit
from vitals.metrics.logistic_probe import LogisticProbe
from vitals.metrics.tap_probes import Features, ProbeSettings, Tap, TapProbes, all_probes
from vitals.progress import progress

AUTO, SCIKIT_LEARN, BATCHED = SOLVERS = ("auto", "scikit-learn", "batched")
Item = TypeVar("Item")
Found = TypeVar("Found")


def chosen_solver(solver: str) -> str:
    """The solver that a name stands for: "auto" is "batched" where there is an accelerator.

    Raises VitalsError for a name that is none.
    """
    if solver not in SOLVERS:
        raise unknown("solver", solver, SOLVERS)
    if solver == AUTO:
        return SCIKIT_LEARN if float64_device().type == "cpu" else BATCHED
    return solver


def probed(
    taps: Sequence[Tap], images: ClassSplit, settings: ProbeSettings, solver: str, jobs: int
) -> list[TapProbes]:
    """The probes of each tap in order; a tap is read when its turn comes.

    solver: "scikit-learn" or "batched"; jobs: threads, each with a tap of its own.
    """
    run = _by_scikit_learn if solver == SCIKIT_LEARN else _in_batches
    found = progress(run(taps, images, settings, jobs), "probes", len(taps))
    with warnings.catch_warnings():
        # the gradient at the end says it, by either solver
        warnings.simplefilter("ignore", ConvergenceWarning)
        return list(found)


def _by_scikit_learn(
    taps: Sequence[Tap], images: ClassSplit, settings: ProbeSettings, jobs: int
) -> Iterator[TapProbes]:
    look = partial(_of_tap, images, settings)
    # a tap is a task: threads are those of one worker
    if workers.are_named():
        return workers.each(look, taps)
    return _side_by_side(look, taps, jobs)


def _of_tap(images: ClassSplit, settings: ProbeSettings, tap: Tap) -> TapProbes:
    features, logistic = tap.read(), None
    if features.vary:
        logistic = logistic_probe.probe(features.fit, images.fit_codes, settings.search)
    return all_probes(features, logistic, images, settings)


def _in_batches(
    taps: Sequence[Tap], images: ClassSplit, settings: ProbeSettings, jobs: int
) -> Iterator[TapProbes]:
    def rest(pair: tuple[Features, LogisticProbe | None]) -> TapProbes:
        return all_probes(*pair, images, settings)

    for batch in _batches(taps, images, settings):
        features = list(_side_by_side(Tap.read, batch, jobs))
        fits = [found.fit for found in features if found.vary]
        fitted = iter(_fitted(fits, images, settings) if fits else ())
        pairs = [(found, next(fitted) if found.vary else None) for found in features]
        yield from _side_by_side(rest, pairs, jobs)


def _fitted(
    fits: Sequence[np.ndarray], images: ClassSplit, settings: ProbeSettings
) -> list[LogisticProbe]:
    return batched_logistic.probes(fits, images.fit_codes, settings.search, float64_device())


def _batches(
    taps: Sequence[Tap], images: ClassSplit, settings: ProbeSettings
) -> Iterator[list[Tap]]:
    """Taps that follow each other, of as many channels, and few enough for the device."""
    fits, classes = images.fit.size, images.names.size
    batch: list[Tap] = []
    for tap in taps:
        most = batched_logistic.taps_at_once(fits, tap.channels, classes, settings.search)
        if batch and (tap.channels != batch[0].channels or len(batch) == most):
            yield batch
            batch = []
        batch.append(tap)
    yield batch


def _side_by_side(
    work: Callable[[Item], Found], items: Iterable[Item], jobs: int
) -> Iterator[Found]:
    """Work on so many items at once, each on one thread: then no count of threads matters."""
    with threadpool_limits(1, user_api="blas"):
        yield from Parallel(jobs, backend="threading", return_as="generator", pre_dispatch=jobs)(
            delayed(work)(item) for item in items
        )
