"""How reading, decoding and preparing JPEG files scales over threads.

    python benchmarks/decoding.py

Writes decoding.csv and decoding.md beside this file.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from paired import machine, markdown, ratios
from photographs import write

from vitals.data import images, pixels
from vitals.models import build

HERE = Path(__file__).parent
SIZE = (500, 375)  # about that of ImageNet's pictures


def main() -> None:
    """Measure one thread against as many as there are cores, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transform = build.transform(build.skeleton("vit_small_patch16_224", {}))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = write(folder / "pictures", options.images, SIZE)
        images.write(images.build(settings), folder / "images.parquet", settings, "{}", "")
        listed = images.read(folder / "images.parquet", settings["path"])

        def read_by(workers: int) -> Callable[[], None]:
            def run() -> None:
                for _ in pixels.prepared(listed, transform.prepare, workers):
                    pass

            return run

        cores = len(os.sched_getaffinity(0))
        counts = sorted({1, 2, cores})
        candidates = {f"{count} thread(s)": read_by(count) for count in counts}
        table = ratios(candidates, "1 thread(s)", options.rounds)
    table["images_per_second"] = options.images / table.pop("seconds")
    said = (
        f"{options.images} JPEG files of {SIZE[0]} × {SIZE[1]} to 224 × 224 on {cores} cores, "
        f"{options.rounds} rounds in random order; ratios of times to one thread of the same "
        f"round, median and quartiles.\n\n{machine('pillow', 'torchvision', 'timm')}\n\n"
        f"{markdown(table)}"
    )
    print(said)
    table.to_csv(HERE / "decoding.csv")
    (HERE / "decoding.md").write_text(said)


if __name__ == "__main__":
    main()
