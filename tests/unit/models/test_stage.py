"""What the stage that loads weights writes, from files to files."""

import json

import pytest
import torch
from PIL import Image

from vitals.data import images as image_lists
from vitals.errors import VitalsError
from vitals.models import build, stage

ARCHITECTURE = "vit_tiny_patch16_224"
TAGGED = f"{ARCHITECTURE}.augreg_in21k_ft_in1k"
COLOURED = {"img_size": 16, "patch_size": 4, "in_chans": 3}
SUBSET = ["n01440764", "n02099601", "n02123045"]  # tench, golden retriever, tabby
ROWS = [0, 207, 281]


@pytest.fixture
def load(tmp_path):
    """Run the stage for a spec, with changes; the model, its transform and its report."""

    def run(images, options, weights_file=None, architecture=ARCHITECTURE, classes=None):
        spec = {
            "architecture": architecture,
            "options": options,
            "weights": "pretrained" if weights_file is None else "file",
            "classes": classes,
            "dataset": "digest",
        }
        weights = tmp_path / "loaded" / "model.safetensors"
        weights.parent.mkdir(exist_ok=True)
        provenance = {"spec": json.dumps(spec), "code": "code"}
        stage.load(spec, provenance, images, weights_file, weights, "cpu")
        return build.load(weights, weights.with_suffix(".json"))

    return run


@pytest.fixture
def folder(tmp_path):
    """images.parquet of a folder of four pictures of each class, whose folder is gone again."""

    def listed(names):
        root = tmp_path / "pictures"
        for place, name in enumerate(names):
            (root / name).mkdir(parents=True)
            for picture in range(4):
                colour = (place * 20, picture * 20, 0)
                Image.new("RGB", (20, 30), colour).save(root / name / f"{picture}.png")
        settings = {
            "dataset": "folder",
            "path": str(root),
            "test_share": 0.5,
            "seed": 0,
            "limit": None,
        }
        path = tmp_path / "images.parquet"
        image_lists.write(image_lists.build(settings), path, settings, "{}", "code")
        root.rename(tmp_path / "moved")  # no picture is needed to load weights
        return path

    return listed


def test_weights_of_a_file_are_loaded_as_they_are(
    load, images_file, small_vit, small_options, weights_file
):
    model = small_vit()
    found, transform, about = load(images_file, small_options, weights_file(model, "own.pth"))
    assert build.weights_digest(found) == build.weights_digest(model) == about["weights_digest"]
    assert transform == build.transform(model)
    assert about["classes"] == 10
    assert about["class_names"] == [str(digit) for digit in range(10)]
    assert about["class_rows"] == list(range(10))
    assert about["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert about["shape"] == [1, 8, 8]
    assert about["transform"].keys() == {
        "mean", "std", "size", "interpolation", "crop_pct", "crop_mode"
    }  # fmt: skip
    assert (about["precision"], about["device"], about["code"]) == ("float32", "cpu", "code")
    assert {"torch", "timm", "pillow"} <= about["versions"].keys()


def test_a_subset_of_imagenet_has_its_own_rows_of_the_classifier(
    load, hub, folder, small_vit_of_colour, small_options
):
    model = small_vit_of_colour(1000)
    hub(f"timm/{TAGGED}", model)
    images = folder(SUBSET)
    found, _, about = load(images, {**small_options, **COLOURED}, architecture=TAGGED)
    assert about["class_rows"] == ROWS
    assert len(about["class_names"]) == about["classes"] == 1000
    assert [about["class_names"][row] for row in about["class_rows"]] == SUBSET
    assert torch.equal(found.head.weight, model.head.weight)


def test_a_tag_says_the_rows_of_a_local_copy_of_its_weights(
    load, folder, small_vit_of_colour, small_options, weights_file
):
    file = weights_file(small_vit_of_colour(1000), "augreg.npz")
    images = folder(["golden retriever", "tabby", "tench"])
    _, _, about = load(images, {**small_options, **COLOURED}, file, TAGGED)
    assert about["class_rows"] == [207, 281, 0]


def test_what_is_published_of_weights_is_in_their_report_for_images_prepared_alike(
    load, hub, folder
):
    hub(f"timm/{TAGGED}", build.create(ARCHITECTURE, {}, 1000))
    images = folder(SUBSET)
    _, _, about = load(images, {}, architecture=TAGGED)
    assert about["published"]["top1"] == 75.452
    assert about["published"]["source"].startswith("timm, results/results-imagenet.csv")
    _, _, smaller = load(images, {"img_size": 112}, architecture=TAGGED)
    assert smaller["published"] is None


@pytest.fixture
def small_vit_of_colour(small_vit, small_options):
    """A small model of colour pictures with this many classes."""

    def make(classes):
        return build.create(ARCHITECTURE, {**small_options, **COLOURED}, classes)

    return make


def test_names_of_ones_own_say_the_rows(load, images_file, small_vit, small_options, weights_file):
    file = weights_file(small_vit(classes=12), "own.safetensors")
    names = ["nothing", *[str(digit) for digit in reversed(range(10))], "other"]
    _, _, about = load(images_file, small_options, file, classes=names)
    assert about["class_names"] == names
    assert about["class_rows"] == [10 - digit for digit in range(10)]


@pytest.mark.parametrize("rows", [0, 12])
def test_a_model_without_its_classifier_has_no_rows(
    load, images_file, small_vit, small_options, weights_file, rows
):
    file = weights_file(small_vit(classes=rows), "own.pth")
    found, _, about = load(images_file, {**small_options, "num_classes": 0}, file)
    assert (about["classes"], about["class_names"], about["class_rows"]) == (0, None, None)
    assert found(torch.zeros(1, 1, 8, 8)).shape == (1, 16)


@pytest.mark.parametrize(
    ("rows", "options", "classes", "message"),
    [
        (12, {}, None, "which class each of the 12 rows of .*own.pth is: give `classes`"),
        (10, {}, ["a", "b"], "classes: 2 names for the 10 rows of .*own.pth"),
        (10, {}, list("abcdefghij"), "10 rows have no class '0', '1', '2', '3', '4' and 5 more"),
        (10, {"num_classes": 12}, None, "options.num_classes = 12: .* has 10 rows; expected 10"),
        (10, {"img_size": 16}, None, r"takes images of \(1, 16, 16\) .*gives \(1, 8, 8\)"),
    ],
)
def test_weights_that_do_not_suit_the_images_are_refused_and_nothing_is_written(
    load, images_file, small_vit, small_options, weights_file, tmp_path, rows, options, classes,
    message,
):  # fmt: skip
    file = weights_file(small_vit(classes=rows), "own.pth")
    with pytest.raises(VitalsError, match=rf"\A[^\n]*{message}[^\n]*\Z"):
        load(images_file, {**small_options, **options}, file, classes=classes)
    assert not list((tmp_path / "loaded").iterdir())


def test_the_report_is_the_same_for_more_images_of_the_same_classes(
    load, images_file, small_vit, small_options, weights_file, tmp_path
):
    file = weights_file(small_vit(), "own.pth")
    _, _, before = load(images_file, small_options, file)
    settings = {"dataset": "digits", "test_share": 0.3, "seed": 0, "limit": 90}
    more = tmp_path / "more.parquet"
    image_lists.write(image_lists.build(settings), more, settings, "{}", "code")
    _, _, after = load(more, small_options, file)
    assert before == after
