"""One small model of each family that can be tapped, and how far its taps are from timm's own.

Every parameter is at random, so that no part can be left out unnoticed; the images are not square,
so that rows and columns cannot be exchanged.
"""

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from vitals.activations import capture, layout
from vitals.models.anatomy import Anatomy, anatomy

# isort: split
import timm

DEPTH = 3
SMALL = {
    "img_size": (32, 48),
    "patch_size": 8,
    "embed_dim": 32,
    "depth": DEPTH,
    "num_heads": 4,
    "num_classes": 10,
}
IMAGES = 3


@dataclass(frozen=True)
class Family:
    """An architecture of timm, what makes it small, and the kinds of its learned tokens in front.

    attention: whether its maps can be caught; heads: of a block.
    """

    architecture: str
    options: dict = field(default_factory=dict)
    prefix: tuple[str, ...] = ("cls",)
    attention: bool = True
    heads: int = 4


REGISTERS = ("register",)
FAMILIES = {
    "vit": Family("vit_small_patch16_224"),
    "vit, no final norm": Family("vit_small_patch16_224", {"final_norm": False}),
    "vit, no classifier": Family("vit_small_patch16_224", {"num_classes": 0}),
    "vit, no pooling": Family("vit_small_patch16_224", {"num_classes": 0, "global_pool": ""}),
    "vit, any image size": Family("vit_small_patch16_224", {"dynamic_img_size": True}),
    "vit, padded images": Family(
        "vit_small_patch16_224",
        {"dynamic_img_size": True, "dynamic_img_pad": True, "img_size": (30, 45)},
    ),
    "vit, dropout": Family(
        "vit_small_patch16_224",
        {
            "patch_drop_rate": 0.5,
            "pos_drop_rate": 0.5,
            "attn_drop_rate": 0.5,
            "drop_path_rate": 0.5,
            "drop_rate": 0.5,
        },
    ),
    "vit, gap": Family(
        "vit_base_patch16_siglip_gap_224", {"global_pool": "avg", "num_classes": 10}, ()
    ),
    "vit, [CLS] and gap": Family("vit_small_patch16_224", {"global_pool": "avg"}),
    "vit, registers and gap": Family("test_vit4", {}, REGISTERS),
    "vit, scaled norms": Family(
        "vit_small_patch16_224",
        {"scale_attn_norm": True, "scale_mlp_norm": True, "qk_norm": True},
    ),
    "flexivit": Family("flexivit_small", prefix=("cls",)),
    "deit, distilled": Family("deit_small_distilled_patch16_224", prefix=("cls", "distillation")),
    "deit3": Family("deit3_small_patch16_224"),
    "dinov2, registers": Family(
        "vit_small_patch14_reg4_dinov2", {"num_classes": 0}, ("cls", *REGISTERS * 4)
    ),
    "siglip (map)": Family("vit_base_patch16_siglip_224", {"num_classes": 0}, ()),
    "map with its prefix": Family("test_vit3", {}, REGISTERS),
    "prr": Family("vit_small_patch16_224", {"global_pool": "prr"}),
    "clip": Family("vit_base_patch16_clip_quickgelu_224"),
    "aimv2": Family("aimv2_large_patch14_224", prefix=()),
    "vit, norm last": Family("vit_base_patch16_rpn_224", prefix=()),
    "parallel (xp)": Family("vit_base_patch16_xp_224"),
    "parallel, 2 × 18": Family("vit_small_patch16_18x2_224", heads=8),
    "parallel, differential": Family(
        "vit_dpwee_patch16_reg1_gap_256", prefix=REGISTERS, attention=False
    ),
    "differential": Family("vit_dwee_patch16_reg1_gap_256", prefix=REGISTERS, attention=False),
    "hybrid": Family("vit_tiny_r_s16_p8_224", {"img_size": (64, 96), "patch_size": 4}),
    "vitamin": Family(
        "vitamin_small_224",
        {"img_size": (64, 96), "patch_size": 1, "embed_dim": 384, "num_heads": 6},
        (),
        heads=6,
    ),
    "eva": Family("eva_large_patch14_196"),
    "eva02": Family("eva02_small_patch14_224"),
    "eva02, any image size": Family("eva02_small_patch14_224", {"dynamic_img_size": True}),
    "eva02, clip": Family("eva02_base_patch16_clip_224"),
    "eva02, norm last": Family("eva02_enormous_patch14_clip_224"),
    "dinov3": Family("vit_small_patch16_dinov3", {}, ("cls", *REGISTERS * 4)),
    "dinov3, q k v": Family("vit_small_patch16_dinov3_qkvb", {}, ("cls", *REGISTERS * 4)),
    "perception encoder": Family("vit_pe_core_small_patch16_384", {"num_classes": 10}),
    "rope": Family("vit_medium_patch16_rope_reg1_gap_256", {}, REGISTERS),
    "rope, mixed": Family("vit_small_patch16_rope_mixed_ape_224"),
    "grouped keys (sapiens2)": Family(
        "vit_base_patch16_sapiens2", {"num_kv_heads": 2}, ("cls", *REGISTERS * 8)
    ),
    "beit": Family("beit_base_patch16_224"),
    "beit, one table": Family(
        "beit_base_patch16_224",
        {
            "use_abs_pos_emb": True,
            "use_rel_pos_bias": False,
            "use_shared_rel_pos_bias": True,
            "global_pool": "token",
        },
    ),
    "beitv2": Family("beitv2_base_patch16_224"),
    "relative positions": Family("vit_relpos_small_patch16_224", prefix=()),
    "relative, [CLS]": Family("vit_relpos_medium_patch16_cls_224"),
    "relative, one for all": Family("vit_srelpos_small_patch16_224", prefix=()),
    "relative, norm last": Family("vit_relpos_small_patch16_rpn_224", prefix=()),
    "sam": Family(
        "samvit_base_patch16",
        {"window_size": 3, "global_attn_indexes": (1,), "neck_chans": 16},
        (),
        attention=False,
    ),
    "sam, no neck": Family("samvit_base_patch16_224", {"window_size": 3}, (), attention=False),
    "cait": Family("cait_xxs24_224", {"init_values": 0.1}, (), attention=False),
    "naflexvit (map)": Family("naflexvit_base_patch16_map", prefix=REGISTERS),
    "naflexvit, factorized": Family("naflexvit_base_patch16_parfac_gap", {}, REGISTERS * 4),
    "naflexvit, own grid": Family(
        "naflexvit_base_patch16_gap", {"pos_embed_grid_size": (4, 6)}, REGISTERS * 4
    ),
}


