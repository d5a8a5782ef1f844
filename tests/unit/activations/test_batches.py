"""Batches that fit the device: which images are in them, and what happens when memory runs out."""

import numpy as np
import pytest
import torch

from vitals.activations.batches import Batch, Fitting, batches, fitting_size
from vitals.errors import VitalsError
from vitals.models.anatomy import anatomy

CPU = torch.device("cpu")


def prepared(count, unreadable=()):
    for place in range(count):
        yield None if place in unreadable else np.full((1, 2, 2), place, dtype=np.uint8)


def test_batches_hold_every_image_once_and_in_order():
    found = list(batches(prepared(10), 4, CPU))
    assert [len(batch) for batch in found] == [4, 4, 2]
    assert np.concatenate([batch.places for batch in found]).tolist() == list(range(10))
    for batch in found:
        assert batch.pixels[:, 0, 0, 0].tolist() == batch.places.tolist()


def test_an_image_that_was_left_out_keeps_its_place_empty():
    found = list(batches(prepared(6, unreadable=(0, 3)), 2, CPU))
    assert [batch.places.tolist() for batch in found] == [[1, 2], [4, 5]]


def test_nothing_readable_is_no_batch():
    assert list(batches(prepared(3, unreadable=(0, 1, 2)), 2, CPU)) == []


def one_batch(count):
    return Batch(np.arange(count), torch.arange(count))


def memory_for(most, error):
    """A pass that finds memory for so many images."""

    def run(batch):
        if len(batch) > most:
            raise error
        return batch.pixels.tolist()

    return run


OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
)


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_a_batch_that_does_not_fit_is_halved_with_a_warning_and_stays_so(capsys, error):
    fitting = Fitting(8)
    found = list(fitting(memory_for(3, error), one_batch(8)))
    assert [result for _, result in found] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert [batch.places.tolist() for batch, _ in found] == [result for _, result in found]
    assert capsys.readouterr().err.splitlines() == [
        "out of memory: batches of 4 from here",
        "out of memory: batches of 2 from here",
    ]
    assert [len(batch) for batch, _ in fitting(memory_for(3, error), one_batch(5))] == [2, 2, 1]
    assert capsys.readouterr().err == ""


def test_images_that_passed_are_not_passed_again():
    fitting, passed = Fitting(4), []

    def run(batch):
        if len(passed) == 1 and len(batch) == 4:
            raise torch.OutOfMemoryError
        passed.append(batch.places.tolist())
        return True

    list(fitting(run, one_batch(8)))
    assert passed == [[0, 1, 2, 3], [4, 5], [6, 7]]


def test_a_device_too_small_for_one_image_is_refused():
    with pytest.raises(VitalsError, match="memory is too small for one image"):
        list(Fitting(2)(memory_for(0, torch.OutOfMemoryError()), one_batch(2)))


def test_another_error_of_a_pass_is_its_own():
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(Fitting(2)(memory_for(0, RuntimeError("shapes differ")), one_batch(2)))


def test_a_wider_model_gets_smaller_batches(small_vit):
    narrow, wide = (
        fitting_size(anatomy(small_vit(embed_dim=width, depth=1, reg_tokens=256)), 4, CPU)
        for width in (16, 1024)
    )
    assert narrow == 256
    assert 1 <= wide < 256
