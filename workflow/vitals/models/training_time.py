"""How long a training will take, from a few of its steps."""

import contextlib
import io
from dataclasses import replace
from functools import partial

import torch
from torch import nn
from torch.utils.benchmark import Timer

from vitals.data.images import ImageList
from vitals.models import training
from vitals.models.training import Examples, Recipe
from vitals.models.transform import Transform

STEPS = 2  # of a trial
WARMING = 1000  # epochs of the schedule that a trial is the beginning of: it has to warm up
LEAST_SECONDS = 0.5  # over which short steps are repeated


def minutes(
    model: nn.Module,
    transform: Transform,
    sample: ImageList,
    recipe: Recipe,
    images: int,
    device: torch.device,
) -> float:
    """Minutes of training on so many images: those of `STEPS` steps, times the steps there are.

    The model's weights are another's afterwards; sample: a few of the images, repeated to fill a
    batch. Reading the images and the accuracy at the end are left out.
    """
    steps = recipe.passes * -(-images // recipe.batch)
    trial = replace(recipe, epochs=WARMING, stop_after=1)
    with contextlib.redirect_stderr(io.StringIO()):  # a trial announces no work
        few = training.examples(sample, transform)
        rows = torch.arange(STEPS * recipe.batch) % len(few.labels)
        part = Examples(few.pixels[rows], few.labels[rows])
        train = partial(training.train, model, part, transform, trial, device)
        timer = Timer("train()", globals={"train": train}, num_threads=torch.get_num_threads())
        seconds = timer.blocked_autorange(min_run_time=LEAST_SECONDS).median
    return seconds / STEPS * steps / 60
