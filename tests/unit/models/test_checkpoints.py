"""What is known of weights before a model is made: rows, their classes, and what to build."""

import pytest
import torch
from safetensors.torch import save_file

from vitals.errors import VitalsError
from vitals.models import checkpoints, classes

ARCHITECTURE = "vit_tiny_patch16_224"
TAGGED = f"{ARCHITECTURE}.augreg_in21k_ft_in1k"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def refused(message):
    """Expect a VitalsError of one line that matches."""
    return pytest.raises(VitalsError, match=rf"\A[^\n]*{message}[^\n]*\Z")


@pytest.mark.parametrize(
    ("architecture", "rows", "first"),
    [
        (TAGGED, 1000, "n01440764"),
        (f"{ARCHITECTURE}.augreg_in21k", 21843, "n00004475"),
        ("beit_base_patch16_224.in22k_ft_in22k", 21841, "n00004475"),
        ("vit_base_patch16_224_miil.in21k", 11221, "n00005787"),
        ("vit_small_patch14_dinov2.lvd142m", 0, None),
        ("vit_base_patch16_clip_224.openai", 512, None),
    ],
)
def test_published_weights_have_the_rows_and_classes_that_timm_says(architecture, rows, first):
    found = checkpoints.find(architecture)
    assert found.rows == rows
    assert (found.classes and found.classes.names[0]) == first
    assert (found.name, found.architecture, found.options) == (architecture, architecture, {})


@pytest.mark.parametrize(
    "name",
    ["augreg.npz", "optimised.npz", "big_vision.npz", "scanned.npz", "own.safetensors", "own.pth"],
)
@pytest.mark.parametrize("rows", [0, 10])
def test_a_file_says_its_rows_and_blocks(small_vit, weights_file, name, rows):
    found = checkpoints.find(ARCHITECTURE, weights_file(small_vit(classes=rows, depth=3), name))
    assert (found.rows, found.blocks, found.classes) == (rows, 3, None)


def test_the_projection_of_a_clip_is_its_rows(small_vit, weights_file):
    model = small_vit(classes=12, pre_norm=True)
    assert checkpoints.find(ARCHITECTURE, weights_file(model, "openai_clip.pth")).rows == 12


def test_the_tag_of_an_architecture_names_the_rows_of_a_file_with_as_many(tmp_path):
    for rows, known in ((1000, True), (999, False)):
        file = tmp_path / f"{rows}.safetensors"
        save_file({"head.weight": torch.zeros(rows, 2)}, file)
        assert (checkpoints.find(TAGGED, file).classes is not None) == known
        assert checkpoints.find(ARCHITECTURE, file).classes is None


def test_a_file_that_is_not_there_is_named(tmp_path):
    with refused(f"no weights at {tmp_path / 'none.pth'}"):
        checkpoints.find(ARCHITECTURE, tmp_path / "none.pth")


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "npz"])
@pytest.mark.parametrize("content", [b"not weights", b""])
def test_a_file_that_holds_no_weights_is_refused(tmp_path, suffix, content):
    file = tmp_path / f"weights.{suffix}"
    file.write_bytes(content)
    with refused(f"{file} cannot be read as weights"):
        checkpoints.find(ARCHITECTURE, file)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    file = tmp_path / "weights.pth"
    torch.save({"head.weight": torch.zeros(2, 2), "sneaky": subprocess_of_a_stranger}, file)
    with refused(f"{file} cannot be read as weights: .*weights_only"):
        checkpoints.find(ARCHITECTURE, file)


def subprocess_of_a_stranger():
    """What unpickling would look up by its name."""


CONFIG = {
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
        "label_descriptions": {"cat": "tom, puss", "dog": "hound", "fish": "fish"},
    },
    "model_args": {"patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2},
}


