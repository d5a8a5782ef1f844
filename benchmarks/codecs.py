"""What a codec and a rounding of stored tokens save, cost and change.

    python benchmarks/codecs.py

Sizes and effects are of the trained ViT of depth 8 of the default study over all digits (make it
first: `snakemake artifacts/digits/vit_depth8/model.safetensors`); sizes and speeds of a ViT-S/16
with random weights over crops of scikit-learn's photographs at 224. Everything is written to
memory, so that no disk is measured. Writes codecs.csv and codecs.md beside this file.
"""

import argparse
import json
import os
import tempfile
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from paired import machine, markdown, ratios
from safetensors.torch import load_file
from sklearn.datasets import load_digits, load_sample_images

import vitals.models.torchvision_operators  # noqa: F401  (must come before timm)

import timm  # isort: skip
from vitals.activations import store
from vitals.metrics import scrambling, similarity

HERE = Path(__file__).parent
DIGITS = HERE.parent / "artifacts" / "digits" / "vit_depth8" / "model.safetensors"
DIMS = ("layer", "image", "token", "channel")
BITS = {"float16": (None, 7, 5, 3), "float32": (None, 10, 7, 5)}
CODECS = ("none", "lz4", "zstd")
CROPS, SIDE = 32, 224
TEST_SHARE = 0.3


class Way(NamedTuple):
    """A way to store tokens."""

    storage: str
    codec: str
    keep_bits: int | None


# without a codec rounding saves nothing
WAYS = [
    Way(storage, codec, bits)
    for storage, codec in product(BITS, CODECS)
    for bits in BITS[storage]
    if codec != "none" or bits is None
]
EXACT = Way("float32", "none", None)
DEFAULT = Way("float16", "none", None)


def main() -> None:
    """Measure every combination and write the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    chosen = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        folder = Path(name)
        digits, crops = digit_tokens(), photograph_tokens()
        table = pd.DataFrame([way._asdict() for way in WAYS], index=list(map(str, WAYS)))
        table["digits"] = [ratio(folder, digits, way) for way in WAYS]
        table["ViT-S/16"] = [ratio(folder, crops, way) for way in WAYS]
        table = table.join(speeds(folder, crops, chosen.rounds)).join(effects(folder, digits))
    table.astype({"keep_bits": "Int64"}).to_csv(HERE / "codecs.csv", index=False)
    (HERE / "codecs.md").write_text(page(table, chosen.rounds))


def digit_tokens() -> np.ndarray:
    """The stream of the trained ViT at every tap, (layer, image, token, channel) float32."""
    about = json.loads(DIGITS.with_suffix(".json").read_text())
    model = timm.create_model(about["architecture"], num_classes=10, **about["options"])
    model.load_state_dict(load_file(DIGITS))
    pixels = torch.from_numpy(load_digits().images[:, None]).float() / 16
    return tokens(model, (pixels - pixels.mean()) / pixels.std())


def photograph_tokens() -> np.ndarray:
    """The stream of a ViT-S/16 with random weights over crops of real photographs."""
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch16_224")
    random = np.random.default_rng(0)
    pictures = load_sample_images().images
    crops = []
    for number in range(CROPS):
        picture = pictures[number % 2]
        row, column = (random.integers(0, n - SIDE) for n in picture.shape[:2])
        crops.append(picture[row : row + SIDE, column : column + SIDE].transpose(2, 0, 1))
    return tokens(model, (torch.from_numpy(np.stack(crops)).float() / 255 - 0.5) / 0.5)


@torch.inference_mode()
def tokens(model: torch.nn.Module, images: torch.Tensor) -> np.ndarray:
    """What enters the first block, what leaves each block, and the final norm's output."""
    seen: list[torch.Tensor] = []
    model.eval()
    embed, position = [], []
    model.patch_embed.register_forward_hook(lambda m, i, o: embed.append(o))
    model.blocks[0].register_forward_pre_hook(lambda m, i: position.append(i[0]))
    for module in (*model.blocks, model.norm):
        module.register_forward_hook(lambda m, i, o: seen.append(o))
    model(images)
    prefix = model.cls_token.expand(len(images), -1, -1)
    states = [torch.cat([prefix, embed[0]], dim=1), position[0], *seen]
    return torch.stack(states).numpy()  # (layer, image, token, channel)


def written(path: Path, values: np.ndarray, way: Way) -> Path:
    """A shard of these tokens, stored in one way."""
    with store.new_shard(path, {}, store.Encoding(way.codec, way.keep_bits)) as writer:
        writer.declare("tokens/tokens", DIMS, values.shape, way.storage, lossy=True)
        writer.append("tokens/tokens", values.astype(way.storage, copy=False))
    return path


