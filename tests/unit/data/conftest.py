"""Small folders and tars of real image files."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

CLASSES = ("ant", "bee", "cat")


@pytest.fixture(scope="session")
def encoded():
    """The bytes of a small picture of its own for each number, in a format of Pillow."""

    def make(number=0, format="JPEG", mode="RGB", size=(12, 8)):
        values = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(values).convert(mode).save(buffer, format)
        return buffer.getvalue()

    return make


@pytest.fixture
def class_folder(tmp_path, encoded):
    """A folder of three classes, with 6, 4 and 5 images; one lies a folder deeper."""
    root = tmp_path / "pictures"
    for label, (name, count) in enumerate(zip(CLASSES, (6, 4, 5), strict=True)):
        for number in range(count):
            path = root / name / ("deeper" if number == 1 else "") / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(10 * label + number))
    return root


@pytest.fixture
def settings(class_folder):
    """A study's `images`, of that folder."""
    return {
        "dataset": "folder",
        "path": str(class_folder),
        "test_share": 0.5,
        "seed": 0,
        "limit": None,
    }


@pytest.fixture
def tar_of(tmp_path):
    """Makes a tar of a folder, the members as `tar -cf` has them."""

    def make(folder, format=tarfile.GNU_FORMAT, compressed="", name="pictures.tar", prefix="."):
        path = tmp_path / name
        with tarfile.open(path, f"w:{compressed}", format=format) as archive:
            archive.add(folder, prefix)
        return path

    return make


@pytest.fixture
def frozen(tmp_path):
    """Builds and writes the list of a study's `images`, after the one that is there; its path."""
    from vitals.data import images

    path = tmp_path / "images.parquet"

    def make(settings):
        table = images.build(settings, path if path.exists() else None)
        images.write(table, path, settings, "{}", "code")
        return path

    return make