def make(name: str, seed: int = 0, **options) -> torch.nn.Module:
    """The small model of a family, each parameter at random, in evaluation mode."""
    family = FAMILIES[name]
    model = timm.create_model(family.architecture, **{**SMALL, **family.options, **options})
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        weight = parameter.ndim > 1 and parameter.shape[0] > 1
        scale = name.endswith("weight") and parameter.ndim == 1
        with torch.no_grad():
            # attention is then neither uniform nor on one token
            parameter.normal_(
                std=parameter[0].numel() ** -0.5 if weight else 0.3, generator=generator
            )
            parameter.add_(scale)
    return model.eval()


def images_for(body: Anatomy, count: int = IMAGES) -> torch.Tensor:
    """Random images of the shape that a model takes."""
    return torch.randn(count, *body.image_shape, generator=torch.Generator().manual_seed(1))


def run(model: torch.nn.Module, sub_blocks: bool = False, attention: bool = True) -> capture.Pass:
    """One pass with the attention of every image head by head."""
    body = anatomy(model)
    taps = capture.Taps(sub_blocks, attention)
    images = images_for(body)
    every = torch.arange(len(images))
    return capture.forward(model, body, layout.roles(body), images, every, taps)


@torch.inference_mode()
def states_by_timm(model: torch.nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """The states that timm's own methods give, by the names of the taps."""
    body = anatomy(model)
    wanted = {"indices": DEPTH, "norm": False, "intermediates_only": True}
    if body.prefix_tokens:
        wanted["return_prefix_tokens"] = True
    found = {}
    for number, parts in enumerate(model.forward_intermediates(images, **wanted)):
        patches, *prefix = parts if isinstance(parts, tuple) else (parts,)
        tokens = patches.flatten(2).mT  # (image, channel, row, column) -> (image, token, channel)
        found[f"block.{number}"] = torch.cat([*prefix, tokens], dim=1)
    if body.norm is not None:
        found["norm"] = model.forward_features(images)
    return found


@torch.inference_mode()
def attention_unfused(model: torch.nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """The probabilities that timm itself computes without the fused kernel, in order of the calls.

    (image, head, query, key) each.
    """
    unfused = copy.deepcopy(model)
    found: list[torch.Tensor] = []
    for module in unfused.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    for name, module in unfused.named_modules():
        if name.startswith("blocks.") and name.endswith("attn_drop"):
            module.register_forward_hook(lambda module, inputs, output: found.append(output))
    unfused(images)
    return found


@dataclass(frozen=True)
class Differences:
    """The largest differences of a family from timm; NaN where there is nothing to compare."""

    tokens: str
    taps: int
    attention: float
    state: float
    logits: float
    position: float
    head: float


def measure(name: str, model: torch.nn.Module) -> Differences:
    """How far what the taps see of a family is from what timm gives."""
    body, seen = anatomy(model), run(model)
    images = images_for(body)
    with torch.inference_mode():
        plain, last = model(images), seen.states[body.layers()[-1]]
        head = body.classify(last)
    capture.check_replay(body, seen, name)
    counts = Counter(body.kinds)
    return Differences(
        tokens=", ".join(f"{count} {kind}" for kind, count in counts.items()),
        taps=len(seen.states),
        attention=_attention_difference(model, body, seen, images),
        state=max(
            largest(seen.states[layer], expected)
            for layer, expected in states_by_timm(model, images).items()
        ),
        logits=largest(seen.logits, plain),
        position=_position_difference(body, seen),
        head=largest(head, plain),
    )


def largest(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference between tensors of one shape."""
    assert found.shape == expected.shape
    return (found - expected).abs().max().item()


def _attention_difference(model, body, seen, images) -> float:
    if body.attention_absent is not None:
        return float("nan")
    calls = attention_unfused(model, images)
    each = body.attention_calls
    blocks = [torch.cat(calls[i : i + each], dim=1) for i in range(0, len(calls), each)]
    assert len(blocks) == len(seen.attention_heads) == DEPTH
    return max(map(largest, seen.attention_heads, blocks))


def _position_difference(body, seen) -> float:
    if "position_embedding" not in body.parameters:
        return float("nan")
    after = seen.states["norm_pre" if body.norm_pre is not None else "position"]
    return largest(seen.states["embed"] + body.parameters["position_embedding"], after)


def table() -> Iterator[tuple[str, Differences]]:
    """Every family with its largest differences."""
    for name in FAMILIES:
        yield name, measure(name, make(name))
