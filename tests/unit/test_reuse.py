"""What was made from the same things is known as such, and found beside."""

from pathlib import Path

import pytest

from vitals.errors import VitalsError
from vitals.reuse import elsewhere, fingerprint


def test_a_fingerprint_is_of_all_that_it_is_given_and_of_no_order():
    assert fingerprint(a=1, b={"x": 1, "y": 2}) == fingerprint(b={"y": 2, "x": 1}, a=1)
    assert fingerprint(a=1) != fingerprint(a=2)
    assert fingerprint(a=1) != fingerprint(b=1)


@pytest.fixture
def studies(tmp_path):
    """Three models of two studies, of which two have a second shard."""
    for place in ("one/vit/1", "one/twin/0", "two/other/1"):
        folder = tmp_path / Path(place).parent / "activations" / f"{Path(place).name}.zarr"
        folder.mkdir(parents=True)
        (folder / "zarr.json").touch()
    return tmp_path


def places(path, studies):
    return [str(found.relative_to(studies)) for found in elsewhere(path, studies)]


def test_the_same_place_is_looked_at_in_every_other_model_of_every_study(studies):
    path = studies / "one" / "vit" / "activations" / "1.zarr" / "zarr.json"
    assert places(path, studies) == ["two/other/activations/1.zarr/zarr.json"]
    path = studies / "new" / "vit" / "activations" / "1.zarr" / "zarr.json"
    assert places(path, studies) == [
        "one/vit/activations/1.zarr/zarr.json",
        "two/other/activations/1.zarr/zarr.json",
    ]


def test_a_link_to_the_own_place_is_no_other(studies):
    (studies / "three").symlink_to(studies / "one")
    path = studies / "one" / "twin" / "activations" / "0.zarr" / "zarr.json"
    assert places(path, studies) == []


def test_a_result_outside_the_studies_is_refused(studies):
    with pytest.raises(VitalsError, match="is no result of a model of a study in"):
        list(elsewhere(studies.parent / "model.json", studies))
