"""Models from settings and files: the same weights come back, and others are refused."""

import json

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from vitals.errors import VitalsError
from vitals.models import build, checkpoints

# isort: split
import timm
from timm.layers import resample_abs_pos_embed, set_fused_attn

ARCHITECTURE = "vit_tiny_patch16_224"
SHAPE = (1, 8, 8)
IMAGES = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0))


def one_line_error(message):
    """Expect a VitalsError that matches and has no second line."""
    return pytest.raises(VitalsError, match=rf"\A[^\n]*{message}[^\n]*\Z")


@pytest.fixture
def saved(tmp_path, small_vit, small_options):
    """A small model and the files that it was saved as: (model, weights, report)."""
    model = small_vit()
    weights, report = tmp_path / "model.safetensors", tmp_path / "model.json"
    about = {"built": {"architecture": ARCHITECTURE, "options": small_options}}
    build.save(model, about, weights, report)
    return model, weights, report


def test_a_saved_model_gives_the_same_logits_bit_for_bit(saved):
    model, weights, report = saved
    found, transform, about = build.load(weights, report)
    assert torch.equal(found(IMAGES), model(IMAGES))
    assert transform == build.transform(model)
    assert about["weights_digest"] == build.weights_digest(model)
    assert not found.training


@pytest.mark.parametrize(
    "architecture",
    [
        "vit_small_patch14_reg4_dinov2",
        "deit_tiny_distilled_patch16_224",
        "eva02_tiny_patch14_224",
        "vit_small_patch16_dinov3",
        "beit_base_patch16_224",
        "vit_srelpos_small_patch16_224",
        "vit_base_patch16_siglip_224",
        "vit_small_r26_s32_224",
    ],
)
def test_a_model_of_each_family_comes_back_bit_for_bit(architecture, tmp_path):
    options = {"depth": 2, "embed_dim": 48, "num_heads": 3}
    torch.manual_seed(0)
    model = build.create(architecture, options, 3)
    weights, report = tmp_path / "model.safetensors", tmp_path / "model.json"
    build.save(
        model, {"built": {"architecture": architecture, "options": options}}, weights, report
    )
    found, transform, _ = build.load(weights, report)
    images = torch.rand(1, *transform.size)
    assert torch.equal(found(images), model(images))


def test_saving_leaves_nothing_beside_the_two_files(saved):
    _, weights, report = saved
    assert set(weights.parent.iterdir()) == {weights, report}


def flip_a_bit(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (flip_a_bit, "does not hold the weights that .*model.json describes"),
        (lambda content: content[:-10], "cannot be read"),
        (lambda content: b"", "cannot be read"),
    ],
)
def test_weights_that_were_altered_are_refused(saved, change, message):
    _, weights, report = saved
    weights.write_bytes(change(weights.read_bytes()))
    with one_line_error(message):
        build.load(weights, report)


def test_weights_of_another_model_are_refused(saved, small_vit, tmp_path):
    _, weights, report = saved
    for other, message in ((small_vit(seed=1), "does not hold"), (small_vit(depth=3), "cannot be")):
        save_file(other.state_dict(), weights)
        with one_line_error(message):
            build.load(weights, report)


def test_the_digest_is_of_every_parameter_by_name(small_vit):
    model = small_vit()
    before = build.weights_digest(model)
    assert build.weights_digest(small_vit()) == before
    with torch.no_grad():
        model.blocks[1].attn.proj.bias[3] += 1e-6
    assert build.weights_digest(model) != before


def loaded(architecture, options, file=None):
    """The model of weights that were found."""
    return build.load_weights(checkpoints.find(architecture, file), options)


# What each format of weights is of: an architecture of timm, and what differs from the small model.
KINDS = {
    "augreg.npz": (ARCHITECTURE, {}),
    "optimised.npz": (ARCHITECTURE, {}),
    "big_vision.npz": (ARCHITECTURE, {}),
    "scanned.npz": (ARCHITECTURE, {}),
    "own.safetensors": (ARCHITECTURE, {"reg_tokens": 2, "qk_norm": True}),
    "own.pth": (ARCHITECTURE, {"reg_tokens": 2, "qk_norm": True}),
    "dinov2.pth": ("vit_small_patch14_dinov2", {"init_values": 0.1, "classes": 0}),
    "openai_clip.pth": ("vit_base_patch32_clip_224", {"classes": 12}),
}
REGISTERS = ("vit_small_patch14_reg4_dinov2", {"init_values": 0.1, "classes": 0})


