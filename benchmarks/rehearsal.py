"""The ImageNet study without ImageNet: its own file, on pictures of its shape, with random weights.

Makes a folder in which `studies/imagenet_vit_sbl.yaml` can be run: class folders named by synset
with JPEG files cut from scikit-learn's photographs, and a cache of the hub that holds, at full size
and in the layout of the hub, weights of the published names drawn at random. What a run then finds
says nothing about any model; that it runs says that the study does.

    python benchmarks/rehearsal.py FOLDER [--models vit_small ...] [--limit 100] [--token-images 30]
"""

import argparse
import hashlib
from pathlib import Path

import vitals.models.torchvision_operators  # noqa: F401  (must come before timm)

# isort: split
import numpy as np
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from vitals.data import scikit_learn
from vitals.models import classes

STUDY = Path(__file__).parents[1] / "studies" / "imagenet_vit_sbl.yaml"
PHOTOGRAPHS = ("china.jpg", "flower.jpg")
SIZE = (500, 375)  # of most pictures of ImageNet
# Searches that find nothing in random weights are short; all else is as the study says.
SHORT = {
    "scrambling": {"folds": 2, "penalties": [0.1], "sweeps": 20},
    "probes": {"folds": 2, "penalties": [0.01, 1.0]},
}


def draw_tree(folder: Path, count: int, images: int) -> None:
    """So many classes of so many JPEG files; a class is a part of a photograph, seen from near."""
    names = classes.imagenet(1000).names[:: 1000 // count][:count]
    generator = np.random.default_rng(0)
    pictures = [
        Image.open(scikit_learn.file("images", name)).convert("RGB") for name in PHOTOGRAPHS
    ]
    number = 0
    for place, name in enumerate(names):
        picture = pictures[place % len(pictures)]
        centre = generator.uniform([160, 130], [picture.width - 160, picture.height - 130])
        (folder / name).mkdir(parents=True)
        for _ in range(images):
            number += 1
            width = generator.uniform(150, 240)
            height = width * 3 / 4
            left, top = centre + generator.uniform(-40, 40, 2) - [width / 2, height / 2]
            box = (left, top, left + width, top + height)
            crop = picture.resize(SIZE, Image.Resampling.BICUBIC, box)
            crop.save(folder / name / f"ILSVRC2012_val_{number:08d}.JPEG", quality=92)


def draw_weights(cache: Path, architecture: str) -> None:
    """A repository of the hub with random weights of a published name, as the hub caches it."""
    torch.manual_seed(0)
    model = timm.create_model(architecture)
    repository = cache / f"models--{model.pretrained_cfg['hf_hub_id'].replace('/', '--')}"
    commit = hashlib.sha1(architecture.encode()).hexdigest()
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    save_file(model.state_dict(), snapshot / "model.safetensors")


def study_of(models: list[str], tree: Path) -> dict:
    """The study's own file, with these of its models, on the tree."""
    study = yaml.safe_load(STUDY.read_text())
    study["study"] = "rehearsal"
    study["images"]["path"] = str(tree)
    study["metrics"] = SHORT
    study["models"] = {name: study["models"][name] for name in models}
    return study


def main() -> None:
    """Draw the tree and the weights, and write study.yaml beside them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=["vit_small"])
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--images", type=int, default=20, help="of each class")
    parser.add_argument("--limit", type=int, help="images of the study, of all")
    parser.add_argument("--shard-images", type=int, default=250)
    parser.add_argument("--token-images", type=int, default=7500)
    options = parser.parse_args()
    tree = options.folder / "val"
    draw_tree(tree, options.classes, options.images)
    study = study_of(options.models, tree)
    study["images"]["limit"] = options.limit
    study["activations"] |= {
        "shard_images": options.shard_images,
        "token_images": options.token_images,
    }
    for model in study["models"].values():
        draw_weights(options.folder / "hub", model["architecture"])
    (options.folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))


if __name__ == "__main__":
    main()
