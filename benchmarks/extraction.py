"""What one pass into a store costs, beside a bare forward pass and beside what one would write.

    python benchmarks/extraction.py

Every candidate reads the same prepared photographs from memory, passes them through the same
model with random weights on one thread, and leaves every layer's tokens on the disk. Needs h5py
and transformers besides the environment; candidates whose package is missing are left out.
Writes extraction.csv and extraction.md beside this file.
"""

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import zarr
from paired import machine, markdown, ratios
from torch import nn

from vitals.activations.extract import Machine, Subject, extract
from vitals.activations.layout import Settings
from vitals.data import images
from vitals.models import build

HERE = Path(__file__).parent
ARCHITECTURE = "vit_small_patch16_224"
EVERYTHING = Settings(
    shard_images=10_000,
    token_images=None,
    gallery_images=0,
    attention=True,
    sub_blocks=False,
    precision="float32",
    storage="float16",
    codec="none",
    keep_bits=None,
    skip_unreadable=False,
)
NO_ATTENTION = replace(EVERYTHING, attention=False)
KEPT = {
    "ViTals: both tiers": NO_ATTENTION,
    "ViTals: both tiers and attention": EVERYTHING,
    "ViTals: pooled tier": replace(NO_ATTENTION, token_images=0),
    "ViTals: pooled tier and attention summaries": replace(EVERYTHING, token_images=0),
}
BARE = "bare forward pass"


class Work:
    """The images, the model and a folder that each candidate empties."""

    def __init__(self, folder: Path, count: int, batch: int) -> None:
        self.folder, self.batch = folder, batch
        settings = {"dataset": "photographs", "test_share": 0.5, "seed": 0, "limit": count}
        self.file = folder / "images.parquet"
        images.write(images.build(settings), self.file, settings, "{}", "")
        self.images = images.read(self.file)
        torch.manual_seed(0)
        self.model = build.create(ARCHITECTURE, {}, 1000)
        self.transform = build.transform(self.model)
        self.cpu = torch.device("cpu")
        self.machine = Machine(self.cpu, batch, decoded=folder / "decoded")
        self.forget()
        self.run_vitals(NO_ATTENTION)  # decodes the photographs, once for all candidates
        (decoded,) = self.machine.decoded.glob("*.npy")
        self.pixels = np.load(decoded, mmap_mode="r")["pixels"]

    def batches(self) -> list[torch.Tensor]:
        """The images in batches, normalised: (image, channel, row, column)."""
        starts = range(0, len(self.pixels), self.batch)
        return (
            self.transform(torch.from_numpy(np.array(self.pixels[s : s + self.batch])))
            for s in starts
        )

    def emptied(self) -> Path:
        """A new folder to write to."""
        return Path(tempfile.mkdtemp(dir=self.folder / "out"))

    def forget(self) -> None:
        """Remove what was written, outside of what is measured."""
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        (self.folder / "out").mkdir()

    def run_vitals(self, settings: Settings) -> None:
        """One extraction, with all that a user gets: checks, digests, and a synced disk."""
        rows = np.arange(1000)[: len(self.images.classes)]
        subject = Subject("vit", self.model, self.transform, None, rows)
        extract(subject, self.images, 0, settings, self.emptied() / "0.zarr", {}, self.machine)


@torch.inference_mode()
def bare(work: Work) -> None:
    """The model alone."""
    for batch in work.batches():
        work.model(batch)


class Hooked:
    """Forward hooks on the blocks, as one would write them: the last batch's outputs, float16."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.states: list[np.ndarray] = []
        self.handles = [module.register_forward_hook(self._keep) for module in modules]

    def _keep(self, module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        self.states.append(output.half().numpy())

    def taken(self) -> list[np.ndarray]:
        """What the hooks kept since the last time, one array a module."""
        states, self.states = self.states, []
        return states

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self.handles:
            handle.remove()


def taps(model: nn.Module) -> list[nn.Module]:
    """As many taps as ViTals stores: patch embeddings, what enters the blocks, blocks and norm."""
    return [model.patch_embed, model.norm_pre, *model.blocks, model.norm]


@torch.inference_mode()
def hooks_to_npy(work: Work) -> None:
    """Hooks, and one np.save a batch and layer."""
    out, hooked = work.emptied(), Hooked(taps(work.model))
    for number, batch in enumerate(work.batches()):
        work.model(batch)
        for layer, state in enumerate(hooked.taken()):
            np.save(out / f"{layer}-{number}.npy", state)
    hooked.remove()


@torch.inference_mode()
def hooks_in_memory(work: Work) -> None:
    """Hooks, everything kept in memory, and one np.save a layer at the end."""
    out, hooked, kept = work.emptied(), Hooked(taps(work.model)), []
    for batch in work.batches():
        work.model(batch)
        kept.append(hooked.taken())
    for layer, states in enumerate(zip(*kept, strict=True)):
        np.save(out / f"{layer}.npy", np.concatenate(states))
    hooked.remove()


@torch.inference_mode()
def a_pass_a_layer(work: Work) -> None:
    """One pass over the images for each layer, kept in memory, and one np.save."""
    out = work.emptied()
    for layer, module in enumerate(taps(work.model)):
        hooked, kept = Hooked([module]), []
        for batch in work.batches():
            work.model(batch)
            kept += hooked.taken()
        np.save(out / f"{layer}.npy", np.concatenate(kept))
        hooked.remove()


@torch.inference_mode()
def hooks_to_zarr(work: Work) -> None:
    """Hooks, and one Zarr array of all layers with Zarr's own choice of chunks and codec."""
    modules, tokens = taps(work.model), len(work.model.pos_embed[0])
    hooked = Hooked(modules)
    array = zarr.create_array(
        work.emptied() / "tokens.zarr",
        shape=(len(modules), len(work.pixels), tokens, work.model.embed_dim),
        dtype="float16",
    )
    start = 0
    for batch in work.batches():
        work.model(batch)
        for layer, state in enumerate(hooked.taken()):
            array[layer, start : start + len(batch), : state.shape[1]] = state
        start += len(batch)
    hooked.remove()


