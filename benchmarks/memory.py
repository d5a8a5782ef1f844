"""Whether the memory of an extraction grows with the number of images.

    python benchmarks/memory.py

Each number of images is one shard of one process, whose largest resident size is read at its end.
Writes memory.csv and memory.md beside this file.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import torch
from paired import machine, markdown
from photographs import write

from vitals.activations.extract import Machine, Subject, extract
from vitals.activations.layout import Settings
from vitals.data import images
from vitals.models import build

HERE = Path(__file__).parent
COUNTS = (1_000, 10_000)
SIDE, BATCH = 32, 64
OPTIONS = {"img_size": SIDE, "patch_size": 8, "embed_dim": 192, "depth": 6, "num_heads": 3}


def one(count: int, folder: Path) -> None:
    """Extract so many pictures, all tiers, in one shard; print images and the peak, in MB."""
    torch.set_num_threads(1)
    settings = write(folder / "pictures", count, (SIDE, SIDE))
    images.write(images.build(settings), folder / "images.parquet", settings, "{}", "")
    listed = images.read(folder / "images.parquet", settings["path"])
    model = build.create("vit_tiny_patch16_224", OPTIONS, 2)
    subject = Subject("vit", model, build.transform(model), None, torch.arange(2).numpy())
    kept = Settings(count, None, 16, True, False, "float32", "float16", "none", None, False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    extract(subject, listed, 0, kept, folder / "0.zarr", {}, Machine(torch.device("cpu"), BATCH))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(count, before, after)


def main() -> None:
    """Run each count in a process of its own, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.count:
            one(options.count, Path(folder))
            return
        rows = []
        for count in COUNTS:
            command = [sys.executable, __file__, "--count", str(count)]
            said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            rows.append(map(float, said.split()))
    table = pd.DataFrame(rows, columns=["images", "MB before", "MB at most"])
    table = table.astype({"images": int}).set_index("images")
    said = (
        f"Peak resident memory of one extraction of one shard: a ViT of width 192 and 6 blocks at "
        f"{SIDE} × {SIDE}, all tiers, batches of {BATCH}.\n\n{machine('torch', 'zarr')}\n\n"
        f"{markdown(table)}"
    )
    print(said)
    table.to_csv(HERE / "memory.csv")
    (HERE / "memory.md").write_text(said)


if __name__ == "__main__":
    main()
