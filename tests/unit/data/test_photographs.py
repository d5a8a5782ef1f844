"""The crops are parts of scikit-learn's photographs, at the places that their ids say."""

import re

import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from vitals.data.photographs import Photographs


@pytest.fixture(scope="module")
def table():
    return Photographs().listing()


def test_each_photograph_gives_112_crops_in_turn(table):
    assert len(table) == 224
    assert table["image_id"].is_unique
    assert table["label"].tolist() == [0, 1] * 112


def test_a_crop_is_the_part_of_the_photograph_that_its_id_says(table):
    source = Photographs()
    for row in table.iloc[[0, 1, 57, 222, 223]].itertuples():
        name, top, left = re.fullmatch(r"(\w+)-row(\d+)-column(\d+)", row.image_id).groups()
        whole = load_sample_image(f"{name}.jpg")
        picture = source.decode(source.read(row.path, row.index))
        expected = whole[int(top) : int(top) + 224, int(left) : int(left) + 224]
        assert source.classes[row.label] == name
        assert picture.mode == "RGB" and picture.size == (224, 224)
        assert np.array_equal(np.asarray(picture), expected)


def test_no_two_crops_are_the_same(table):
    source = Photographs()
    crops = {source.read(row.path, row.index) for row in table.itertuples()}
    assert len(crops) == 224
