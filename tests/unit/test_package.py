"""What a notebook reaches from `import vitals` alone."""

import subprocess
import sys

import pytest

import vitals


def test_a_metric_needs_no_import_of_its_own():
    code = "import vitals; print(vitals.metrics.similarity.compute.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["compute"]


def test_importing_the_package_alone_waits_for_nothing():
    code = "import sys, vitals; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "xarray", "zarr"} & set(done.stdout.split())


@pytest.mark.parametrize("name", ["vitals.nothing", "vitals.metrics.nothing"])
def test_what_does_not_exist_is_an_attribute_error(name):
    *path, last = name.split(".")
    place = vitals if path == ["vitals"] else vitals.metrics
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        getattr(place, last)
