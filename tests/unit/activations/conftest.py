"""Shards of a small model over a few real images."""

import pytest
import torch

from vitals.activations import extract, store
from vitals.data import images
from vitals.models import build

SETTINGS = {
    "shard_images": 60,
    "token_images": None,
    "gallery_images": 3,
    "storage": "float32",
    "batch": 17,
}


@pytest.fixture(autouse=True)
def without_waiting_for_the_disk(monkeypatch):
    """Durability takes most of the time of a small shard, and no test ends the power."""
    monkeypatch.setattr(store, "_sync", lambda path: None)


def extract_all(folder, model, listed, weights_digest="w", **changes):
    """Every shard of a list in a model's folder, which is returned."""
    settings = extract.Settings(**{**SETTINGS, **changes})
    provenance = {
        "model": folder.name,
        "weights_digest": weights_digest,
        "images_digest": listed.digest,
        "spec": str(settings),
        "code": "digest",
    }
    for shard in range(-(-len(listed.table) // settings.shard_images)):
        path = folder / "activations" / f"{shard}.zarr"
        transform, cpu = build.transform(model), torch.device("cpu")
        extract.extract(model, transform, listed, shard, settings, path, provenance, cpu)
    return folder


@pytest.fixture
def extracted(tmp_path, digit_list, small_vit):
    """Extract a model, with changes to the settings: its folder."""

    def run(model=None, name="model", **changes):
        return extract_all(tmp_path / name, model or small_vit(), digit_list, **changes)

    return run


@pytest.fixture(scope="session")
def whole(tmp_path_factory, images_file, small_vit):
    """The folder of the small model in one shard, to read alone."""
    return extract_all(
        tmp_path_factory.mktemp("whole") / "model", small_vit(), images.read(images_file)
    )


@pytest.fixture(scope="session")
def sharded(tmp_path_factory, images_file, small_vit):
    """The folder of the small model in shards of 25, 25 and 10 images, to read alone."""
    folder = tmp_path_factory.mktemp("sharded") / "model"
    return extract_all(folder, small_vit(), images.read(images_file), shard_images=25)
