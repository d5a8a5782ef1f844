"""The digits are scikit-learn's, read without it."""

import subprocess
import sys

import numpy as np
from sklearn.datasets import load_digits

from vitals.data import digits


def test_pixels_are_scikit_learns_in_zero_to_one():
    expected = load_digits().images / 16
    found = digits.pixels(np.arange(1797))
    assert found.shape == (1797, *digits.SHAPE)
    assert found.dtype == np.float32
    assert np.array_equal(found[:, 0], expected.astype(np.float32))


def test_labels_are_scikit_learns_and_index_the_classes():
    assert np.array_equal(digits.labels(), load_digits().target)
    assert [digits.CLASSES[label] for label in range(10)] == list("0123456789")


def test_pixels_follow_the_places_asked_for():
    places = np.array([1796, 3, 3])
    assert np.array_equal(digits.pixels(places), digits.pixels(np.arange(1797))[places])


def test_a_reader_cannot_change_the_digits_of_another():
    digits.labels()[:] = -1
    digits.pixels(np.arange(5))[:] = -1
    assert digits.labels().min() == 0
    assert digits.pixels(np.arange(5)).min() == 0


def test_reading_them_does_not_import_scikit_learn():
    code = "import sys; from vitals.data import digits; digits.labels(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "sklearn" not in done.stdout.split()
