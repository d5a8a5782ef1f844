"""What geometry costs over stored layers, and whether its memory grows with the images.

    OMP_NUM_THREADS=1 python -W ignore benchmarks/geometry.py

Each number of images is one process, which reads two layers of ViT-S's tokens, float16 in chunks,
and their pooled features. Writes geometry.csv and geometry.md beside this file.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr
from paired import machine, markdown

from vitals.metrics import geometry

HERE = Path(__file__).parent
COUNTS = (100, 400)
LAYERS, PATCHES, CHANNELS, CHUNK = ["block.0", "block.1"], 196, 384, 32
PARTS = ("all", "without pooled features")


def write(count: int, path: Path) -> None:
    """Tokens whose channels weigh as 1/k, and their mean over patches, a block at a time."""
    generator = np.random.default_rng(0)
    scale = 1 / np.sqrt(np.arange(1, CHANNELS + 1), dtype=np.float32)
    for start in range(0, count, CHUNK):
        shape = (len(LAYERS), min(CHUNK, count - start), PATCHES, CHANNELS)
        tokens = generator.standard_normal(shape, dtype=np.float32) * scale
        block = xr.Dataset(
            {
                "tokens": (("layer", "image", "token", "channel"), tokens.astype(np.float16)),
                "pooled": (
                    ("layer", "image", "feature", "channel"),
                    tokens.mean(axis=2)[:, :, None],
                ),
            }
        )
        if start:
            block.to_zarr(path, append_dim="image", zarr_format=3, consolidated=False)
        else:
            chunks = {name: {"chunks": (1, CHUNK, *block[name].shape[2:])} for name in block}
            block.to_zarr(path, encoding=chunks, zarr_format=3, consolidated=False)


def one(path: Path, part: str) -> None:
    """Measure; print the processor's seconds, and the megabytes before and at most."""
    torch.set_num_threads(1)
    stored = xr.open_zarr(path, consolidated=False).assign_coords(layer=LAYERS)
    tokens = stored[["tokens"]].assign_coords(token_kind=("token", ["patch"] * PATCHES))
    pooled = stored[["pooled"]].assign_coords(feature=["patch_mean"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.process_time()
    geometry.compute(tokens, pooled=pooled if part == "all" else None)
    seconds = time.process_time() - start
    print(seconds, before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Run each count in a process of its own, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.path:
        one(options.path, options.part)
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count in COUNTS:
            path = Path(folder, f"{count}.zarr")
            write(count, path)
            for part in PARTS:
                command = [sys.executable, *sys.argv, "--path", str(path), "--part", part]
                said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                seconds, before, most = map(float, said.split())
                row = {"images": count, "part": part, "s a layer": seconds / len(LAYERS)}
                rows.append(row | {"MB before": before, "MB at most": most})
    table = pd.DataFrame(rows).set_index("images")
    table.to_csv(HERE / "geometry.csv")
    page = (
        "# What geometry costs\n\n"
        f"{len(LAYERS)} layers of {PATCHES} patches and {CHANNELS} channels in float16, chunks of "
        f"{CHUNK} images, with and without\nthe pooled features of the same images (intrinsic "
        "dimension, alignment of taps). Seconds of one core's own\ntime; peak resident memory.\n\n"
        f"{markdown(table)}\n{machine('torch', 'numpy', 'xarray', 'zarr')}.\n\n"
        "Repeat: `OMP_NUM_THREADS=1 python -W ignore benchmarks/geometry.py`.\n"
    )
    (HERE / "geometry.md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
