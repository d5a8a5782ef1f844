"""What weights leave without a value is seen, and nothing else is."""

import pytest
import torch
from torch import nn

from vitals.models import build
from vitals.models.filled import Filled

ARCHITECTURES = [
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "eva02_tiny_patch14_224",
    "beit_base_patch16_224",
    "vit_relpos_small_patch16_224",
    "vit_tiny_r_s16_p8_224",
]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_that_was_only_drawn_at_random_is_missing_everything(architecture):
    with Filled() as filled:
        model = build.create(architecture, {"depth": 1, "embed_dim": 24, "num_heads": 2}, 3)
    floating = [name for name, v in model.state_dict().items() if v.is_floating_point()]
    assert filled.missing(model) == floating


def test_what_a_state_gives_is_not_missing():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    state = model.state_dict()
    del state["1.running_mean"], state["0.bias"]
    with Filled() as filled:
        model.load_state_dict(state, strict=False)
    assert filled.missing(model) == ["0.bias", "1.running_mean"]


def test_nothing_is_seen_before_or_after():
    model = nn.Linear(2, 3)
    model.load_state_dict(model.state_dict())
    with Filled() as filled, torch.no_grad():
        model.bias.copy_(torch.zeros(3))
    model.load_state_dict(model.state_dict())
    assert filled.missing(model) == ["weight"]
