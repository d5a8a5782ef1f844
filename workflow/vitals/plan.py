"""The plan of a study: what its activations take of the disk and of time, before anything runs."""

import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from vitals.activations import plan
from vitals.activations.extract import Machine
from vitals.activations.layout import GALLERY, POOLED, TOKENS, Settings
from vitals.data import datasets, digests
from vitals.data.images import ImageList
from vitals.errors import VitalsError
from vitals.models import build
from vitals.study import Study

GIGABYTE = 1e9


def table(study: Study, machine: Machine) -> pd.DataFrame:
    """One row a model: its shapes, GB of each tier, shards, and minutes on this machine.

    Minutes are those of trials with random weights on a few of the study's own images; `limit` is
    the part of an extraction that takes longest.
    """
    torch.set_num_threads(machine.workers)  # as the workflow does for its jobs
    split = study.listing["split"].to_numpy()
    sample = _sample(study)
    study.folder.mkdir(parents=True, exist_ok=True)
    rows = {}
    with tempfile.TemporaryDirectory(dir=study.folder, prefix=".plan-") as folder:
        for name, model in study.models.items():
            classes = len(sample.classes) if name in study.trained else None
            skeleton = build.skeleton(model["architecture"], model["options"], classes)
            settings = Settings(**study.kept)
            rows[name] = _row(
                plan.of_model(skeleton, split, sample, settings, machine, Path(folder))
            )
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def verdict(study: Study, planned: pd.DataFrame) -> str:
    """One line: images, GB in all, minutes; VitalsError where the disk has not that much free."""
    needed = planned.filter(like="GB").to_numpy().sum()
    free = shutil.disk_usage(study.folder).free / GIGABYTE
    if needed > free:
        raise VitalsError(
            f"the activations take {needed:.1f} GB, {study.folder} has {free:.1f} GB free: take "
            "fewer token_images, or another disk"
        )
    return (
        f"{len(study.listing)} images, {needed:.2f} GB of {free:.0f} GB free, "
        f"{planned['minutes'].sum():.1f} minutes one after the other"
        f"{_further_passes(study, planned)}"
    )


def _further_passes(study: Study, planned: pd.DataFrame) -> str:
    """What the metrics that are computed inside passes of their own take, nothing without any."""
    if not study.streamed:
        return ""
    minutes = len(study.listing) * (1 / planned["pass alone/s"]).sum() / 60
    return (
        f", and a further pass of all images for each of {', '.join(study.streamed)}: each "
        f"{minutes:.1f} minutes and what its metric takes"
    )


def _sample(study: Study) -> ImageList:
    settings = study.settings["images"]
    source = datasets.source(settings)
    chosen = study.listing.head(plan.MOST_TRIED)
    chosen = chosen.assign(digest=digests.of_contents(source, chosen))
    about = study.listing.attrs
    return ImageList(chosen, about["classes"], about["shape"], source)


def _row(found: plan.Plan) -> dict[str, Any]:
    body, speeds = found.body, found.speeds
    return {
        "parameters": f"{found.parameters / 1e6:.1f} M",
        "taps": found.layers,
        "tokens": f"{len(body.kinds)} × {body.channels}",
        "attention": body.attention_absent or f"{len(body.blocks)} blocks × {body.heads} heads",
        **{f"{tier} GB": found.bytes[tier] / GIGABYTE for tier in (TOKENS, POOLED, GALLERY)},
        "shards": found.shards,
        "images/s": _rate(speeds.with_tokens),
        "pass alone/s": _rate(speeds.passing),
        "disk alone/s": _rate(speeds.writing),
        "limit": speeds.limit,
        "minutes": found.minutes,
    }


def _rate(seconds: float) -> float:
    """Images a second; infinite where a trial was too short to be told from another."""
    return 1 / seconds if seconds > 0 else math.inf
