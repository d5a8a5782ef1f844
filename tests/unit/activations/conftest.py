"""Shards of a small model over a few real images."""

import pytest

from small_shards import extract_all
from vitals.activations import store
from vitals.data import images


@pytest.fixture(autouse=True)
def without_waiting_for_the_disk(monkeypatch):
    """Durability takes most of the time of a small shard, and no test ends the power."""
    monkeypatch.setattr(store, "_sync", lambda path: None)


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
