"""The stage that stores a shard of activations, from files to a store."""

from pathlib import Path
from typing import Any

from vitals import device as devices
from vitals.activations import extract as extraction
from vitals.activations import store
from vitals.data import images as image_lists
from vitals.errors import VitalsError
from vitals.models import build
from vitals.provenance import versions


def extract(
    spec: dict[str, Any],
    provenance: dict[str, Any],
    images: Path,
    model: Path,
    shard: Path,
    device: str,
) -> str:
    """Pass a shard's images through a model and store what the taps saw; says what it made.

    spec: the fields of `extraction.Settings`; shard: `{number}.zarr`, or its root file.
    """
    shard = shard.parent if shard.name == store.ROOT_FILE else shard
    if not (shard.suffix == ".zarr" and shard.stem.isdecimal()):
        raise VitalsError(f"{shard} is no name of a shard: expected 0.zarr, 1.zarr, ...")
    listed = image_lists.read(images)
    network, transform, about = build.load(model, model.with_suffix(".json"))
    chosen = devices.choose(device)
    made_from = {
        **provenance,
        "model": model.parent.name,
        "weights_digest": about["weights_digest"],
        "images_digest": listed.digest,
        "versions": versions(),
        "device": str(chosen),
    }
    count = extraction.extract(
        network,
        transform,
        listed,
        int(shard.stem),
        extraction.Settings(**spec),
        shard,
        made_from,
        chosen,
    )
    return f"{count} images at {spec['storage']} in {shard}"