def test_a_repository_says_what_to_build_and_what_its_rows_are(hub, small_vit):
    hub("someone/own_vit", small_vit(classes=3), CONFIG)
    name = f"hf-hub:someone/own_vit@{COMMIT}"
    found = checkpoints.find(name)
    assert (found.name, found.architecture, found.rows) == (name, ARCHITECTURE, 3)
    assert found.options == {**CONFIG["model_args"], "img_size": (8, 8), "in_chans": 1}
    assert classes.rows(["hound", "puss"], found.classes).tolist() == [1, 0]


def test_names_of_some_rows_alone_leave_the_others_without(hub, small_vit):
    named = {**CONFIG["pretrained_cfg"], "label_names": {"2": "fish"}, "label_descriptions": None}
    hub("someone/own_vit", small_vit(classes=3), {**CONFIG, "pretrained_cfg": named})
    found = checkpoints.find(f"hf-hub:someone/own_vit@{COMMIT}")
    assert found.classes.names == ("", "", "fish")
    with pytest.raises(VitalsError, match="no class ''"):
        classes.rows([""], found.classes)


@pytest.mark.parametrize("revision", ["v1", COMMIT])
def test_a_revision_may_be_a_tag_or_a_commit(hub, small_vit, revision):
    hub("someone/own_vit", small_vit(classes=3), CONFIG, revision="v1")
    assert checkpoints.find(f"hf-hub:someone/own_vit@{revision}").rows == 3


@pytest.mark.parametrize("name", ["someone/own_vit@v2", "someone/other@v1"])
def test_what_the_hub_has_not_is_one_line(hub, small_vit, name):
    hub("someone/own_vit", small_vit(classes=3), CONFIG, revision="v1")
    with refused(f"hf-hub:{name} cannot be had from the hub: "):
        checkpoints.find(f"hf-hub:{name}")


def test_a_repository_with_another_kind_of_model_is_refused_with_the_reason(hub, small_vit):
    hub("someone/own_vit", small_vit(), {**CONFIG, "architecture": "swin_tiny_patch4_window7_224"})
    with refused("hf-hub:someone/own_vit@main holds another kind of model: .*'swin_.* merged"):
        checkpoints.find("hf-hub:someone/own_vit@main")


def checkpoint(rows, named=None, file="own.pth"):
    """Weights with so many rows, and names for them where somebody gives any."""
    known = None if named is None else classes.named(named)
    return checkpoints.Checkpoint(ARCHITECTURE, ARCHITECTURE, {}, rows, known, file)


@pytest.mark.parametrize(
    ("found", "rows", "given", "expected"),
    [
        (checkpoint(3), 3, ["x", "y", "z"], ("x", "y", "z")),  # the user's own come first
        (checkpoint(3, ["p", "q", "r"]), 3, ["x", "y", "z"], ("x", "y", "z")),
        (checkpoint(3, ["p", "q", "r"]), 3, None, ("p", "q", "r")),  # then what was published
        (checkpoint(2), 2, None, ("a", "b")),  # a file with a row for each class of the images
        (checkpoint(0), 0, None, None),
        (checkpoint(3), 0, None, None),  # left out
    ],
)
def test_who_says_what_the_rows_are(found, rows, given, expected):
    named = checkpoints.row_classes(found, rows, given, ["a", "b"])
    assert (named and named.names) == expected


@pytest.mark.parametrize(
    ("found", "given", "message"),
    [
        (checkpoint(3), None, "which class each of the 3 rows of .* in own.pth is: give `classes`"),
        (checkpoint(2, file=None), None, "rows of vit_tiny.*num_classes: 0.* have 2 classes"),
        (checkpoint(3), ["x", "y"], "classes: 2 names for the 3 rows of .* in own.pth"),
        (checkpoint(0), ["x"], "classes: 1 names for the 0 rows of .* in own.pth"),
    ],
)
def test_rows_of_which_nobody_says_the_class_are_refused(found, given, message):
    with refused(message):
        checkpoints.row_classes(found, found.rows, given, ["a", "b"])
