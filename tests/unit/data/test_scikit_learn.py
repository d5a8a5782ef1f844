"""The files of scikit-learn's images are found."""

import pytest

from vitals.data import scikit_learn


@pytest.mark.parametrize(
    "parts", [("data", "digits.csv.gz"), ("images", "china.jpg"), ("images", "flower.jpg")]
)
def test_a_file_of_scikit_learn_is_where_it_is_said_to_be(parts):
    assert scikit_learn.file(*parts).is_file()
