"""How fast a shard is written and a layer of it is read, beside plain files.

    python benchmarks/store.py

Tokens of a ViT-S/16 in float16, in memory, so that no disk is measured, on one thread. Writes
store.csv and store.md beside this file.
"""

import argparse
import os
import tempfile
from pathlib import Path

import dask
import google_crc32c
import numpy as np
import pandas as pd
from paired import machine, markdown, ratios

import vitals
from vitals.activations import store

HERE = Path(__file__).parent
DIMS = ("layer", "image", "token", "channel")
SHAPE = (14, 224, 197, 384)
BATCH = 32
PROVENANCE = {"spec": '{"settings":{}}', "code": "", "weights_digest": ""}


def main() -> None:
    """Measure and write the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    chosen = options.parse_args()
    values = np.random.default_rng(0).standard_normal(SHAPE, dtype="float32").astype("float16")
    with (
        tempfile.TemporaryDirectory(dir=chosen.folder) as name,
        dask.config.set(scheduler="synchronous"),
    ):
        folder = Path(name)
        table = pd.concat([writing(folder, values, chosen.rounds),
                           reading(folder, values, chosen.rounds)])  # fmt: skip
    table.to_csv(HERE / "store.csv")
    (HERE / "store.md").write_text(page(table, chosen.rounds))


def writing(folder: Path, values: np.ndarray, rounds: int) -> pd.DataFrame:
    """All layers of all images, in batches as a pass gives them."""
    batches = np.split(values, SHAPE[1] // BATCH, axis=1)
    found = ratios(
        {
            "write: plain files": lambda: write_plain(folder / "plain", values),
            "write: plain files with CRC-32C": lambda: write_plain(folder / "crc", values, True),
            "write: a shard": lambda: write_shard(folder / "0.zarr", batches),
        },
        "write: plain files",
        rounds,
    )
    return found.assign(**{"MB/s": values.nbytes / 1e6 / found["seconds"]})


def reading(folder: Path, values: np.ndarray, rounds: int) -> pd.DataFrame:
    """One layer of all images."""
    tokens = vitals.open_tokens(folder / "0.zarr")["tokens"].isel(layer=5)
    found = ratios(
        {
            "read a layer: plain file": lambda: np.fromfile(folder / "plain" / "5", "float16"),
            "read a layer: open_tokens": lambda: tokens.values,
            "mean of a layer: numpy": lambda: values[5].mean(axis=0, dtype="float32"),
            "mean of a layer: open_tokens": lambda: tokens.mean("image", dtype="float32").values,
        },
        "read a layer: plain file",
        rounds,
    )
    return found.assign(**{"MB/s": values[5].nbytes / 1e6 / found["seconds"]})


def write_plain(folder: Path, values: np.ndarray, checksum: bool = False) -> None:
    """A file a layer."""
    folder.mkdir(exist_ok=True)
    for number, layer in enumerate(values):
        with (folder / str(number)).open("wb") as file:
            file.write(layer)
            if checksum:
                flat = layer.reshape(-1).view("uint8")
                file.write(google_crc32c.value(flat).to_bytes(4, "little"))


def write_shard(path: Path, batches: list[np.ndarray]) -> None:
    """A shard, whole, with its checksums and digests."""
    with store.new_shard(path, PROVENANCE) as writer:
        writer.declare("tokens/tokens", DIMS, SHAPE, "float16")
        for batch in batches:
            writer.append("tokens/tokens", batch)


def page(table: pd.DataFrame, rounds: int) -> str:
    """The table, and what its columns are."""
    return (
        "# How fast a shard is written and a layer of it is read\n\n"
        f"Tokens {SHAPE} in float16, in batches of {BATCH}, in memory, on one thread. `ratio`: of "
        f"the time, to the first of\nits kind, median and quartiles of {rounds} rounds in random "
        "order.\n\n"
        f"{markdown(table)}\n"
        f"{machine('numpy', 'zarr', 'xarray', 'dask', 'google-crc32c')}; "
        f"{os.cpu_count()} cores.\n\n"
        "Repeat: `python benchmarks/store.py`.\n"
    )


if __name__ == "__main__":
    main()
