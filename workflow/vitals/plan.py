"""The plan of a study: what its models take of the disk and of time, before anything runs."""

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
from vitals.data.images import FIT, TEST, ImageList
from vitals.errors import VitalsError
from vitals.models import build, training_time
from vitals.models.training import Recipe
from vitals.progress import progress
from vitals.provenance import canonical
from vitals.study import Study

GIGABYTE = 1e9


def table(study: Study, machine: Machine) -> pd.DataFrame:
    """One row a model: its shapes, GB of each tier, shards, and minutes on this machine.

    Minutes are those of trials with random weights on a few of the study's own images, once for
    models that differ in their weights alone; `limit` is the part of an extraction that takes
    longest; `training`, `intervening`: minutes, 0 where there is none.
    """
    torch.set_num_threads(machine.workers)  # as the workflow does for its jobs
    sample = _sample(study)
    study.folder.mkdir(parents=True, exist_ok=True)
    tried: dict[str, tuple[plan.Plan, float]] = {}
    rows = {}
    with tempfile.TemporaryDirectory(dir=study.folder, prefix=".plan-") as folder:
        for name in progress(study.models, "plan"):
            recipe = study.recipe(name) if name in study.trained else {}
            built = [study.models[name][key] for key in ("architecture", "options")]
            key = canonical([*built, {**recipe, "seed": 0}])
            if key not in tried:
                tried[key] = _tried(study, name, sample, machine, Path(folder))
            rows[name] = _row(study, *tried[key])
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def _tried(
    study: Study, name: str, sample: ImageList, machine: Machine, folder: Path
) -> tuple[plan.Plan, float]:
    """The plan of a model's activations, and the minutes of its training."""
    split, settings = study.listing["split"].to_numpy(), Settings(**study.kept)
    built = [study.models[name][key] for key in ("architecture", "options")]
    if name not in study.trained:
        return plan.of_model(build.skeleton(*built), split, sample, settings, machine, folder), 0.0
    skeleton = build.skeleton(*built, len(sample.classes))
    found = plan.of_model(skeleton, split, sample, settings, machine, folder)
    model = build.create(*built, len(sample.classes), sample.shape)
    recipe, images = Recipe(**study.recipe(name)), int((split == FIT).sum())
    how = build.transform(model)
    return found, training_time.minutes(model, how, sample, recipe, images, machine.device)


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
        f"{_besides(planned)}{_further_passes(study, planned)}"
    )


def _besides(planned: pd.DataFrame) -> str:
    """What the models take besides their activations, nothing where it is nothing."""
    minutes = planned[["training", "intervening"]].sum()
    return "".join(f", {taken:.1f} of {what}" for what, taken in minutes.items() if taken)


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


def _row(study: Study, found: plan.Plan, training: float) -> dict[str, Any]:
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
        "training": training,
        "intervening": _intervening(study, found),
    }


def _intervening(study: Study, found: plan.Plan) -> float:
    """Minutes of the passes with changes, of images of the split "test"."""
    if not any(metric.passed for metric in study.metrics.values()):
        return 0.0
    images = int((study.listing["split"] == TEST).sum())
    images = min(images, study.settings["interventions"]["images"] or images)
    return images * found.speeds.passing * study.changed_passes(found.layers) / 60


def _rate(seconds: float) -> float:
    """Images a second; infinite where a trial was too short to be told from another."""
    return 1 / seconds if seconds > 0 else math.inf
