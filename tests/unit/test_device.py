"""Where tensors live, by name."""

import subprocess
import sys

import pytest
import torch

from vitals import device
from vitals.errors import VitalsError


def test_auto_is_the_accelerator_where_there_is_one():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert torch.accelerator.is_available() or device.choose("auto").type == expected
    assert device.choose("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "cpu:x"])
def test_a_device_that_is_not_there_is_one_line(name):
    with pytest.raises(VitalsError, match=rf"\Adevice '{name}': [^\n]+\Z"):
        device.choose(name)


def test_accelerators_are_counted_without_torch():
    code = "import sys; from vitals import device; print(device.accelerators(), *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, *modules = done.stdout.split()
    assert int(count) >= torch.cuda.is_available()
    assert "torch" not in modules
