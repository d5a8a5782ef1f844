"""torchvision's Vision Transformers as timm's: the same weights under timm's names.

torchvision's `vit_b_16` and its sisters are timm's `vit_base_patch16_224` and its sisters, with
other names of their parameters and images prepared in another way.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import vitals.models.torchvision_operators  # noqa: F401  (must come before timm)

# isort: split
import torch
import torchvision
from torch import Tensor
from torchvision.models import WeightsEnum

from vitals.errors import VitalsError
from vitals.models.published import TORCHVISION_SOURCE, PublishedAccuracy
from vitals.models.registry import TORCHVISION

ARCHITECTURES = {
    "vit_b_16": "vit_base_patch16_224",
    "vit_b_32": "vit_base_patch32_224",
    "vit_l_16": "vit_large_patch16_224",
    "vit_l_32": "vit_large_patch32_224",
    "vit_h_14": "vit_huge_patch14_224",
}
OUTSIDE = {
    "class_token": "cls_token",
    "encoder.pos_embedding": "pos_embed",
    "conv_proj.": "patch_embed.proj.",
    "encoder.ln.": "norm.",
    "heads.head.": "head.",
}
WITHIN = {  # a block; its MLP has the second names since torchvision 0.13, its files the first
    "ln_1.": "norm1.",
    "self_attention.in_proj_": "attn.qkv.",
    "self_attention.out_proj.": "attn.proj.",
    "ln_2.": "norm2.",
    "mlp.linear_1.": "mlp.fc1.",
    "mlp.linear_2.": "mlp.fc2.",
    "mlp.0.": "mlp.fc1.",
    "mlp.3.": "mlp.fc2.",
}
BLOCK = re.compile(r"encoder\.layers\.encoder_layer_(\d+)\.(.+)")


def weights_of(name: str) -> WeightsEnum:
    """torchvision's own entry of published weights; name: "torchvision:vit_b_16.IMAGENET1K_V1"."""
    architecture, _, tag = name.removeprefix(TORCHVISION).partition(".")
    return torchvision.models.get_model_weights(architecture)[tag]


def architecture(name: str) -> str:
    """timm's architecture of such a name."""
    return ARCHITECTURES[name.removeprefix(TORCHVISION).partition(".")[0]]


def preparation(weights: WeightsEnum) -> dict[str, Any]:
    """How images are prepared for published weights, in the words of timm's configurations."""
    preset = weights.transforms()
    (crop,), (side,) = preset.crop_size, preset.resize_size
    return {
        "input_size": (len(preset.mean), crop, crop),
        "crop_pct": crop / side,
        "crop_mode": "center",
        "interpolation": preset.interpolation.value,
        "mean": tuple(preset.mean),
        "std": tuple(preset.std),
    }


def accuracy(weights: WeightsEnum) -> PublishedAccuracy:
    """The top-1 that torchvision says of published weights."""
    prepared = preparation(weights)
    size = prepared["input_size"][-1]
    return PublishedAccuracy(
        weights.meta["_metrics"]["ImageNet-1K"]["acc@1"],
        {"img_size": size, **{key: prepared[key] for key in ("crop_pct", "interpolation")}},
        TORCHVISION_SOURCE,
    )


def tensors(weights: WeightsEnum, file: Path | None) -> dict[str, Tensor]:
    """Published weights by timm's names: of a file, or without one through torch's cache."""
    if file is None:
        return renamed(weights.get_state_dict(progress=False, check_hash=True))
    return renamed(torch.load(file, map_location="cpu", weights_only=True))


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a torchvision VisionTransformer by timm's names, none of them changed.

    Raises VitalsError for a name that such a model has not.
    """
    return {timm_name(name): value for name, value in state.items()}


def timm_name(name: str) -> str:
    """timm's name of a parameter of torchvision's.

    >>> timm_name("encoder.layers.encoder_layer_3.self_attention.in_proj_bias")
    'blocks.3.attn.qkv.bias'
    """
    block = BLOCK.fullmatch(name)
    prefix, rest, names = ("", name, OUTSIDE)
    if block:
        prefix, rest, names = f"blocks.{block[1]}.", block[2], WITHIN
    for theirs, ours in names.items():
        if rest == theirs or (theirs.endswith((".", "_")) and rest.startswith(theirs)):
            return prefix + ours + rest.removeprefix(theirs)
    raise VitalsError(f"'{name}' is no parameter of a Vision Transformer of torchvision")
