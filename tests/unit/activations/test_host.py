"""From the device to the host: a cast of a whole pass, and the layer whose values do not fit."""

import numpy as np
import pytest
import torch

from vitals.activations.host import Buffers, Cast, stacked
from vitals.errors import VitalsError


def layers(**changed):
    states = {name: torch.randn(3, 4, 5) for name in ("embed", "block.0", "norm")}
    for name, value in changed.items():
        states[name.replace("_", ".")][1, 2, 3] = value
    return states


def cast(states, storage, buffers=None):
    buffers = buffers or Buffers(torch.device("cpu"))
    made = Cast(list(states), (3, 4, 5), storage, buffers)
    for state in states.values():
        made.put(state)
    made.send()
    return made


@pytest.mark.parametrize("storage", ["float16", "float32"])
def test_a_cast_is_the_values_rounded_once(storage):
    states = layers()
    found = cast(states, storage).array()
    assert found.dtype == np.dtype(storage)
    expected = torch.stack(list(states.values())).numpy().astype(storage)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("value", [65519.0, -65519.0])
def test_the_largest_values_of_float16_are_kept(value):
    found = cast(layers(block_0=value), "float16").array()
    assert found[1, 1, 2, 3] == np.copysign(65504, value)


@pytest.mark.parametrize("value", [65520.0, -65520.0, 1e6])
def test_a_larger_value_names_its_layer_and_what_to_do(value):
    message = "a value at block.0 does not fit float16: set activations.storage to float32"
    with pytest.raises(VitalsError, match=message):
        cast(layers(block_0=value), "float16").array()
    assert cast(layers(block_0=value), "float32").array()[1, 1, 2, 3] == value


@pytest.mark.parametrize("storage", ["float16", "float32"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_no_number_is_the_models_fault(storage, value):
    with pytest.raises(VitalsError, match="the model gives NaN or infinity at norm"):
        cast(layers(norm=value), storage).array()


def test_a_stack_is_float32_whatever_the_pass_was_in():
    found = stacked([torch.ones(2, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.bfloat16)])
    assert found.dtype == torch.float32
    assert found.tolist() == [[1, 1], [0, 0]]


def test_memory_is_used_again_once_it_is_written_and_not_before():
    buffers = Buffers(torch.device("cpu"))
    first, second = (cast(layers(), "float16", buffers) for _ in range(2))
    assert first.values.data_ptr() != second.values.data_ptr()
    first.release()
    assert cast(layers(), "float16", buffers).values.data_ptr() == first.values.data_ptr()
    assert cast(layers(), "float32", buffers).values.dtype == torch.float32
