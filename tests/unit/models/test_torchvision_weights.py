"""torchvision's Vision Transformers are timm's under other names, and see the same images."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

import vitals.models.torchvision_operators  # noqa: F401  (must come before torchvision)

# isort: split
from torchvision.models import VisionTransformer, get_model, get_model_weights, list_models

from vitals.errors import VitalsError
from vitals.models import build, checkpoints, torchvision_weights
from vitals.models.checkpoints import Checkpoint
from vitals.models.registry import PRETRAINED, TRAINED, check_architecture, torchvision_tags

B_16 = "torchvision:vit_b_16.IMAGENET1K_V1"
L_16 = "torchvision:vit_l_16.IMAGENET1K_V1"
EVERY = [f"torchvision:{name}.{tag}" for name, found in torchvision_tags().items() for tag in found]
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 4}
SMALL |= {"mlp_ratio": 2}


def drawn(model):
    """A model with every parameter at random."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.normal_(std=0.3, generator=generator)
    return model.eval()


def small(classes=5):
    """A small Vision Transformer of torchvision, as its vit_b_16 is built."""
    return drawn(VisionTransformer(32, 8, 3, 4, 24, 48, num_classes=classes))


def published_names(state):
    """The names in torchvision's files, which are older than its code."""
    return {
        name.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): value
        for name, value in state.items()
    }


@pytest.mark.parametrize("names", [dict, published_names])
def test_the_converted_model_gives_the_same_logits(tmp_path, names):
    theirs, file = small(), tmp_path / "vit.pth"
    torch.save(names(theirs.state_dict()), file)
    read = partial(torchvision_weights.tensors, torchvision_weights.weights_of(B_16), file)
    found = Checkpoint(B_16, "vit_base_patch16_224", {}, 5, None, file, tensors=read)
    ours = build.load_weights(found, SMALL)
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        in_double = ours.double()(images.double()), theirs.double()(images.double())
    assert in_double[1].std() > 0.1
    torch.testing.assert_close(*in_double, rtol=0, atol=1e-12)


def test_a_model_of_full_size_has_every_parameter_of_timms():
    with torch.device("meta"):
        theirs = get_model("vit_b_16")
    ours = build.skeleton(B_16, {})
    shapes = {name: value.shape for name, value in ours.state_dict().items()}
    renamed = torchvision_weights.renamed(theirs.state_dict())
    assert {name: value.shape for name, value in renamed.items()} == shapes


@pytest.mark.parametrize("name", EVERY)
def test_every_published_entry_has_its_architecture_and_size(name):
    found = checkpoints.find(name)
    skeleton = build.skeleton(name, {})
    side = found.preparation["input_size"][-1]
    assert build.transform(skeleton).size == (3, side, side)
    assert (found.rows, found.classes.names[0]) == (1000, "n01440764")


@pytest.mark.parametrize("name", [B_16, L_16, "torchvision:vit_l_16.IMAGENET1K_SWAG_E2E_V1"])
def test_images_are_prepared_bit_for_bit_as_torchvision_prepares_them(name):
    transform = build.transform(build.skeleton(name, {}))
    preset = torchvision_weights.weights_of(name).transforms()
    noise = np.random.default_rng(0).integers(0, 256, (427, 640, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    ours = transform(torch.from_numpy(transform.prepare(picture))[None])[0]
    assert torch.equal(ours, preset(picture))


def test_the_names_are_all_that_torchvision_has():
    assert set(torchvision_tags()) == set(list_models(include="vit_*"))
    for name, tags in torchvision_tags().items():
        published = get_model_weights(name)
        assert set(tags) == {entry.name for entry in published}
        assert name in torchvision_weights.ARCHITECTURES


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("torchvision:vit_b_61.IMAGENET1K_V1", PRETRAINED, "vit_b_61': did you mean 'vit_b_16'"),
        ("torchvision:vit_b_16", PRETRAINED, "torchvision:vit_b_16: '': .*IMAGENET1K_V1"),
        ("torchvision:vit_b_16.V1", "own.pth", "torchvision:vit_b_16: 'V1'.*IMAGENET1K_V1"),
        (B_16, TRAINED, "names weights: expected weights: pretrained, or the path of their file"),
    ],
)
def test_other_names_are_refused(name, weights, message):
    with pytest.raises(VitalsError, match=rf"\A[^\n]*{message}[^\n]*\Z"):
        check_architecture(name, weights)


def test_a_file_that_is_not_torchvisions_is_refused_by_the_name_of_a_parameter(tmp_path):
    file = tmp_path / "own.pth"
    torch.save({"blocks.0.norm1.weight": torch.zeros(2)}, file)
    with pytest.raises(VitalsError, match=r"'blocks.0.norm1.weight' is no parameter of"):
        build.load_weights(checkpoints.find(B_16, file), {})


def test_the_published_accuracy_is_torchvisions_own():
    assert [checkpoints.find(name).published.top1 for name in (B_16, L_16)] == [81.072, 79.662]
