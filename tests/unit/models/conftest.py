"""A small model's weights as others publish theirs, by their own names, and a hub without a net."""

import json

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

SHORTER = {  # of Google's arrays in Big Vision, where their augreg ones have the other numbers
    "MultiHeadDotProductAttention_1": "MultiHeadDotProductAttention_0",
    "LayerNorm_2": "LayerNorm_1",
    "MlpBlock_3": "MlpBlock_0",
}


def augreg(model):
    """Google's arrays of a VisionTransformer, as those of augreg are: name -> array."""
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    arrays = {
        "cls": state["cls_token"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
    }
    if "head.weight" in state:
        arrays["head/kernel"] = state["head.weight"].T
        arrays["head/bias"] = state["head.bias"]
    for block in range(len(model.blocks)):
        own = {
            name.removeprefix(f"blocks.{block}."): value
            for name, value in state.items()
            if name.startswith(f"blocks.{block}.")
        }
        for name, value in _block(own, model.blocks[block].attn.num_heads).items():
            arrays[f"Transformer/encoderblock_{block}/{name}"] = value
    return arrays


def _block(state, heads):
    channels = state["attn.proj.bias"].size
    by_head = (heads, channels // heads)
    found = {}
    for role, place in (("query", 0), ("key", 1), ("value", 2)):
        rows = slice(place * channels, (place + 1) * channels)
        attention = f"MultiHeadDotProductAttention_1/{role}"
        found[f"{attention}/kernel"] = state["attn.qkv.weight"][rows].T.reshape(channels, *by_head)
        found[f"{attention}/bias"] = state["attn.qkv.bias"][rows].reshape(by_head)
    out = "MultiHeadDotProductAttention_1/out"
    found[f"{out}/kernel"] = state["attn.proj.weight"].T.reshape(*by_head, channels)
    found[f"{out}/bias"] = state["attn.proj.bias"]
    for norm, own in (("LayerNorm_0", "norm1"), ("LayerNorm_2", "norm2")):
        found[f"{norm}/scale"] = state[f"{own}.weight"]
        found[f"{norm}/bias"] = state[f"{own}.bias"]
    for dense, own in (("Dense_0", "mlp.fc1"), ("Dense_1", "mlp.fc2")):
        found[f"MlpBlock_3/{dense}/kernel"] = state[f"{own}.weight"].T
        found[f"MlpBlock_3/{dense}/bias"] = state[f"{own}.bias"]
    return found


def optimised(model):
    """The same with the prefix that a training run leaves."""
    return {f"opt/target/{name}": value for name, value in augreg(model).items()}


def big_vision(model):
    """The same as Big Vision names them."""
    renamed = {}
    for name, value in augreg(model).items():
        for old, new in SHORTER.items():
            name = name.replace(old, new)
        renamed[f"params/{name}"] = value
    positions = renamed.pop("params/Transformer/posembed_input/pos_embedding")
    return {**renamed, "params/pos_embedding": positions}


def scanned(model):
    """The same as Big Vision stacks blocks: one array of all of them, (block, ...)."""
    arrays, blocks = big_vision(model), len(model.blocks)
    stacked = {name: value for name, value in arrays.items() if "encoderblock_" not in name}
    for name in arrays:
        if "encoderblock_0/" in name:
            parts = [arrays[name.replace("_0/", f"_{block}/", 1)] for block in range(blocks)]
            stacked[name.replace("encoderblock_0/", "encoderblock/")] = np.stack(parts)
    return stacked


def dinov2(model):
    """Meta's DINOv2: a mask token, and registers without positions beside [CLS] with one."""
    state = dict(model.state_dict())
    state["mask_token"] = torch.zeros(1, model.embed_dim)
    if model.reg_token is not None:
        state["register_tokens"] = state.pop("reg_token")
        given = torch.full_like(state["cls_token"], 0.25)  # the position of [CLS]
        state["cls_token"] = state["cls_token"] - given
        state["pos_embed"] = torch.cat([given, state["pos_embed"]], dim=1)
    return state


def openai_clip(model):
    """OpenAI's CLIP: the projection is (channel, row), and there is a text model beside it."""
    swaps = {
        "patch_embed.proj": "conv1",
        "blocks.": "transformer.resblocks.",
        "norm_pre": "ln_pre",
        "norm1": "ln_1",
        "norm2": "ln_2",
        "attn.qkv.": "attn.in_proj_",
        "attn.proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    named = {"token_embedding.weight": torch.zeros(3, 2)}
    for name, value in model.state_dict().items():
        for own, theirs in swaps.items():
            name = name.replace(own, theirs)
        named[f"visual.{name.replace('norm.', 'ln_post.')}"] = value
    named["visual.class_embedding"] = named.pop("visual.cls_token")[0, 0]
    named["visual.positional_embedding"] = named.pop("visual.pos_embed")[0]
    if "visual.head.weight" in named:
        named["visual.proj"] = named.pop("visual.head.weight").T.contiguous()
        named.pop("visual.head.bias")  # CLIP has none: timm puts zeros
    return named


FORMATS = {
    "augreg.npz": augreg,
    "optimised.npz": optimised,
    "big_vision.npz": big_vision,
    "scanned.npz": scanned,
    "own.safetensors": lambda model: model.state_dict(),
    "own.pth": lambda model: model.state_dict(),
    "dinov2.pth": dinov2,
    "openai_clip.pth": openai_clip,
}


@pytest.fixture
def weights_file(tmp_path):
    """Write a model's weights in a format of `FORMATS`, with changes to the names; the file."""

    def write(model, name, change=lambda tensors: tensors):
        tensors, file = change(FORMATS[name](model)), tmp_path / name
        if file.suffix == ".npz":
            np.savez(file, **tensors)
        elif file.suffix == ".pth":
            torch.save(tensors, file)
        else:
            save_file(tensors, file)
        return file

    return write


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Put a repository into an otherwise empty cache of the hub, and be offline.

    `hub(name, model, config, revision)` keeps it at `COMMIT`, to which the revision points.
    """
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def put(name, model, config=None, revision="main"):
        repository = cache / f"models--{name.replace('/', '--')}"
        snapshot = repository / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs" / revision).write_text(COMMIT)
        save_file(model.state_dict(), snapshot / "model.safetensors")
        if config is not None:
            (snapshot / "config.json").write_text(json.dumps(config))

    return put
