"""What scrambling costs: a tap of real size, by passes or by moments in memory, and a study.

    python benchmarks/scrambling.py --tokens 196 --channels 384 --fit 500 --test 500
    python benchmarks/scrambling.py --study artifacts/digits

Correlated tokens (AR 0.9) plus noise 0.7 as the tap, in float16 as a store holds them, on one
thread; with --before the time of another checkout's library on the same tap. Of a study that has
run: all taps of each model, with the study's own settings. Writes scrambling.csv,
scrambling_study.csv and scrambling.md beside this file.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr
from paired import machine, markdown

HERE = Path(__file__).parent
CORRELATION, NOISE = 0.9, 0.7
NULLS = {"measurement": ("none",), "with its noise null": ("none", "noise_matched")}


def tap(tokens: int, channels: int, fit: int, test: int) -> xr.Dataset:
    """Tap "embed" and one block that is the embedding plus noise."""
    generator = np.random.default_rng(0)
    shape = (fit + test, tokens, channels)
    embed = generator.standard_normal(shape, dtype=np.float32)
    for token in range(1, tokens):
        fresh = np.sqrt(1 - CORRELATION**2) * embed[:, token]
        embed[:, token] = CORRELATION * embed[:, token - 1] + fresh
    noisy = embed + NOISE * generator.standard_normal(shape, dtype=np.float32)
    stored = np.stack([embed, noisy]).astype(np.float16)
    return xr.Dataset(
        {"tokens": (("layer", "image", "token", "channel"), stored)},
        coords={
            "layer": ["embed", "block.0"],
            "token_kind": ("token", ["patch"] * tokens),
            "split": ("image", ["fit"] * fit + ["test"] * test),
        },
    )


def measure(size: list[int], passes: bool) -> list[dict]:
    """Processor seconds of tap "block.0", without tap "embed", and what came out."""
    from vitals.metrics import scrambling

    if passes:
        _take_passes()
    dataset = tap(*size)
    rows = []
    for name, nulls in NULLS.items():
        seconds = []
        for layers in ([0], [0, 1]):
            start = time.process_time()
            result = scrambling.compute(dataset.isel(layer=layers), nulls=nulls)
            seconds.append(time.process_time() - start)
        last = result.isel(layer=1).sel(null="none")
        shares = {share: float(last[share]) for share in ("r2_self", "r2_all")}
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        rows.append({"run": name, "seconds": seconds[1] - seconds[0], **shares, "peak GiB": memory})
    return rows


def measure_study(folder: Path) -> pd.DataFrame:
    """Processor seconds of each model of a study, computed again from its stored tokens."""
    import vitals
    from vitals import origin
    from vitals.metrics import scrambling

    rows = []
    for result in sorted(folder.glob("*/metrics/scrambling.nc")):
        tokens = vitals.open_tokens(result.parents[1])
        start = time.process_time()
        scrambling.compute(tokens, **json.loads(origin.read(result).spec))
        seconds = time.process_time() - start
        model = result.parents[1].name
        rows.append({"model": model, "taps": tokens.sizes["layer"], "seconds": seconds})
    table = pd.DataFrame(rows).set_index("model")
    table.loc["all"] = table.sum()
    return table.astype({"taps": int})


def _take_passes() -> None:
    """No moments in memory, wherever the library keeps the limit."""
    for name in ("vitals.metrics.tap_recovery", "vitals.metrics.scrambling"):
        try:
            module = __import__(name, fromlist=["MOMENT_BYTES"])
        except ModuleNotFoundError:
            continue
        if hasattr(module, "MOMENT_BYTES"):
            module.MOMENT_BYTES = 0


def main() -> None:
    """Each run in a process of its own, for its memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("tokens", "channels", "fit", "test"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--study", type=Path, help="artifacts/{study}, run to its end")
    parser.add_argument("--before", type=Path, help="workflow/ of another checkout")
    parser.add_argument("--one", choices=("passes", "moments"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.study:
        measure_study(options.study).to_csv(HERE / "scrambling_study.csv")
        _write()
        return
    size = [options.tokens, options.channels, options.fit, options.test]
    if None in size:
        parser.error("give --tokens, --channels, --fit and --test, or --study")
    if options.one:
        print(json.dumps(measure(size, options.one == "passes")))
        return

    rows = []
    libraries = {"now": None, "before": options.before}
    for library, path in libraries.items():
        for how in ("passes", "moments"):
            too_large = how == "moments" and options.tokens * options.channels > 2000
            if too_large or (library == "before" and path is None):
                continue
            for row in _in_process([*sys.argv, "--one", how], path):
                rows.append({"library": library, "sums": how, **row})
    table = pd.DataFrame(rows).set_index("library")
    table.insert(0, "size", " x ".join(map(str, size[:2])) + f", {size[2]} + {size[3]}")
    _add(table)
    _write()


def _in_process(command: list[str], path: Path | None) -> list[dict]:
    start = "import sys, runpy; sys.argv = sys.argv[1:]; sys.path.insert(0, {!r}); {}"
    first = f"sys.path.insert(0, {str(path)!r}); " if path else ""
    code = start.format(str(HERE), first + "runpy.run_path(sys.argv[0], run_name='__main__')")
    run = subprocess.run([sys.executable, "-c", code, *command], check=True, capture_output=True)
    return json.loads(run.stdout.splitlines()[-1])


def _add(table: pd.DataFrame) -> None:
    """To what other sizes gave."""
    path = HERE / "scrambling.csv"
    if path.is_file():
        known = pd.read_csv(path, index_col="library")
        table = pd.concat([known[~known["size"].isin(table["size"])], table])
    table.to_csv(path)


def _write() -> None:
    """The page, from the tables that are there."""
    taps = pd.read_csv(HERE / "scrambling.csv", index_col="library")
    study = pd.read_csv(HERE / "scrambling_study.csv", index_col="model")
    (HERE / "scrambling.md").write_text(
        "# What scrambling costs\n\n"
        "One tap (tokens x channels, fit + test images) of correlated tokens plus noise, float16, "
        "on one thread. `seconds` of the processor\nfor the tap alone; `sums`: passes over the "
        "images, or moments in memory.\n\n"
        f"{markdown(taps)}\n"
        "All taps of the default study, with its noise null and intervals, on one thread. "
        "`seconds` of the processor.\n\n"
        f"{markdown(study)}\n{machine('torch', 'numpy', 'xarray')}.\n\n"
        "Repeat: `python benchmarks/scrambling.py --tokens 25 --channels 64 --fit 150 --test 150`, "
        "with `--tokens 196 --channels 384 --fit 500\n--test 500`, and with "
        "`--study artifacts/digits`.\n"
    )


if __name__ == "__main__":
    main()
