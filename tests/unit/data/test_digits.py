"""The digits are scikit-learn's, read without it."""

import subprocess
import sys

import numpy as np
from sklearn.datasets import load_digits

from vitals.data.digits import CLASSES, FILE, SHAPE, Digits


def pixels(index):
    digits = Digits()
    return digits.decode(digits.read(FILE, index))


def test_pixels_are_scikit_learns_in_zero_to_one():
    expected = load_digits().images / 16
    found = np.stack([pixels(index) for index in range(1797)])
    assert found.shape == (1797, *SHAPE)
    assert found.dtype == np.float32
    assert np.array_equal(found[:, 0], expected.astype(np.float32))


def test_labels_are_scikit_learns_in_its_order_and_index_the_classes():
    table = Digits().listing()
    assert np.array_equal(table["label"], load_digits().target)
    assert table["index"].tolist() == list(range(1797))
    assert table["image_id"].is_unique
    assert [CLASSES[label] for label in range(10)] == list("0123456789")


def test_the_stamp_of_a_digit_is_that_of_its_pixels():
    table = Digits().listing()
    assert table["stamp"].nunique() == np.unique(load_digits().data, axis=0).shape[0]


def test_a_reader_cannot_change_the_digits_of_another():
    Digits().listing()["label"].to_numpy(copy=True)[:] = -1
    assert Digits().listing()["label"].min() == 0
    assert not pixels(0).flags.writeable


def test_listing_them_imports_neither_scikit_learn_nor_torch_nor_datasets():
    code = (
        "import sys; from vitals.data import images; images.listed({'dataset': 'digits', "
        "'test_share': 0.3, 'seed': 0, 'limit': None}); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"sklearn", "torch", "timm", "datasets"} & set(done.stdout.split())
