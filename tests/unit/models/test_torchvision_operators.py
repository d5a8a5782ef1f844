"""timm can be imported, and torchvision's operators are declared only where they cannot load."""

import importlib.util
import subprocess
import sys

import pytest
import torch

from vitals.models import torchvision_operators


def test_operators_are_declared_only_where_they_do_not_load():
    acted = hasattr(torchvision_operators, "_declared")
    assert acted == (not torchvision_operators._operators_load())


def test_a_fresh_process_can_import_timm_and_call_a_model():
    code = (
        "import vitals.models.torchvision_operators, timm, torch, torchvision;"
        "print(timm.create_model('test_vit')(torch.zeros(1, 3, 160, 160)).shape[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "1", done.stderr


@pytest.fixture
def torchvision_with_a_library(tmp_path, monkeypatch):
    """A torchvision that has compiled operators, whose loading the test decides."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").touch()
    (tmp_path / "torchvision" / "_C.so").touch()
    location = [str(tmp_path / "torchvision")]
    spec = importlib.util.spec_from_file_location(
        "torchvision",
        tmp_path / "torchvision" / "__init__.py",
        submodule_search_locations=location,
    )
    monkeypatch.setattr(torchvision_operators, "find_spec", lambda name: spec)


def refuse(path):
    raise OSError("undefined symbol")


@pytest.mark.parametrize(("load", "expected"), [(lambda path: None, True), (refuse, False)])
def test_what_decides_is_whether_the_library_loads(
    torchvision_with_a_library, monkeypatch, load, expected
):
    monkeypatch.setattr(torch.ops, "load_library", load)
    assert torchvision_operators._operators_load() is expected


def test_without_torchvision_there_is_nothing_to_do(monkeypatch):
    monkeypatch.setattr(torchvision_operators, "find_spec", lambda name: None)
    assert torchvision_operators._operators_load()