@pytest.fixture
def of_kind(small_options):
    """A model of an architecture with every parameter at random, and the options to make it."""

    def make(architecture, changes):
        options = {**small_options, **changes}
        classes = options.pop("classes", 10)
        model = build.create(architecture, options, classes, SHAPE)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.3, generator=generator)
            if classes == 12:  # CLIP's projection has no bias
                model.head.bias.zero_()
        return model, options

    return make


@pytest.mark.parametrize(
    ("name", "kind"), [*KINDS.items(), ("dinov2.pth", REGISTERS)], ids=lambda value: value[0]
)
def test_a_file_gives_the_logits_of_the_model_it_came_from(of_kind, weights_file, name, kind):
    model, options = of_kind(*kind)
    found = loaded(kind[0], options, weights_file(model, name))
    # registers: [CLS] and its position are added and taken apart again
    assert torch.allclose(
        found(IMAGES), model(IMAGES), rtol=0, atol=1e-5 if kind is REGISTERS else 0
    )
    assert found.num_classes == model.num_classes
    assert not found.training


def lacking(word):
    """A change that takes the tensors with this word in their name out of a file."""
    return lambda tensors: {name: value for name, value in tensors.items() if word not in name}


@pytest.mark.parametrize(
    ("name", "lacks", "missing"),
    [
        ("augreg.npz", "encoderblock_1/LayerNorm_2/", "encoderblock_1/LayerNorm_2/scale"),
        ("augreg.npz", "head/kernel", "head/kernel"),
        ("own.safetensors", "blocks.1.norm2.bias", "Missing key.*blocks.1.norm2.bias"),
        ("own.pth", "cls_token", "Missing key.*cls_token"),
        ("own.pth", "head.bias", "Missing key.*head.bias"),
    ],
)
def test_a_file_that_lacks_a_part_is_refused(
    small_vit, small_options, weights_file, name, lacks, missing
):
    file = weights_file(small_vit(), name, lacking(lacks))
    with one_line_error(f"weights of {ARCHITECTURE} in {file} could not be loaded: .*{missing}"):
        loaded(ARCHITECTURE, small_options, file)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("own.pth", {"depth": 1}, "Unexpected key.*blocks.1"),
        ("own.pth", {"depth": 3}, "Missing key.*blocks.2"),
        ("own.pth", {"qk_norm": True}, "Missing key.*q_norm"),
        ("own.pth", {"mlp_ratio": 3}, "size mismatch for blocks.0.mlp.fc1.weight"),
        ("own.pth", {"embed_dim": 32}, "could not be loaded"),
        # timm reads arrays one by one, and says nothing of those that it has no place for
        ("augreg.npz", {"depth": 1}, "have 2 blocks, the model has 1"),
        ("scanned.npz", {"depth": 1}, "have 2 blocks, the model has 1"),
        ("augreg.npz", {"depth": 3}, "encoderblock_2"),
        ("augreg.npz", {"reg_tokens": 2}, "could not be loaded"),
        ("augreg.npz", {"init_values": 0.1}, "give no value to 4 parameters .*blocks.0.ls1.gamma"),
        ("augreg.npz", {"embed_dim": 32}, "could not be loaded"),
    ],
)
def test_a_file_of_another_model_is_refused_and_no_part_left_at_random(
    small_vit, small_options, weights_file, name, changes, message
):
    file = weights_file(small_vit(), name)
    with one_line_error(f"weights of {ARCHITECTURE} in {file} .*{message}"):
        loaded(ARCHITECTURE, {**small_options, **changes}, file)


def test_a_deeper_file_is_refused_where_timm_leaves_out_what_it_does_not_know(
    of_kind, small_options, weights_file
):
    # a SigLIP model without its attention pool is loaded with what there is
    architecture = "vit_base_patch16_siglip_gap_224"
    model, options = of_kind(architecture, {"depth": 3, "classes": 0})
    file = weights_file(model, "own.pth")
    assert torch.equal(loaded(architecture, options, file)(IMAGES), model(IMAGES))
    with one_line_error("have 3 blocks, the model has 2"):
        loaded(architecture, {**options, "depth": 2}, file)
    with one_line_error("give no value to .*blocks.3"):
        loaded(architecture, {**options, "depth": 4}, file)


