"""What neural collapse costs at 1000 classes, and whether its memory grows with the images.

    OMP_NUM_THREADS=1 python -W ignore benchmarks/collapse.py

Each number of images is one process, which reads one tap of two features from a chunked store.
Writes collapse.csv and collapse.md beside this file.
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
import xarray as xr
from paired import machine, markdown

from vitals.metrics import collapse

HERE = Path(__file__).parent
COUNTS = (10_000, 50_000)
CLASSES, CHANNELS, CHUNK = 1000, 384, 512
RESAMPLES = {"bootstrap_samples": 200, "pinv_samples": 40}  # a fifth of the default


def write(count: int, path: Path) -> None:
    """One tap of random classes with noise, a block of images at a time."""
    generator = np.random.default_rng(0)
    means = generator.standard_normal((CLASSES, CHANNELS))
    label = np.arange(count) % CLASSES
    split = np.where(np.arange(count) // CLASSES % 2, "test", "fit")
    for start in range(0, count, CHUNK):
        some = label[start : start + CHUNK]
        features = means[some][:, None] + 2 * generator.standard_normal((some.size, 2, CHANNELS))
        block = xr.Dataset(
            {
                "pooled": (
                    ("layer", "image", "feature", "channel"),
                    features[None].astype(np.float16),
                ),
                "logits": (("image", "class"), (features[:, 0] @ means.T).astype(np.float16)),
            }
        )
        if start:
            block.to_zarr(path, append_dim="image", zarr_format=3, consolidated=False)
        else:
            chunks = {"pooled": {"chunks": (1, CHUNK, 2, CHANNELS)}}
            chunks["logits"] = {"chunks": (CHUNK, CLASSES)}
            block.to_zarr(path, encoding=chunks, zarr_format=3, consolidated=False)
    coords = {"label": ("image", label), "split": ("image", split), "layer": ["norm"]}
    head = {"head_weight": (("class", "channel"), means), "head_bias": ("class", np.zeros(CLASSES))}
    rest = xr.Dataset(head, coords | {"feature": ["cls", "patch_mean"]})
    rest.to_zarr(path, mode="a", zarr_format=3, consolidated=False)


def one(path: Path) -> None:
    """Measure the tap; print the seconds, and the megabytes before and at most."""
    dataset = xr.open_zarr(path, consolidated=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.process_time()
    collapse.compute(dataset, **RESAMPLES)
    seconds = time.process_time() - start
    print(seconds, before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Run each count in a process of its own, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.path:
        one(options.path)
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count in COUNTS:
            path = Path(folder) / f"{count}.zarr"
            write(count, path)
            command = [sys.executable, "-W", "ignore", __file__, "--path", str(path)]
            said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            rows.append([count, *map(float, said.split())])
    columns = ["images", "s a tap", "MB before", "MB at most"]
    table = pd.DataFrame(rows, columns=columns).astype({"images": int}).set_index("images")
    said = (
        f"Neural collapse of one tap of two features: {CLASSES} classes, {CHANNELS} channels, half "
        "of the images to fit and half to test, 200 resamples (40 of the pseudo-inverse), a fifth "
        "of the default, to whose number the time is nearly in proportion. Seconds of one core's "
        "own time; peak resident memory. The store is float16 in chunks of "
        f"{CHUNK} images.\n\n{machine('numpy', 'zarr')}\n\n"
        f"{markdown(table)}"
    )
    print(said)
    table.to_csv(HERE / "collapse.csv")
    (HERE / "collapse.md").write_text(said)


if __name__ == "__main__":
    main()
