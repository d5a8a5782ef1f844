"""A folder of class folders with as many JPEG files as a benchmark asks for: real pictures, cut."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("china", "flower")


def write(folder: Path, count: int, size: tuple[int, int], quality: int = 92) -> dict[str, object]:
    """Crops of scikit-learn's two photographs, scaled to (width, height); settings to list them."""
    package = find_spec("sklearn")
    pictures = Path(package.submodule_search_locations[0], "datasets", "images")
    generator = np.random.default_rng(0)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        with Image.open(pictures / f"{name}.jpg") as opened:
            picture = opened.convert("RGB")
        for number in range(count // len(CLASSES)):
            side = int(generator.integers(200, 400))
            left = int(generator.integers(picture.width - side))
            top = int(generator.integers(picture.height - side))
            crop = picture.crop((left, top, left + side, top + side)).resize(size)
            crop.save(folder / name / f"{number:05d}.jpg", quality=quality)
    return {"dataset": "folder", "path": str(folder), "test_share": 0.5, "seed": 0, "limit": None}
