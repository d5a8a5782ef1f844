"""Shards of small models, as the stage would write them."""

from dataclasses import asdict

import numpy as np
import torch

from vitals.activations.extract import Machine, Subject, extract
from vitals.activations.layout import Settings
from vitals.data import images
from vitals.models import build
from vitals.provenance import canonical

SETTINGS = Settings(
    shard_images=60,
    token_images=None,
    gallery_images=3,
    attention=True,
    sub_blocks=False,
    precision="float32",
    storage="float32",
    codec="none",
    keep_bits=None,
    skip_unreadable=False,
)
MACHINE = Machine(torch.device("cpu"), batch=17)


def subject_of(model, name="model", rows=None):
    """A model whose classifier's rows are the dataset's classes, or those given."""
    names = tuple(map(str, range(model.num_classes))) or None
    rows = np.arange(model.num_classes) if rows is None and model.num_classes else rows
    return Subject(name, model, build.transform(model), names, rows)


def extract_all(folder, model, listed, weights_digest="w", machine=MACHINE, rows=None, **changes):
    """Every shard of a list in a model's folder, which is returned."""
    settings = Settings(**{**asdict(SETTINGS), **changes})
    subject = subject_of(model, folder.name, rows)
    for shard in range(-(-len(listed.table) // settings.shard_images)):
        start = shard * settings.shard_images
        part = listed.rows(start, start + settings.shard_images)
        fingerprint = images.fingerprint(part.table)
        provenance = {
            "model": folder.name,
            "weights_digest": weights_digest,
            "spec": canonical({"settings": asdict(settings), "images": fingerprint}),
            "code": "digest",
            "start": start,
            "stop": start + len(part.table),
        }
        path = folder / "activations" / f"{shard}.zarr"
        extract(subject, listed, shard, settings, path, provenance, machine)
    return folder