def test_arrays_for_a_family_that_cannot_read_them_are_refused(small_vit, weights_file):
    with one_line_error("eva02_tiny_patch14_224 in .* could not be loaded: .*load_pretrained"):
        loaded("eva02_tiny_patch14_224", {}, weights_file(small_vit(), "augreg.npz"))


@pytest.mark.parametrize("name", ["augreg.npz", "own.safetensors", "own.pth"])
def test_the_classifier_is_the_files_own_or_left_out(small_vit, small_options, weights_file, name):
    model = small_vit(classes=7)
    file = weights_file(model, name)
    assert torch.equal(loaded(ARCHITECTURE, small_options, file)(IMAGES), model(IMAGES))
    assert torch.equal(
        loaded(ARCHITECTURE, {**small_options, "num_classes": 7}, file)(IMAGES), model(IMAGES)
    )
    without = loaded(ARCHITECTURE, {**small_options, "num_classes": 0}, file)
    assert without.num_classes == 0
    assert torch.equal(without(IMAGES), model.forward_head(model.forward_features(IMAGES), True))
    with one_line_error(r"options.num_classes = 10: .*has 7 rows; expected 7, or 0"):
        loaded(ARCHITECTURE, {**small_options, "num_classes": 10}, file)


@pytest.mark.parametrize("name", ["augreg.npz", "own.safetensors"])
@pytest.mark.parametrize(("size", "grid"), [(12, (6, 6)), ([4, 10], (2, 5))])
def test_another_image_size_resizes_the_position_embedding_as_timm_does(
    small_vit, small_options, weights_file, name, size, grid
):
    model = small_vit()
    found = loaded(ARCHITECTURE, {**small_options, "img_size": size}, weights_file(model, name))
    # Google's arrays are resampled as Google did
    google = {"interpolation": "bilinear", "antialias": False} if name.endswith("npz") else {}
    expected = resample_abs_pos_embed(model.pos_embed, grid, num_prefix_tokens=1, **google)
    assert torch.equal(found.pos_embed, expected)
    assert build.transform(found).size == (1, *(2 * side for side in grid))


@pytest.fixture
def published(hub, small_vit):
    """A small model as timm's own of a tag in the hub's cache: (model, name)."""
    name = f"{ARCHITECTURE}.augreg_in21k_ft_in1k"
    model = small_vit(classes=1000)
    hub(f"timm/{name}", model)
    return model, name


def test_the_weights_of_a_tag_come_with_their_own_classifier(published, small_options):
    model, name = published
    found = loaded(name, small_options)
    assert torch.equal(found(IMAGES), model(IMAGES))
    assert found.num_classes == 1000
    assert loaded(name, {**small_options, "num_classes": 0}).num_classes == 0


def test_weights_that_the_hub_has_not_are_one_line(hub, small_options):
    with one_line_error(f"weights of {ARCHITECTURE}.augreg_in21k could not be loaded: "):
        loaded(f"{ARCHITECTURE}.augreg_in21k", small_options)


@pytest.fixture
def repository(hub, small_options):
    """A model in a hub's repository, of another activation than its architecture's: its name."""
    own = {
        name: value for name, value in small_options.items() if name not in ("img_size", "in_chans")
    }
    arguments = {**own, "num_classes": 5, "act_layer": "relu"}
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": 3,
        "pretrained_cfg": {
            "input_size": [1, 8, 8],
            "fixed_input_size": True,
            "mean": [0.4],
            "std": [0.2],
            "crop_mode": "squash",
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "label_names": ["cat", "dog", "fish"],
        },
        "model_args": arguments,
    }
    torch.manual_seed(0)
    model = build.create(ARCHITECTURE, {**small_options, "act_layer": "relu"}, 3, SHAPE)
    hub("someone/own_vit", model, config)
    return model, "hf-hub:someone/own_vit@main"


def test_a_repository_gives_its_model_and_transform(repository, small_options):
    model, name = repository
    found = loaded(name, {})
    assert torch.equal(found(IMAGES), model(IMAGES))
    transform = build.transform(found)
    assert (transform.mean, transform.std, transform.crop_mode) == ((0.4,), (0.2,), "squash")


