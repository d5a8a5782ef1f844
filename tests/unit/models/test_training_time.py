"""The time of a training: that of a few steps, times the steps there are."""

from types import SimpleNamespace

import pytest
import torch

from vitals.data import images as image_lists
from vitals.models import build, training_time
from vitals.models.training import Recipe

RECIPE = Recipe(
    epochs=8, batch=16, learning_rate=0.01, weight_decay=0.05, warmup=0.2, smoothing=0.0, seed=0
)


@pytest.fixture
def estimate(monkeypatch, images_file, small_options):
    """Minutes of a recipe on so many images, where a trial takes 20 ms."""
    trials = []

    class Timer:
        def __init__(self, statement, globals, num_threads):
            trials.append(globals["train"])

        def blocked_autorange(self, min_run_time):
            trials[-1]()
            return SimpleNamespace(median=0.02)

    monkeypatch.setattr(training_time, "Timer", Timer)
    listed = image_lists.read(images_file)
    model = build.create("vit_tiny_patch16_224", small_options, len(listed.classes), listed.shape)

    def minutes(images, **changes):
        recipe = Recipe(**{**vars(RECIPE), **changes})
        how, device = build.transform(model), torch.device("cpu")
        found = training_time.minutes(model, how, listed.rows(0, 10), recipe, images, device)
        few = trials[-1].args[1]
        assert len(few.labels) == 2 * RECIPE.batch  # two steps, of ten images over again
        return found

    return minutes


def test_it_is_that_of_all_steps_found_from_two(estimate):
    assert estimate(100) * 60 == pytest.approx(8 * 7 * 0.01)  # 7 steps an epoch


def test_a_training_that_stops_early_takes_less(estimate):
    assert estimate(100, stop_after=2) * 60 == pytest.approx(2 * 7 * 0.01)
    assert estimate(100, stop_after=0) == 0


def test_nothing_is_announced(estimate, capsys):
    estimate(100)
    assert capsys.readouterr().err == ""
