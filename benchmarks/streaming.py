"""What similarity and attention cost from stored tokens, and inside passes that store none.

    python benchmarks/streaming.py [--images 16] [--rounds 3]

Stored: one extraction with the tokens of all images, then both metrics from the store. Streamed:
one extraction without tokens (the pooled tier is wanted in any case), and a pass for each metric.
Paired runs of ViT-S/16 at 224, without bootstrap. Writes streaming.csv and streaming.md beside this
file.
"""

import argparse
import shutil
import tempfile
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from paired import machine, markdown, ratios
from photographs import write

import vitals
from vitals.activations.extract import Machine, Subject, extract
from vitals.activations.layout import Settings
from vitals.data import images
from vitals.device import choose
from vitals.metrics import attention, similarity, streaming
from vitals.metrics.attention_measures import AttentionMeasures
from vitals.metrics.token_similarity import TokenSimilarity
from vitals.models import build
from vitals.provenance import canonical

HERE = Path(__file__).parent
REDUCERS = (
    partial(TokenSimilarity, outlier_mads=5.0),
    partial(AttentionMeasures, damping=0.85),
)
SAMPLES = {"bootstrap_samples": 1}


class Work:
    """The images, the model and a folder; each method is one way to the same results."""

    def __init__(self, folder: Path, count: int) -> None:
        torch.manual_seed(0)
        self.folder, self.shard = folder, folder / "0.zarr"
        pictures = write(folder / "pictures", count, (224, 224))
        images.write(images.build(pictures), folder / "images.parquet", pictures, "{}", "")
        self.images = images.read(folder / "images.parquet", pictures["path"])
        model = build.create("vit_small_patch16_224", {}, 2)
        rows = torch.arange(2).numpy()
        self.subject = Subject("vit", model, build.transform(model), None, rows)
        self.settings = Settings(
            count, None, 0, True, False, "float32", "float16", "none", None, False
        )
        self.machine = Machine(choose("auto"))

    def extraction(self, settings: Settings) -> None:
        """A shard with these tiers."""
        said = {"spec": canonical({"settings": asdict(settings)}), "code": "", "weights_digest": ""}
        extract(self.subject, self.images, 0, settings, self.shard, said, self.machine)

    def stored(self) -> None:
        """Tokens of all images, then both metrics from them."""
        self.extraction(self.settings)
        self.measured()

    def measured(self) -> None:
        """Both metrics from the store."""
        tokens = vitals.open_tokens(self.shard)
        similarity.compute(tokens, **SAMPLES)
        attention.compute(tokens, pooled=vitals.open_pooled(self.shard), **SAMPLES)

    def streamed(self) -> None:
        """The pooled tier, and a pass for each metric."""
        self.extraction(replace(self.settings, token_images=0))
        values = [
            streaming.values_of(
                reducer, self.subject, self.images, asdict(self.settings), self.machine
            )
            for reducer in REDUCERS
        ]
        similarity.finish(values[0], **SAMPLES)
        attention.finish(values[1], pooled=vitals.open_pooled(self.shard), **SAMPLES)

    def forget(self) -> None:
        """Remove what was written."""
        shutil.rmtree(self.shard, ignore_errors=True)


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Work(Path(folder), options.images)
        candidates = {
            "stored: extraction with tokens, both metrics": work.stored,
            "streamed: extraction without, a pass for each metric": work.streamed,
            "of this, extraction without tokens": partial(
                work.extraction, replace(work.settings, token_images=0)
            ),
        }
        table = ratios(candidates, next(iter(candidates)), options.rounds, work.forget)
        where = work.machine.device
    said = (
        f"Similarity and attention of {options.images} images of ViT-S/16 at 224, on {where}, "
        f"{options.rounds} paired rounds: median of the ratios, and quartiles.\n\n"
        f"{machine('torch', 'zarr')}, {torch.get_num_threads()} threads\n\n{markdown(table)}\n"
        "What is streamed passes the images three times, and writes and reads no tokens.\n"
    )
    print(said)
    table.to_csv(HERE / "streaming.csv")
    (HERE / "streaming.md").write_text(said)


if __name__ == "__main__":
    main()
