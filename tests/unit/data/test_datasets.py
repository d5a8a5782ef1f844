"""A study names its dataset by kind, and by what that kind needs and no more."""

import pytest

from vitals.data import datasets
from vitals.errors import VitalsError

HUB = {"path": "org/name", "revision": "abc", "part": "validation"}


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"dataset": "digits"}, "Digits"),
        ({"dataset": "photographs", "path": None, "revision": None}, "Photographs"),
        ({"dataset": "folder", "path": "there"}, "Folder"),
        ({"dataset": "tar", "path": "there.tar", "image_column": "image"}, "Tar"),
        ({"dataset": "huggingface", **HUB}, "HuggingFace"),
    ],
)
def test_each_kind_has_its_source_and_making_it_reads_nothing(settings, kind):
    assert type(datasets.source(settings)).__name__ == kind


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": "digit"}, "unknown dataset 'digit': did you mean 'digits'"),
        ({"dataset": "folder"}, "images.path: expected where the images of the dataset 'folder'"),
        ({"dataset": "tar", "path": None}, "images.path: expected .* dataset 'tar'"),
        (
            {"dataset": "digits", "path": "x"},
            "images.path = 'x': expected null, the dataset 'digits' has none; only folder, tar",
        ),
        (
            {"dataset": "folder", "path": "x", "revision": "v1"},
            "images.revision = 'v1': expected null, .* only huggingface does",
        ),
        (
            {"dataset": "huggingface", **HUB, "revision": None},
            "images.revision: expected the commit or tag of images.path = 'org/name', found none",
        ),
        (
            {"dataset": "huggingface", **HUB, "part": None},
            "images.part: expected a split of images.path = 'org/name', such as validation",
        ),
        (
            {"dataset": "huggingface", **HUB, "path": "."},
            r"images.revision = 'abc': expected null for images.path = '\.', which is a folder",
        ),
    ],
)
def test_a_setting_that_does_not_fit_is_named_with_what_is_allowed(settings, message):
    with pytest.raises(VitalsError, match=message):
        datasets.source(settings)


def test_the_identity_of_a_dataset_is_without_its_place():
    settings = {"dataset": "huggingface", **HUB, "subset": None, "seed": 0, "limit": 3}
    assert datasets.identity(settings) == {
        "dataset": "huggingface",
        "revision": "abc",
        "part": "validation",
    }
    assert datasets.identity({"dataset": "tar", "path": "/data/x.tar"}) == {"dataset": "tar"}


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_datasets_with_a_path_are_those_that_ask_for_one(name):
    asks = False
    try:
        datasets.source({"dataset": name})
    except VitalsError as error:
        asks = "images.path" in str(error)
    assert datasets.has_path(name) == asks
