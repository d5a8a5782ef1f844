"""The values of a token metric, found inside a forward pass, where tokens are not stored."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from vitals.activations import layout
from vitals.activations.capture import Taps
from vitals.activations.opened import opened
from vitals.activations.passing import Machine, Passing, Subject
from vitals.activations.pipeline import behind
from vitals.activations.streaming import Streamed
from vitals.data.images import ImageList
from vitals.errors import VitalsError
from vitals.metrics import files
from vitals.metrics.reducer import Reducer
from vitals.metrics.results import mark_absent
from vitals.models.anatomy import Anatomy, anatomy


def run(
    reducer: type[Reducer],
    spec: dict[str, Any],
    provenance: dict[str, Any],
    images: Path,
    data: str | None,
    model: Path,
    output: Path,
    machine: Machine,
) -> str:
    """Pass the images of a shard and write what a metric keeps of each; says what it made.

    spec: `settings` of the pass (`shard_images`, `attention`, `sub_blocks`, `precision`,
    `skip_unreadable`), `images`, the fingerprint of the shard's rows of the list, and `metric`, the
    reducer's own; data: where the images are; output: `{shard}.nc`.
    Raises VitalsError where the list does not have the rows of the fingerprint.
    """
    if not output.stem.isdecimal():
        raise VitalsError(f"{output} is no name of a shard: expected 0.nc, 1.nc, ...")
    found = opened(spec, images, data, model, int(output.stem))
    values = values_of(
        partial(reducer, **spec["metric"]), found.subject, found.part, spec["settings"], machine
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    files.write(values.assign_attrs(found.origin), output, **provenance)
    return f"{values.sizes['image']} images in {output}"


def values_of(
    make: Callable[[xr.Dataset], Reducer],
    subject: Subject,
    images: ImageList,
    settings: dict[str, Any],
    machine: Machine,
) -> xr.Dataset:
    """What a reducer keeps of each of these images, found in one pass over them.

    make: makes the reducer, from the labels of taps and tokens.
    """
    body = anatomy(subject.network.to(machine.device).eval())
    about = _labels(body, settings)
    whole = make(about)
    taps = Taps(settings["sub_blocks"], settings["attention"] and whole.reads_attention)
    passing: Passing[Streamed] = Passing(
        subject, body, images, machine,
        precision=settings["precision"], skip_unreadable=settings["skip_unreadable"],
    )  # fmt: skip
    with behind() as later:
        # a reducer for each batch: one that memory was too small for leaves nothing
        for seen in passing.run("stream", lambda batch: Streamed(whole.empty(), taps), taps):
            later(_merge, whole, seen)
    return whole.finish(about.assign_coords(_image_labels(passing)))


def _merge(whole: Reducer, seen: Streamed) -> None:
    """Wait for what a batch has left, beside the pass of the next."""
    seen.check_finite()
    whole.merge(seen.receiver)


def _labels(body: Anatomy, settings: dict[str, Any]) -> xr.Dataset:
    """The labels of taps and tokens, as the token tier of a store has them."""
    layers, (row, column) = body.layers(settings["sub_blocks"]), layout.places(body)
    labels = xr.Dataset(
        coords={
            "layer": np.array(layers),
            "depth": ("layer", np.array(body.depths(settings["sub_blocks"]))),
            "token_kind": ("token", np.array(body.kinds)),
            "row": ("token", row),
            "column": ("token", column),
        }
    )
    if not settings["attention"] or body.attention_absent is not None:
        reason = body.attention_absent or "activations.attention is false"
        mark_absent(labels, "attention", reason)
    return labels


def _image_labels(passing: Passing) -> dict[str, tuple[str, np.ndarray]]:
    table, passed = passing.images.table, passing.stored
    text = {
        name: ("image", table[name].to_numpy()[passed].astype(str))
        for name in ("image_id", "split", "class_name")
    }
    return {"label": ("image", passing.labels()[passed]), **text}
