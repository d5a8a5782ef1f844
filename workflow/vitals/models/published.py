"""The top-1 accuracy that is published for weights, on the whole validation set of ImageNet-1k."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TIMM_SOURCE = "timm, results/results-imagenet.csv of 30 October 2025 (commit 4e5207c)"
TORCHVISION_SOURCE = "torchvision, the weights' own metadata"

# Side of the images in pixels, share that the crop leaves of the scaled picture, top-1 in percent.
TIMM = {
    "deit3_base_patch16_224.fb_in1k": (224, 0.9, 83.8),
    "deit3_base_patch16_224.fb_in22k_ft_in1k": (224, 1, 85.728),
    "deit3_base_patch16_384.fb_in1k": (384, 1, 85.088),
    "deit3_base_patch16_384.fb_in22k_ft_in1k": (384, 1, 86.742),
    "deit3_huge_patch14_224.fb_in1k": (224, 0.9, 85.204),
    "deit3_huge_patch14_224.fb_in22k_ft_in1k": (224, 1, 87.18),
    "deit3_large_patch16_224.fb_in1k": (224, 0.9, 84.772),
    "deit3_large_patch16_224.fb_in22k_ft_in1k": (224, 1, 86.99),
    "deit3_large_patch16_384.fb_in1k": (384, 1, 85.82),
    "deit3_large_patch16_384.fb_in22k_ft_in1k": (384, 1, 87.736),
    "deit3_medium_patch16_224.fb_in1k": (224, 0.9, 83.09),
    "deit3_medium_patch16_224.fb_in22k_ft_in1k": (224, 1, 84.55),
    "deit3_small_patch16_224.fb_in1k": (224, 0.9, 81.382),
    "deit3_small_patch16_224.fb_in22k_ft_in1k": (224, 1, 83.082),
    "deit3_small_patch16_384.fb_in1k": (384, 1, 83.432),
    "deit3_small_patch16_384.fb_in22k_ft_in1k": (384, 1, 84.846),
    "vit_base_patch16_224.augreg2_in21k_ft_in1k": (224, 0.9, 85.108),
    "vit_base_patch16_224.augreg_in1k": (224, 0.9, 79.154),
    "vit_base_patch16_224.augreg_in21k_ft_in1k": (224, 0.9, 84.534),
    "vit_base_patch16_224.orig_in21k_ft_in1k": (224, 0.9, 81.782),
    "vit_base_patch16_224.sam_in1k": (224, 0.9, 80.246),
    "vit_base_patch16_384.augreg_in1k": (384, 1, 81.102),
    "vit_base_patch16_384.augreg_in21k_ft_in1k": (384, 1, 86.01),
    "vit_base_patch16_384.orig_in21k_ft_in1k": (384, 1, 84.212),
    "vit_base_patch16_clip_224.laion2b_ft_in12k_in1k": (224, 0.95, 86.204),
    "vit_base_patch16_clip_224.laion2b_ft_in1k": (224, 1, 85.488),
    "vit_base_patch16_clip_224.openai_ft_in12k_in1k": (224, 0.95, 85.954),
    "vit_base_patch16_clip_224.openai_ft_in1k": (224, 0.9, 85.282),
    "vit_base_patch16_clip_384.laion2b_ft_in12k_in1k": (384, 1, 87.21),
    "vit_base_patch16_clip_384.laion2b_ft_in1k": (384, 1, 86.638),
    "vit_base_patch16_clip_384.openai_ft_in12k_in1k": (384, 0.95, 87.03),
    "vit_base_patch16_clip_384.openai_ft_in1k": (384, 1, 86.21),
    "vit_base_patch32_224.augreg_in1k": (224, 0.9, 74.908),
    "vit_base_patch32_224.augreg_in21k_ft_in1k": (224, 0.9, 80.732),
    "vit_base_patch32_224.sam_in1k": (224, 0.9, 73.704),
    "vit_base_patch32_384.augreg_in1k": (384, 1, 78.75),
    "vit_base_patch32_384.augreg_in21k_ft_in1k": (384, 1, 83.358),
    "vit_base_patch32_clip_224.laion2b_ft_in12k_in1k": (224, 0.9, 83.304),
    "vit_base_patch32_clip_224.laion2b_ft_in1k": (224, 0.9, 82.614),
    "vit_base_patch32_clip_224.openai_ft_in1k": (224, 0.9, 81.944),
    "vit_base_patch32_clip_384.laion2b_ft_in12k_in1k": (384, 1, 85.398),
    "vit_base_patch32_clip_384.openai_ft_in12k_in1k": (384, 0.95, 85.218),
    "vit_large_patch16_224.augreg_in21k_ft_in1k": (224, 0.9, 85.856),
    "vit_large_patch16_384.augreg_in21k_ft_in1k": (384, 1, 87.096),
    "vit_large_patch32_384.orig_in21k_ft_in1k": (384, 1, 81.508),
    "vit_small_patch16_224.augreg_in1k": (224, 0.9, 78.842),
    "vit_small_patch16_224.augreg_in21k_ft_in1k": (224, 0.9, 81.402),
    "vit_small_patch16_384.augreg_in1k": (384, 1, 81.13),
    "vit_small_patch16_384.augreg_in21k_ft_in1k": (384, 1, 83.814),
    "vit_small_patch32_224.augreg_in21k_ft_in1k": (224, 0.9, 76.01),
    "vit_small_patch32_384.augreg_in21k_ft_in1k": (384, 1, 80.476),
    "vit_tiny_patch16_224.augreg_in21k_ft_in1k": (224, 0.9, 75.452),
    "vit_tiny_patch16_384.augreg_in21k_ft_in1k": (384, 1, 78.438),
}


@dataclass(frozen=True)
class PublishedAccuracy:
    """Top-1 in percent, how images were prepared for it (by timm's names), and who says so."""

    top1: float
    preparation: Mapping[str, Any]
    source: str

    def holds(self, transform: Mapping[str, Any]) -> bool:
        """Whether images prepared by this transform are prepared as for the published value."""
        size = self.preparation["img_size"]
        return tuple(transform["size"][1:]) == (size, size) and all(
            transform[key] == self.preparation[key] for key in ("crop_pct", "interpolation")
        )


def of_timm(name: str) -> PublishedAccuracy | None:
    """What timm publishes for an architecture with a tag; None where it is not known here.

    >>> of_timm("vit_base_patch16_224.augreg_in21k_ft_in1k").top1
    84.534
    """
    if name not in TIMM:
        return None
    size, crop_pct, top1 = TIMM[name]
    preparation = {"img_size": size, "crop_pct": crop_pct, "interpolation": "bicubic"}
    return PublishedAccuracy(top1, preparation, TIMM_SOURCE)
