"""The stored activations are opened as one, lazily, without torch, and never partly."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import vitals
from vitals.errors import VitalsError

READERS = [vitals.open_tokens, vitals.open_pooled, vitals.open_gallery]
EACH = pytest.mark.parametrize("read", READERS)


@pytest.fixture
def own(sharded, tmp_path):
    """A copy of the shards, to tear."""
    return Path(shutil.copytree(sharded, tmp_path / "model"))


@EACH
def test_a_folder_its_activations_and_its_shards_are_one_dataset(sharded, read):
    shards = sorted((sharded / "activations").iterdir())
    expected = read(sharded)
    for path in (str(sharded), sharded / "activations", shards, [s / "zarr.json" for s in shards]):
        assert read(path).identical(expected)


def test_some_of_the_shards_can_be_opened_alone(sharded):
    shards = sorted((sharded / "activations").iterdir())
    part = vitals.open_tokens(shards[1:])
    assert part["image_id"][0] == "digits-0025"
    assert part.sizes["image"] == 35


def test_the_mean_attention_of_shards_counts_their_images(sharded, whole):
    found, expected = (vitals.open_pooled(f)["attention_mean"] for f in (sharded, whole))
    np.testing.assert_allclose(found, expected, atol=1e-7)


@EACH
def test_opening_reads_no_values(sharded, read):
    assert all(
        array.chunks is not None
        for array in read(sharded).data_vars.values()
        if "image" in array.dims
    )


def test_opening_needs_neither_torch_nor_timm(sharded):
    code = (
        "import sys, vitals; path = sys.argv[1]\n"
        "for read in (vitals.open_tokens, vitals.open_pooled, vitals.open_gallery): read(path)\n"
        "vitals.open_tokens(path)['tokens'].mean().compute(); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, sharded], capture_output=True, text=True, check=True
    )
    assert not {"torch", "timm", "vitals.models"} & set(done.stdout.split())


@pytest.mark.parametrize("changes", [{"weights_digest": "other"}, {"storage": "float16"}])
def test_shards_of_different_weights_or_settings_are_refused(sharded, extracted, changes):
    other = extracted(shard_images=25, **changes)
    mixed = [sharded / "activations" / "0.zarr", other / "activations" / "1.zarr"]
    for read in READERS:
        with pytest.raises(VitalsError, match=r"1.zarr and .*0.zarr differ in (weights|spec)"):
            read(mixed)


@EACH
def test_a_torn_shard_is_named(own, read):
    (own / "activations" / "1.zarr" / "zarr.json").unlink()
    with pytest.raises(VitalsError, match=r"1.zarr is not a whole shard"):
        read(own)


def test_a_shard_that_lost_its_tier_is_not_left_out(own):
    (own / "activations" / "1.zarr" / "tokens" / "zarr.json").unlink()
    with pytest.raises(VitalsError, match=r"1.zarr lacks tokens"):
        vitals.open_tokens(own)


@EACH
def test_a_model_without_shards_is_an_error(tmp_path, read):
    with pytest.raises(VitalsError, match="no shards at"):
        read(tmp_path)


def test_a_name_that_vitals_has_not_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'open_everything'"):
        vitals.open_everything  # noqa: B018
