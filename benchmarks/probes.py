"""Linear probes of one tap: scikit-learn and the batched solver on the CPU, and the closed forms.

    python benchmarks/probes.py --classes 10 --rounds 2
    python benchmarks/probes.py --classes 1000 --rounds 1

Features are class centres of which few directions hold most, and noise. The largest number of fit
images takes minutes a fit: there each candidate runs once, in a process of its own. Writes
probes_{classes}.csv and, of all that has been measured, probes.md beside this file.
"""

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from paired import machine, markdown, ratios

from vitals.metrics import batched_logistic, closed_form_probes, logistic_probe
from vitals.metrics.closed_form_probes import ClassSums
from vitals.metrics.logistic_probe import Search
from vitals.metrics.nearest_neighbours import nearest_neighbours
from vitals.metrics.tap_probes import standardised
from vitals.progress import progress

HERE = Path(__file__).parent
CHANNELS, TEST = 384, 2000
FIT = {10: (2000, 5000, 10_000), 1000: (3000, 50_000)}
LARGE = 20_000  # fit images from which on each candidate runs once
GRID = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
SEARCHED = 2000  # fit images up to which the whole search is timed
BASELINE = "scikit-learn, one fit"
NEIGHBOURS, SPREAD = 20, 8
APART = {10: 0.15, 1000: 1.0}  # deviation of class centres over that of the noise


def features(images: int, classes: int) -> tuple[np.ndarray, ...]:
    """Standardised fit (image, channel) and test features, and the classes of each."""
    generator = np.random.default_rng(0)
    scale = np.exp(-np.arange(CHANNELS) / CHANNELS * SPREAD)
    scale *= APART[classes] * np.sqrt(CHANNELS / np.square(scale).sum())
    centres = scale * generator.standard_normal((classes, CHANNELS))
    codes, asked = np.arange(images) % classes, np.arange(TEST) % classes
    fit, test = (centres[c] + generator.standard_normal((c.size, CHANNELS)) for c in (codes, asked))
    return *standardised(fit, test), codes, asked


def candidates(images: int, classes: int) -> dict[str, Callable[[], np.ndarray]]:
    """What is compared, by name; each gives the classes that the test images are taken for."""
    fit, test, codes, asked = features(images, classes)
    sums = ClassSums.of(fit, codes)

    def scikit_learn(search: Search) -> np.ndarray:
        return logistic_probe.probe(fit, codes, search).predict(test, asked)[0]

    def batched(search: Search) -> np.ndarray:
        probe = batched_logistic.probes([fit], codes, search, torch.device("cpu"))[0]
        return probe.predict(test, asked)[0]

    def closed(probe: Callable) -> np.ndarray:
        return probe(sums, fit, codes, test, GRID).predicted

    one, grid = (Search(penalties, 5, 0, 1000) for penalties in ((0.1,), GRID))
    solvers = {"scikit-learn": scikit_learn, "batched": batched}
    found = {f"{name}, one fit": partial(run, one) for name, run in solvers.items()}
    if images <= SEARCHED:
        found |= {f"{name}, six C": partial(run, grid) for name, run in solvers.items()}
    return found | {
        "ridge, six C": partial(closed, closed_form_probes.ridge),
        "linear discriminant, six C": partial(closed, closed_form_probes.discriminant),
        "neighbours": partial(nearest_neighbours, fit, codes, test, NEIGHBOURS),
    }


def measured(images: int, classes: int, rounds: int) -> pd.DataFrame:
    """Times, test accuracy, and what each candidate takes of memory in a process of its own."""
    runs = candidates(images, classes)
    asked = np.arange(TEST) % classes
    found = {}
    kept = {name: lambda n=name, run=run: found.update({n: run()}) for name, run in runs.items()}
    table = ratios(kept, BASELINE, rounds)
    table["accuracy"] = [np.mean(predicted == asked) for predicted in found.values()]
    if images == max(count for count in FIT[classes] if count < LARGE):
        table["MB"] = [alone(name, images, classes)["MB"] for name in runs]
    table.insert(0, "fit images", images)
    return table


def measured_once(images: int, classes: int) -> pd.DataFrame:
    """The same of one run each, whose ratios have no quartiles."""
    names = list(candidates(SEARCHED + 1, classes))  # those that are timed beyond it
    rows = [alone(name, images, classes) for name in progress(names, "candidates")]
    table = pd.DataFrame(rows, index=pd.Index(names, name="candidate"))
    table.insert(1, "ratio", table["seconds"] / table["seconds"][BASELINE])
    table.insert(0, "fit images", images)
    return table


def alone(name: str, images: int, classes: int) -> dict[str, float]:
    """A candidate in a process of its own: seconds, accuracy, and the memory that it took, MB."""
    command = [sys.executable, __file__, "--one", name, str(images), "--classes", str(classes)]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(said)


def resident(field: str) -> float:
    """Memory of this process in MB: "VmRSS" now, or "VmHWM" at its most (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def report() -> None:
    """Write probes.md from the tables that are there."""
    parts = []
    for classes in FIT:
        path = HERE / f"probes_{classes}.csv"
        if path.is_file():
            parts.append(f"{classes} classes:\n\n{markdown(pd.read_csv(path, index_col=0), 4)}")
    (HERE / "probes.md").write_text(f"""# What probes of one tap cost

{CHANNELS} channels, one thread. `ratio`: of the time to that of scikit-learn's fit at C = 0.1, in
the runs before and after: median and quartiles; of {LARGE} fit images and more each ran once, in a
process of its own. "Six C": with the choice of C by five folds (or exact leave-one-out), then the
fit. `accuracy`: of {TEST} test images. `MB`: the most memory that it took, beside that of the
features. The batched solver is for an accelerator; here it runs on the CPU.

{chr(10).join(parts)}
{machine("torch", "scikit-learn", "numpy")}.

Repeat: `python benchmarks/probes.py --classes 10 --rounds 2`, and `--classes 1000 --rounds 1`.
""")


def main() -> None:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, choices=FIT, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if options.one:
        name, images = options.one
        run = candidates(int(images), options.classes)[name]
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
        before, start = resident("VmRSS"), time.perf_counter()
        predicted = run()
        found = {"seconds": time.perf_counter() - start}
        found["accuracy"] = float(np.mean(predicted == np.arange(TEST) % options.classes))
        print(json.dumps({**found, "MB": resident("VmHWM") - before}))
        return
    tables = [
        measured_once(images, options.classes)
        if images >= LARGE
        else measured(images, options.classes, options.rounds)
        for images in FIT[options.classes]
    ]
    pd.concat(tables).to_csv(HERE / f"probes_{options.classes}.csv")
    report()


if __name__ == "__main__":
    main()