def test_a_repositorys_model_is_built_again_without_the_hub(repository, tmp_path, monkeypatch):
    _, name = repository
    checkpoint = checkpoints.find(name)
    found = build.load_weights(checkpoint, {"img_size": 12})
    about = {
        "built": {
            "architecture": checkpoint.architecture,
            "options": {**checkpoint.options, "img_size": 12},
        }
    }
    weights, report = tmp_path / "model.safetensors", tmp_path / "model.json"
    build.save(found, about, weights, report)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    again, transform, about = build.load(weights, report)
    images = torch.rand(2, 1, 12, 12)
    assert torch.equal(again(images), found(images))
    assert transform == build.transform(found)
    assert about["shape"] == [1, 12, 12]


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("vit_tiny_patch16_225", {}, "did you mean 'vit_tiny_patch16_224'"),
        (f"{ARCHITECTURE}.no_such_tag", {}, "no_such_tag"),
        (ARCHITECTURE, {"colour": "red"}, "timm refuses these options .*colour"),
        (ARCHITECTURE, {"num_heads": 3}, "timm refuses these options"),
        (ARCHITECTURE, {"class_token": False}, "Token pooling needs the class token"),
        (ARCHITECTURE, {"img_size": 16}, r"takes images of \(1, 16, 16\) .*gives \(1, 8, 8\)"),
        (ARCHITECTURE, {"in_chans": 3}, r"takes images of \(3, 8, 8\) .*gives \(1, 8, 8\)"),
    ],
)
def test_what_timm_or_the_images_refuse_is_one_line(small_options, architecture, changes, message):
    with one_line_error(message):
        build.create(architecture, {**small_options, **changes}, 10, SHAPE)


@pytest.mark.parametrize("key", ["pretrained", "checkpoint_path", "features_only", "num_classes"])
def test_an_option_that_is_said_elsewhere_is_refused(small_options, key):
    with one_line_error(f"options.{key} = 3 is no option"):
        build.create(ARCHITECTURE, {**small_options, key: 3}, 10, SHAPE)


@pytest.mark.parametrize("key", ["pretrained", "checkpoint_path", "features_only", "device"])
def test_it_is_refused_for_weights_that_exist_too(small_vit, small_options, weights_file, key):
    file = weights_file(small_vit(), "own.pth")
    for make in (lambda options: loaded(ARCHITECTURE, options, file),
                 lambda options: build.skeleton(ARCHITECTURE, options)):  # fmt: skip
        with one_line_error(f"options.{key} = 3 is no option"):
            make({**small_options, key: 3})


def test_pictures_of_any_size_suit_any_model():
    assert build.transform(build.create(ARCHITECTURE, {"depth": 1}, 3)).size == (3, 224, 224)


@pytest.mark.parametrize("switched", [True, False])
def test_attention_is_fused_whatever_the_process_had_chosen(small_options, switched):
    set_fused_attn(switched)
    model = build.create(ARCHITECTURE, small_options, 10, SHAPE)
    assert all(block.attn.fused_attn for block in model.blocks)


@pytest.mark.parametrize(
    "architecture",
    [
        "vit_small_patch14_reg4_dinov2",
        "deit_small_distilled_patch16_224.fb_in1k",
        "eva02_tiny_patch14_336",
        "beit_base_patch16_224",
        "vit_relpos_small_patch16_224",
        "vit_base_patch16_siglip_224",
        "vit_base_patch16_clip_224.openai",
    ],
)
def test_a_skeleton_has_the_shapes_of_the_model_and_no_memory(architecture):
    options = {"depth": 2}
    bones, body = build.skeleton(architecture, options), timm.create_model(architecture, **options)
    assert all(value.is_meta for value in bones.state_dict().values())
    shapes = [{name: v.shape for name, v in m.state_dict().items()} for m in (bones, body)]
    assert shapes[0] == shapes[1]
    assert build.transform(bones) == build.transform(body)
    assert build.skeleton(architecture, options, 7).num_classes == 7


def test_a_skeleton_of_a_repository_is_of_what_it_says(repository):
    model, name = repository
    bones = build.skeleton(name, {})
    assert bones.num_classes == 3
    assert build.transform(bones).size == SHAPE
    assert bones.state_dict().keys() == model.state_dict().keys()


def test_the_report_is_json_that_anybody_can_read(saved):
    _, _, report = saved
    about = json.loads(report.read_text())
    assert about["shape"] == [1, 8, 8]
    assert len(about["weights_digest"]) == 64