@torch.inference_mode()
def hooks_to_h5py(work: Work) -> None:
    """Hooks, and one HDF5 dataset a layer."""
    import h5py

    modules, tokens = taps(work.model), len(work.model.pos_embed[0])
    hooked, start = Hooked(modules), 0
    with h5py.File(work.emptied() / "tokens.h5", "w") as file:
        shape = (len(work.pixels), tokens, work.model.embed_dim)
        layers = [file.create_dataset(str(i), shape, "float16") for i in range(len(modules))]
        for batch in work.batches():
            work.model(batch)
            for layer, state in zip(layers, hooked.taken(), strict=True):
                layer[start : start + len(batch), : state.shape[1]] = state
            start += len(batch)
    hooked.remove()


def hidden_states(work: Work) -> Callable[[], None]:
    """transformers' own model of this size, output_hidden_states, and one np.save a layer."""
    from transformers import ViTConfig
    from transformers.models.vit.modeling_vit import ViTModel

    config = ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536)
    model = ViTModel(config, add_pooling_layer=False).eval()

    @torch.inference_mode()
    def run() -> None:
        out, kept = work.emptied(), []
        for batch in work.batches():
            states = model(batch, output_hidden_states=True).hidden_states
            kept.append([state.half().numpy() for state in states])
        for layer, states in enumerate(zip(*kept, strict=True)):
            np.save(out / f"{layer}.npy", np.concatenate(states))

    return run


def ours(work: Work) -> dict[str, Callable[[], None]]:
    """A bare pass, and ViTals with the tiers and attention that a user chooses."""
    kept = {name: partial(work.run_vitals, settings) for name, settings in KEPT.items()}
    return {BARE: partial(bare, work), **kept}


def theirs(work: Work) -> dict[str, Callable[[], None]]:
    """What one would write, by name."""
    found: dict[str, Callable[[], None]] = {
        "hooks, np.save a batch and layer": partial(hooks_to_npy, work),
        "hooks, kept in memory, np.save a layer": partial(hooks_in_memory, work),
        "hooks, Zarr's defaults": partial(hooks_to_zarr, work),
    }
    if find_spec("h5py"):
        found["hooks, h5py"] = partial(hooks_to_h5py, work)
    if find_spec("transformers"):
        found["transformers, output_hidden_states, np.save"] = hidden_states(work)
    return found


def repeated(batch: int) -> pd.DataFrame:
    """As many passes as there are layers: one round over one batch tells what that costs."""
    with tempfile.TemporaryDirectory() as folder:
        work = Work(Path(folder), batch, batch)
        slow = {BARE: partial(bare, work), "a pass a layer, np.save": partial(a_pass_a_layer, work)}
        table = ratios(slow, BARE, 1, work.forget).iloc[1:]
    return table.assign(ms_per_image=1e3 * table.pop("seconds") / batch)


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=224, help="at most, of 224 that there are")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--cores", type=int, default=1, help="cores that the process may use")
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = Work(Path(folder), options.images, options.batch)
        images = len(work.pixels)
        found = ratios(ours(work) | theirs(work), BARE, options.rounds, work.forget)
    found["ms_per_image"] = 1e3 * found.pop("seconds") / images
    table = pd.concat([found, repeated(options.batch)])
    said = (
        f"{ARCHITECTURE} at 224, {images} photographs in batches of {options.batch}, "
        f"float32 pass, float16 store, one torch thread, {options.cores} core(s), "
        f"{options.rounds} rounds in random order; ratios to the mean of the bare pass before and "
        "that after, median and quartiles.\n\n"
        f"{machine('torch', 'timm', 'zarr', 'numpy')}\n\n"
    )
    print(said + markdown(table))
    cores = "" if options.cores == 1 else f"_{options.cores}_cores"
    table.to_csv(HERE / f"extraction{cores}.csv")
    (HERE / f"extraction{cores}.md").write_text(said + markdown(table))


if __name__ == "__main__":
    main()
