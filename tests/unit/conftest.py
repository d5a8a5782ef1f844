"""Small random models of each kind, and a short list of real images, for the tests of the rooms."""

from pathlib import Path

import pytest

ARCHITECTURE = "vit_tiny_patch16_224"
OPTIONS = {
    "img_size": 8,
    "patch_size": 2,
    "in_chans": 1,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 2,
}
SHAPE = (1, 8, 8)

# what makes each family different from the plain one, and the tokens in front of its patches
FAMILIES = {
    "plain": ({}, ["cls"]),
    "registers": ({"reg_tokens": 3}, ["cls", "register", "register", "register"]),
    "no_embed_class": ({"no_embed_class": True, "reg_tokens": 1}, ["cls", "register"]),
    "gap": ({"class_token": False, "global_pool": "avg"}, []),
    "gap_norm": ({"class_token": False, "global_pool": "avg", "fc_norm": False}, []),
    "fc_norm": ({"fc_norm": True}, ["cls"]),
    "no_norm": ({"final_norm": False}, ["cls"]),
    "no_position": ({"pos_embed": "none"}, ["cls"]),
    "pre_norm": ({"pre_norm": True}, ["cls"]),
    "dynamic": ({"dynamic_img_size": True}, ["cls"]),
    "qk_norm": ({"qk_norm": True, "init_values": 0.1}, ["cls"]),
}


@pytest.fixture(scope="session")
def small_options():
    """The options of the small model: 8×8 grey images, 16 patches, 2 blocks of width 16."""
    return dict(OPTIONS)


@pytest.fixture(scope="session")
def small_vit():
    """A small timm VisionTransformer with every parameter at random, by what differs from plain."""
    import torch

    from vitals.models import build

    def make(seed=0, classes=10, **options):
        model = build.create(ARCHITECTURE, {**OPTIONS, **options}, classes, SHAPE)
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():  # timm leaves norms at 1 and biases at 0
            with torch.no_grad():
                parameter.normal_(std=0.3, generator=generator)
        return model

    return make


@pytest.fixture(params=FAMILIES)
def family(request, small_vit):
    """A model of each family: (model, options that differ, kinds of its prefix tokens)."""
    options, prefix = FAMILIES[request.param]
    return small_vit(**options), options, prefix


@pytest.fixture(scope="session")
def images_file(tmp_path_factory) -> Path:
    """images.parquet of the first 60 digits: about 42 to fit, 18 to test."""
    from vitals.data import images

    path = tmp_path_factory.mktemp("images") / "images.parquet"
    settings = {"dataset": "digits", "test_share": 0.3, "seed": 0, "limit": 60}
    images.write(images.build(settings), path, settings, "{}", "code")
    return path


@pytest.fixture
def digit_list(images_file):
    """The image list of `images_file`."""
    from vitals.data import images

    return images.read(images_file)
