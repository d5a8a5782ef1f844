"""What scrambling costs at real size: one tap, by passes over the images and by moments in memory.

    python benchmarks/scrambling.py --tokens 196 --channels 384 --fit 500 --test 500

Correlated tokens (AR 0.9) plus noise 0.7 as the tap, in float16 as a store holds them, on one
thread. Writes scrambling.csv and scrambling.md beside this file, and with --before the time of
another checkout's library on the same tap.
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
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--before", type=Path, help="workflow/ of another checkout")
    parser.add_argument("--one", choices=("passes", "moments"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = [options.tokens, options.channels, options.fit, options.test]
    torch.set_num_threads(1)
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
    _write(table)


def _in_process(command: list[str], path: Path | None) -> list[dict]:
    start = "import sys, runpy; sys.argv = sys.argv[1:]; sys.path.insert(0, {!r}); {}"
    first = f"sys.path.insert(0, {str(path)!r}); " if path else ""
    code = start.format(str(HERE), first + "runpy.run_path(sys.argv[0], run_name='__main__')")
    run = subprocess.run([sys.executable, "-c", code, *command], check=True, capture_output=True)
    return json.loads(run.stdout.splitlines()[-1])


def _write(table: pd.DataFrame) -> None:
    """Add to what other sizes gave."""
    path = HERE / "scrambling.csv"
    if path.is_file():
        known = pd.read_csv(path, index_col="library")
        table = pd.concat([known[~known["size"].isin(table["size"])], table])
    table.to_csv(path)
    (HERE / "scrambling.md").write_text(
        "# What scrambling costs\n\n"
        "One tap (tokens x channels, fit + test images) of correlated tokens plus noise, float16, "
        "on one thread. `seconds` of the processor\nfor the tap alone; `sums`: passes over the "
        "images, or moments in memory.\n\n"
        f"{markdown(table)}\n{machine('torch', 'numpy', 'xarray')}.\n\n"
        "Repeat: `python benchmarks/scrambling.py --tokens 25 --channels 64 --fit 150 --test 150 "
        "--before OTHER/workflow`,\nand with `--tokens 196 --channels 384 --fit 500 --test 500`.\n"
    )


if __name__ == "__main__":
    main()
