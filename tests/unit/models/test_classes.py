"""A class of the images is found among a classifier's rows by its name, or refused by its name."""

import subprocess
import sys

import numpy as np
import pytest

import vitals.models.torchvision_operators  # noqa: F401  (must come before timm)

# isort: split
from timm.data import ImageNetInfo, infer_imagenet_subset

from vitals.errors import VitalsError
from vitals.models import classes


def test_a_subset_of_imagenet_is_not_the_first_rows():
    subset = ["n02123045", "n01440764", "n02099601"]  # tabby, tench, golden retriever
    found = classes.rows(subset, classes.imagenet(1000))
    assert found.tolist() == [281, 0, 207]
    assert found.dtype == np.int64


@pytest.mark.parametrize("number", classes.IMAGENET)
def test_the_rows_of_imagenets_parts_are_those_that_timm_infers(number):
    info = ImageNetInfo(infer_imagenet_subset({"num_classes": number}))
    assert list(classes.imagenet(number).names) == info.label_names()


@pytest.mark.parametrize("number", [1000, 21843])
def test_every_synset_is_its_own_row(number):
    model_classes = classes.imagenet(number)
    assert np.array_equal(classes.rows(model_classes.names, model_classes), np.arange(number))


@pytest.mark.parametrize("number", [0, 10, 512, 768, 1001])
def test_other_numbers_of_rows_are_no_part_of_imagenet(number):
    assert classes.imagenet(number) is None


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("n01484850", 2),
        ("goldfish, Carassius auratus", 1),
        ("great white shark", 2),
        ("Great_White_Shark", 2),
        ("white shark", 2),
        ("goldfish", 1),
    ],
)
def test_words_stand_for_a_synset_where_no_other_has_them(name, row):
    assert classes.imagenet(1000).row(name) == row


@pytest.mark.parametrize(
    ("name", "synsets"), [("crane", "n02012849, n03126707"), ("maillot", "n03710637, n03710721")]
)
def test_a_word_of_two_synsets_is_refused_with_both(name, synsets):
    with pytest.raises(VitalsError, match=f"'{name}' is the name of 2 rows.* one of {synsets}"):
        classes.rows([name], classes.imagenet(1000))


def test_a_name_as_it_is_written_comes_before_what_it_is_like():
    found = classes.named(["Seal", "seal", "harbour"], {"harbour": "seal, port"})
    assert [found.row(name) for name in ("Seal", "seal", "port")] == [0, 1, 2]


def test_the_rows_are_those_of_the_names_in_any_order():
    names = [f"class {i}" for i in range(7)]
    order = np.random.default_rng(0).permutation(7)
    assert np.array_equal(classes.rows([names[i] for i in order], classes.named(names)), order)


def test_classes_that_no_row_has_are_listed_with_what_is_spelled_most_alike():
    with pytest.raises(VitalsError) as raised:
        classes.rows(["tensh", "goldfish", "golfish"], classes.imagenet(1000))
    message = str(raised.value)
    assert "1000 rows have no class 'tensh' (did you mean 'tench'?), 'golfish'" in message
    assert "num_classes: 0" in message
    assert "'goldfish'," not in message
    assert "\n" not in message


def test_at_most_five_missing_classes_are_listed():
    with pytest.raises(VitalsError, match="'digit 4' and 3 more:") as raised:
        classes.rows([f"digit {i}" for i in range(8)], classes.named(["x"]))
    assert "digit 5" not in str(raised.value)


def test_two_classes_of_the_images_are_not_one_row():
    with pytest.raises(VitalsError, match=r"'tench' and 'n01440764' .* both row 0 .*'n01440764'"):
        classes.rows(["tench", "n01440764"], classes.imagenet(1000))


def test_names_are_read_without_timm_or_torch():
    code = (
        "import sys; from vitals.models import classes;"
        "assert classes.imagenet(1000).row('tench') == 0; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "timm"} & set(done.stdout.split())
