"""A pass that lies in another model's folder is linked if it is of the same things, and only then.

The cases are the same pass with one thing changed, which a digest of the weights does not show.
"""

import pytest
import torch

from vitals.activations import stage, store
from vitals.activations.extract import Machine
from vitals.data import images as image_lists
from vitals.errors import VitalsError
from vitals.models import build
from vitals.provenance import canonical

SETTINGS = {
    **{"shard_images": 60, "token_images": None, "gallery_images": 0, "attention": False},
    **{"sub_blocks": False, "precision": "float32", "storage": "float16", "codec": "none"},
    **{"keep_bits": None, "skip_unreadable": False},
}
ARCHITECTURE = "vit_tiny_patch16_224"
ABOUT = {"class_names": list("0123456789"), "class_rows": list(range(10))}


class Passes:
    """Passes of the first digits through a small model, each in the folder of another study."""

    def __init__(self, folder, options):
        self.folder, self.options, self.count = folder, options, 0

    def listed(self, name="images.parquet", change=lambda table: table):
        """The list of 120 digits, written with a change."""
        settings = {"dataset": "digits", "path": None, "test_share": 0.3, "seed": 0, "limit": 120}
        table = image_lists.build(settings)
        changed = change(table.copy())
        changed.attrs = table.attrs
        file = self.folder / name
        image_lists.write(changed, file, settings, "{}", "code")
        return file

    def run(self, settings=None, code="code", about=None, options=None, number=0, images=None,
            seed=0, before=None, studies=True):  # fmt: skip
        """Run the stage in the folder of a new study; its shard."""
        self.count += 1
        model = self.folder / "studies" / f"study{self.count}" / f"vit{self.count}"
        model.mkdir(parents=True)
        images = images or self.listed()
        rows = image_lists.read(images).table.iloc[60 * number : 60 * (number + 1)]
        made = {"architecture": ARCHITECTURE, "options": {**self.options, **(options or {})}}
        torch.manual_seed(seed)
        network = build.create(**made, classes=10, shape=(1, 8, 8))
        weights, report = model / "model.safetensors", model / "model.json"
        build.save(network, {**ABOUT, **(about or {}), "built": made}, weights, report)
        spec = {
            "settings": {**SETTINGS, **(settings or {})},
            "images": image_lists.fingerprint(rows),
            "before": before or {},
        }
        shard = model / "activations" / f"{number}.zarr"
        self.said = stage.run(
            spec, {"spec": canonical(spec), "code": code}, images, None, weights, shard,
            Machine(torch.device("cpu"), batch=60), self.folder / "studies" if studies else None,
        )  # fmt: skip
        return shard


@pytest.fixture
def passes(tmp_path, small_options):
    return Passes(tmp_path, small_options)


def origin(shard):
    """Where a shard was taken from; None for one that was passed."""
    return store.provenance(shard).get("taken_from")


def test_the_same_pass_is_linked_under_any_name(passes):
    first, second = passes.run(), passes.run()
    assert origin(first) is None
    assert origin(second) == str(first)
    assert passes.said == f"60 images in {second}: the same pass lies in {first}, and is linked"
    chunk = "tokens/tokens/c/0/0/0/0"
    assert (first / chunk).stat().st_ino == (second / chunk).stat().st_ino
    assert store.provenance(second)["model"] == "vit2"
    assert store.torn_arrays(second) == []
    assert origin(passes.run(studies=False)) is None


def relabelled(table):
    return table.assign(label=table["label"].to_numpy()[::-1])


def otherwise_split(table):
    return table.assign(split=table["split"].to_numpy()[::-1])


def of_other_content(table):
    """Of the same names and stamps, as after a copy that sets the times."""
    return table.assign(digest=["0" * 64, *table["digest"].iloc[1:]])


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"sub_blocks": True}},
        {"settings": {"storage": "float32"}},
        {"settings": {"token_images": 20}},
        {"code": "other"},
        {"seed": 1},
        {"options": {"num_heads": 4}},  # of the same weights
        {"options": {"class_token": True, "global_pool": "avg", "fc_norm": False}},
        {"about": {"class_rows": list(range(9, -1, -1))}},
        {"about": {"class_names": list("abcdefghij")}},
        {"before": {"fit": 60, "test": 0}},
    ],
)
def test_a_pass_of_other_things_is_made(passes, change):
    passes.run()
    assert origin(passes.run(**change)) is None


@pytest.mark.parametrize("change", [relabelled, otherwise_split])
def test_a_pass_of_a_list_that_says_otherwise_is_made(passes, change):
    passes.run()
    assert origin(passes.run(images=passes.listed("other.parquet", change))) is None


def test_a_pass_of_images_of_other_content_is_not_taken(passes):
    passes.run()
    other = passes.listed("other.parquet", of_other_content)
    with pytest.raises(VitalsError, match="is not the one that was listed"):  # it is read
        passes.run(images=other)


def test_another_place_or_time_of_the_images_is_the_same_pass(passes):
    def touched(table):
        return table.assign(stamp=[f"{stamp}0" for stamp in table["stamp"]])

    first = passes.run()
    assert origin(passes.run(images=passes.listed("touched.parquet", touched))) == str(first)
