"""Classes take turns, so that the start of a list is balanced."""

import numpy as np
import pytest

from vitals.data.source import round_robin


@pytest.mark.parametrize("seed", range(5))
def test_every_start_of_the_order_has_as_many_of_each_class_as_it_can(seed):
    labels = np.random.default_rng(seed).integers(0, 4, 40)
    sizes = np.bincount(labels, minlength=4)
    order = round_robin(labels)
    assert sorted(order) == list(range(40))
    for stop in range(41):
        counts = np.bincount(labels[order[:stop]], minlength=4)
        unfinished = counts[counts < sizes]
        assert unfinished.size == 0 or counts.max() - unfinished.min() <= 1


def test_images_of_a_class_keep_their_order():
    labels = np.array([1, 0, 1, 0, 1])
    order = round_robin(labels)
    for label in (0, 1):
        assert np.all(np.diff(order[labels[order] == label]) > 0)
