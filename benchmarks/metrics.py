"""How long similarity takes over a stored layer and in how much memory, beside xarray and dask.

    python benchmarks/metrics.py

Tokens in float16, stored in memory, so that no disk is measured, on one thread. Writes metrics.csv,
metrics_memory.csv and metrics.md beside this file.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import torch
import xarray as xr
from paired import machine, markdown, ratios

import vitals
from vitals.activations import store
from vitals.metrics import similarity
from vitals.metrics.token_batches import batches

HERE = Path(__file__).parent
DIMS = ("layer", "image", "token", "channel")
TOKENS, BATCH = 197, 32
SMALL, LARGE = 384, 1024  # channels of ViT-S and of ViT-L
TIMED_IMAGES, COUNTS = 112, (1_000, 4_000)
PROVENANCE = {"spec": '{"settings":{}}', "code": "", "weights_digest": ""}


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak_of:
        print(peak(options.peak_of))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        memory = pd.DataFrame([of_count(Path(name), count) for count in COUNTS])
        with dask.config.set(scheduler="synchronous"):
            times = timed(Path(name), options.rounds)
    times.to_csv(HERE / "metrics.csv")
    memory.to_csv(HERE / "metrics_memory.csv", index=False)
    (HERE / "metrics.md").write_text(page(times, memory.set_index("images"), options.rounds))


def written(path: Path, images: int, channels: int) -> Path:
    """A shard of one layer."""
    generator = np.random.default_rng(0)
    batch = generator.standard_normal((1, BATCH, TOKENS, channels), dtype="float32") + 0.5
    batch = batch.astype("float16")
    with store.new_shard(path, PROVENANCE) as writer:
        writer.declare("tokens/tokens", DIMS, (1, images, TOKENS, channels), "float16")
        for start in range(0, images, BATCH):
            writer.append("tokens/tokens", batch[:, : images - start])
        kinds = np.array(["cls"] + ["patch"] * (TOKENS - 1))
        writer.put_coordinate("tokens/token_kind", ("token",), kinds)
    return path


def timed(folder: Path, rounds: int) -> pd.DataFrame:
    """One layer of ViT-S: its mean, and its similarity."""
    dataset = vitals.open_tokens(written(folder / "0.zarr", TIMED_IMAGES, SMALL))
    tokens = dataset["tokens"].isel(layer=0, token=slice(1, None))
    every = np.arange(TOKENS - 1)
    check(dataset, tokens)
    scans = ratios(
        {
            "mean of a layer: batches in torch": lambda: sum(
                x.sum(dim=0) for x in batches(tokens, every)
            ),
            "mean of a layer: xarray and dask": lambda: tokens.mean("image").values,
        },
        "mean of a layer: batches in torch",
        rounds,
    )
    whole = ratios(
        {
            "similarity": lambda: similarity.compute(dataset, bootstrap_samples=10),
            "similarity: xarray and dask": lambda: by_xarray(tokens).compute(),
        },
        "similarity",
        rounds,
    )
    found = pd.concat([scans, whole])
    return found.assign(**{"MB/s": tokens.size * 2 / 1e6 / found["seconds"]})


def by_xarray(tokens: xr.DataArray) -> xr.Dataset:
    """The same as a user would write it, but for what leaves outliers out."""
    x = tokens.astype("float32")
    norm = np.sqrt((x**2).sum("channel"))
    mean = x.mean("token")
    centered = x - mean
    direction = centered / np.sqrt((centered**2).sum("channel"))
    count = x.sizes["token"]
    cosines = xr.dot(direction, direction.rename(token="other"), dim="channel")
    energy = (norm**2).sum("token")
    return xr.Dataset(
        {
            "cosine": over_pairs((((x / norm).sum("token")) ** 2).sum("channel"), count),
            "centered_cosine": over_pairs((direction.sum("token") ** 2).sum("channel"), count),
            "squared_cosine": over_pairs((cosines**2).sum(["token", "other"]), count),
            "common_share": (mean**2).sum("channel") * count / energy,
            "norm_median": norm.median("token"),
            "norm_max": norm.max("token"),
        }
    )


def over_pairs(total: xr.DataArray, count: int) -> xr.DataArray:
    """The mean over pairs of two tokens."""
    return (total - count) / (count * (count - 1))


def check(dataset: xr.Dataset, tokens: xr.DataArray) -> None:
    """Both ways find the same."""
    ours = similarity.compute(dataset, bootstrap_samples=10).isel(layer=0)
    for name, values in by_xarray(tokens).compute().data_vars.items():
        np.testing.assert_allclose(ours[name], values, rtol=1e-4, atol=1e-5, err_msg=name)


def of_count(folder: Path, images: int) -> dict[str, float]:
    """The peak of a process of its own over a layer of ViT-L of so many images."""
    path = written(folder / "0.zarr", images, LARGE)
    command = [sys.executable, __file__, "--peak-of", str(path)]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    before, after = map(float, said.strip("()\n").split(","))
    stored = images * TOKENS * LARGE * 2 / 1e6
    return {"images": images, "MB stored": stored, "MB before": before, "MB at most": after}


def peak(path: Path) -> tuple[float, float]:
    """The largest resident size before and after the similarity of a stored layer, in MB."""
    sizes = [resident()]
    with dask.config.set(scheduler="synchronous"):
        similarity.compute(vitals.open_tokens(path), bootstrap_samples=10)
    return sizes[0], resident()


def resident() -> float:
    """The largest resident size so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def page(times: pd.DataFrame, memory: pd.DataFrame, rounds: int) -> str:
    """The tables, and what their columns are."""
    return (
        "# How long similarity takes over a stored layer, and in how much memory\n\n"
        f"One layer of ViT-S, ({TIMED_IMAGES}, {TOKENS}, {SMALL}) in float16, stored in memory, on "
        "one thread. `ratio`: of the\ntime, to the first of its kind, median and quartiles of "
        f"{rounds} rounds in random order. Both ways give the same\nnumbers; xarray's lacks the "
        "robust variable and the intervals. Most of the time of similarity is the\n"
        "`squared_cosine`, N²·D products an image.\n\n"
        f"{markdown(times)}\n"
        "Peak resident memory of a process that computes the similarity of one layer of ViT-L, "
        f"(images, {TOKENS}, {LARGE}):\n\n"
        f"{markdown(memory, 4)}\n"
        f"{machine('numpy', 'torch', 'zarr', 'xarray', 'dask')}; {os.cpu_count()} cores.\n\n"
        "Repeat: `python benchmarks/metrics.py`.\n"
    )


if __name__ == "__main__":
    main()