def ratio(folder: Path, values: np.ndarray, way: Way) -> float:
    """Bytes of the values in float16 over bytes of the files."""
    path = written(folder / "0.zarr", values, way)
    files = (path / "tokens" / "tokens" / "c").rglob("*")
    return values.size * 2 / sum(file.stat().st_size for file in files if file.is_file())


def speeds(folder: Path, values: np.ndarray, rounds: int) -> pd.DataFrame:
    """Time to write and to read, over that of the default, and MB/s of uncompressed values."""
    cast = {storage: values.astype(storage) for storage in BITS}
    stored = {str(way): folder / f"{number}.zarr" for number, way in enumerate(WAYS)}
    writes = {
        str(way): lambda way=way: written(stored[str(way)], cast[way.storage], way) for way in WAYS
    }
    reads = {way: lambda path=path: read(path) for way, path in stored.items()}
    size = pd.Series({str(way): cast[way.storage].nbytes / 1e6 for way in WAYS})
    found = pd.DataFrame(index=list(stored))
    for name, runs in (("write", writes), ("read", reads)):
        timed = ratios(runs, str(DEFAULT), rounds)
        found[f"{name} time"] = timed["ratio"]
        found[f"{name} MB/s"] = size / timed["seconds"]
    return found


def read(path: Path) -> None:
    """Every layer, one after another."""
    for layer in store.open_group(path, "tokens")["tokens"]:
        layer.load()


def effects(folder: Path, values: np.ndarray) -> pd.DataFrame:
    """Largest differences over taps from what exact tokens give, in means over images."""
    expected = measured(folder, values, EXACT)
    found = {}
    for storage, bits in BITS.items():
        for keep_bits in bits:
            curves = measured(folder, values, Way(storage, "none", keep_bits))
            changed = abs(curves - expected).max()
            found |= {str(Way(storage, codec, keep_bits)): changed for codec in CODECS}
    return pd.DataFrame(found).T


def measured(folder: Path, values: np.ndarray, way: Way) -> pd.DataFrame:
    """The curves that a study draws from the tokens, read back from a shard: one row a tap."""
    stored = store.open_group(written(folder / "0.zarr", values, way), "tokens")["tokens"]
    depth, images = values.shape[0], values.shape[1]
    names = ["embed", "position", *(f"block.{i}" for i in range(depth - 3)), "norm"]
    is_test = np.random.default_rng(0).random(images) < TEST_SHARE
    dataset = xr.Dataset({"tokens": stored.load()}).assign_coords(
        layer=names,
        depth=("layer", np.arange(depth)),
        token_kind=("token", ["cls"] + ["patch"] * (values.shape[2] - 1)),
        split=("image", np.where(is_test, "test", "fit")),
    )
    alike = similarity.compute(dataset, bootstrap_samples=2)
    mixed = scrambling.compute(dataset, nulls=("none",), bootstrap_samples=2)
    curves = {name: alike[name].mean("image").values for name in ("cosine", "centered_cosine")}
    recovered = mixed.sel(null="none")
    return pd.DataFrame({**curves, **{n: recovered[n].values for n in ("r2_self", "isi")}})


def page(table: pd.DataFrame, rounds: int) -> str:
    """The table, and what its columns are."""
    bits = [str(way.keep_bits or "all") for way in WAYS]
    shown = table.assign(keep_bits=bits).set_index("storage")
    return (
        "# What a codec and a rounding of stored tokens save, cost and change\n\n"
        "`digits` and `ViT-S/16`: bytes in float16 over bytes stored, of the trained ViT of depth "
        "8 over all digits, and of\na ViT-S/16 with random weights over photographs at 224. "
        "`write time` and `read time`: of the latter, over the time\nof the default (float16, no "
        f"codec), medians of {rounds} paired rounds in random order, in memory, on one thread; "
        "MB/s are\nof uncompressed values. The rest: the largest change over taps of what the "
        "digits give, against exact float32.\nlz4 is at level 5 and zstd at level 1 of Blosc, "
        "with bitshuffle.\n\n"
        f"{markdown(shown)}\n"
        f"{machine('numpy', 'numcodecs', 'zarr', 'xarray', 'torch')}; {os.cpu_count()} cores.\n\n"
        "Repeat: `python benchmarks/codecs.py`.\n"
    )


if __name__ == "__main__":
    main()
