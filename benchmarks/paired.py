"""Ratios of times from paired runs.

The speed of a shared machine drifts by half within minutes. So every round runs all candidates
once, in random order, with the baseline before and after each, and each is compared with the mean
of the two.
"""

import platform
import random
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from vitals.progress import progress


def ratios(
    candidates: Mapping[str, Callable[[], None]],
    baseline: str,
    rounds: int,
    forget: Callable[[], None] = lambda: None,
    seed: int = 0,
) -> pd.DataFrame:
    """Seconds of each candidate, and its ratio to the baseline: median and quartiles over rounds.

    cpu_ratio: the median ratio of the seconds that all threads of this process computed, which
    leaves out waiting, for the disk or for a core that others use. Each candidate runs once before
    the rounds, so that nothing is measured cold; `forget` runs after each, unmeasured.
    """

    def timed(name: str) -> np.ndarray:
        took = _seconds(candidates[name])
        forget()
        return took

    order = random.Random(seed)
    for name in candidates:
        timed(name)
    others = [name for name in candidates if name != baseline]
    rows = []
    for _ in progress(range(rounds), "rounds"):
        order.shuffle(others)
        before = timed(baseline)
        for name in others:
            found, after = timed(name), timed(baseline)
            rows.append([name, found[0], *found / (before + after) * 2])
            rows.append([baseline, after[0], 1.0, 1.0])
            before = after
    table = pd.DataFrame(rows, columns=["candidate", "seconds", "ratio", "cpu_ratio"])
    of_each = table.groupby("candidate")
    low, middle, high = (of_each["ratio"].quantile(share) for share in (0.25, 0.5, 0.75))
    return pd.DataFrame(
        {
            "seconds": of_each["seconds"].median(),
            "ratio": middle,
            "ratio_low": low,
            "ratio_high": high,
            "cpu_ratio": of_each["cpu_ratio"].median(),
        }
    ).loc[list(candidates)]


def _seconds(run: Callable[[], None]) -> np.ndarray:
    """What a run takes by the clock, and what it computes in that time."""
    start, cpu = time.perf_counter(), time.process_time()
    run()
    return np.array([time.perf_counter() - start, time.process_time() - cpu])


def machine(*packages: str) -> str:
    """One line that says where and with what a benchmark ran."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":")[1].strip() if lines else model
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return f"{model}, {platform.system()}, Python {platform.python_version()}, {versions}"


def markdown(table: pd.DataFrame, digits: int = 3) -> str:
    """A table as Markdown, its numbers rounded."""
    shown = table.reset_index().map(lambda v: f"{v:.{digits}g}" if isinstance(v, float) else str(v))
    rows = [list(map(str, shown.columns)), ["---"] * shown.shape[1], *shown.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"
