"""The names of architectures are timm's, read without timm."""

import subprocess
import sys

import pytest

import vitals.models.torchvision_operators  # noqa: F401  (must come before timm)

# isort: split
import timm

from vitals.errors import VitalsError
from vitals.models.registry import architectures, check_architecture


def test_the_names_are_all_that_timm_registers():
    assert architectures() == set(timm.list_models())


def test_a_tag_is_not_looked_at():
    check_architecture("vit_small_patch16_224.augreg_in21k_ft_in1k")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_225", "vit_tiny_patch16_225.augreg"])
def test_an_unknown_name_is_answered_with_the_nearest(name):
    with pytest.raises(VitalsError, match=f"'{name}': did you mean 'vit_tiny_patch16_224'"):
        check_architecture(name)


def test_looking_a_name_up_imports_neither_timm_nor_torch():
    code = (
        "import sys; from vitals.models.registry import check_architecture;"
        "check_architecture('vit_tiny_patch16_224'); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "timm"} & set(done.stdout.split())
