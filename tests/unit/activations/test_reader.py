"""The stored activations are opened as one, lazily, without torch, and never partly."""

import json
import subprocess
import sys

import numpy as np
import pytest

import vitals
from vitals.activations import store
from vitals.errors import VitalsError

READERS = [vitals.open_tokens, vitals.open_pooled, vitals.open_gallery]
EACH = pytest.mark.parametrize("read", READERS)
CUTS = (0, 4, 8, 9)  # where the shards begin and end
RANDOM = np.random.default_rng(0)
STATES = RANDOM.standard_normal((3, 9, 5, 6)).astype("float32")
POOLED = RANDOM.standard_normal((3, 9, 2, 6)).astype("float32")
MAPS = RANDOM.random((2, 9, 2, 5, 5)).astype("float32")
IN_TOKENS = np.array([1, 1, 1, 1, 0, 1, 0, 0, 0], dtype=bool)
IN_GALLERY = np.array([1, 0, 0, 0, 0, 0, 1, 0, 0], dtype=bool)


def write(folder, number, start, stop, absent=(), attention=True, settings=None, **changes):
    """One shard of a model of three layers, two blocks of two heads, five tokens, width six."""
    made_from = {
        "spec": json.dumps({"settings": settings or {"storage": "float32"}, "images": str(start)}),
        **{"code": "c", "weights_digest": "w", "images": str(start), "start": start, "stop": stop},
        **changes,
    }
    shard = folder / "activations" / f"{number}.zarr"
    maps = MAPS if attention else None
    with store.new_shard(shard, made_from) as writer:
        tiers = {"tokens": IN_TOKENS, "pooled": np.ones(9, dtype=bool), "gallery": IN_GALLERY}
        for tier, members in tiers.items():
            images = np.flatnonzero(members[start:stop]) + start
            if images.size:
                _put_tier(writer, tier, images, maps, slice(start, stop))
            for name, reason in absent:
                writer.absent(tier, name, reason)
        writer.put("model/norm_scale", ("channel",), np.arange(6, dtype="float32"))
    return shard


def _put_tier(writer, tier, images, maps, part):
    writer.put_coordinate(f"{tier}/image_id", ("image",), np.array([f"image-{i}" for i in images]))
    writer.put_coordinate(f"{tier}/layer", ("layer",), np.array(["embed", "position", "norm"]))
    if tier == "tokens":
        _append(writer, "tokens/tokens", "layer image token channel", STATES[:, images])
    if tier == "pooled":
        _append(writer, "pooled/pooled", "layer image feature channel", POOLED[:, images])
        if maps is not None:
            mean = maps[:, part].mean(axis=1)
            writer.put("pooled/attention_mean", ("block", "head", "query", "key"), mean)
    if tier == "gallery" and maps is not None:
        _append(writer, "gallery/attention_heads", "block image head query key", maps[:, images])


def _append(writer, name, dims, values):
    writer.declare(name, dims.split(), values.shape, values.dtype)
    writer.append(name, values)


def model(folder, **changes):
    """All shards of the model, one cut after another."""
    for number in range(len(CUTS) - 1):
        write(folder, number, CUTS[number], CUTS[number + 1], **changes)
    return folder


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """A model in shards of four, four and one images, to read alone."""
    return model(tmp_path_factory.mktemp("sharded") / "model")


def test_the_shards_of_a_tier_are_one_dataset(sharded):
    tokens = vitals.open_tokens(sharded)
    assert np.array_equal(tokens["tokens"].values, STATES[:, IN_TOKENS])
    assert tokens["image_id"].values.tolist() == [f"image-{i}" for i in np.flatnonzero(IN_TOKENS)]
    assert tokens["norm_scale"].values.tolist() == list(range(6))
    pooled = vitals.open_pooled(sharded)
    assert np.array_equal(pooled["pooled"].values, POOLED)
    gallery = vitals.open_gallery(sharded)
    assert np.array_equal(gallery["attention_heads"].values, MAPS[:, IN_GALLERY])


def test_the_mean_attention_of_shards_counts_their_images(sharded):
    found = vitals.open_pooled(sharded)["attention_mean"]
    np.testing.assert_allclose(found, MAPS.mean(axis=1), atol=1e-6)


@EACH
def test_a_folder_its_activations_and_its_shards_are_one_dataset(sharded, read):
    shards = sorted((sharded / "activations").iterdir())
    expected = read(sharded)
    for path in (str(sharded), sharded / "activations", shards, [s / "zarr.json" for s in shards]):
        assert read(path).identical(expected)


def test_some_of_the_shards_can_be_opened_alone(sharded):
    shards = sorted((sharded / "activations").iterdir())
    part = vitals.open_pooled(shards[1:])
    assert part["image_id"].values.tolist() == [f"image-{i}" for i in range(4, 9)]


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


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"weights_digest": "other"}, "weights_digest"),
        ({"code": "other"}, "code"),
        ({"settings": {"storage": "float16"}}, "settings"),
    ],
)
def test_shards_of_different_weights_code_or_settings_are_refused(tmp_path, changes, key):
    write(tmp_path, 0, 0, 4)
    write(tmp_path, 1, 4, 8, **changes)
    for read in READERS:
        with pytest.raises(VitalsError, match=rf"1.zarr and .*0.zarr differ in {key}"):
            read(tmp_path)


@pytest.mark.parametrize("start", [3, 5])
def test_shards_that_overlap_or_leave_a_gap_are_refused(tmp_path, start):
    write(tmp_path, 0, 0, 4)
    write(tmp_path, 1, start, 9)
    with pytest.raises(VitalsError, match=rf"1.zarr starts at image {start} and .* stops at 4"):
        vitals.open_tokens(tmp_path)


def test_shards_in_another_order_are_refused(sharded):
    shards = sorted((sharded / "activations").iterdir())
    with pytest.raises(VitalsError, match="give them in order"):
        vitals.open_tokens(shards[::-1])


def test_a_shard_that_does_not_say_what_it_was_made_from_is_refused(tmp_path):
    write(tmp_path, 0, 0, 4, spec="Settings()")
    with pytest.raises(VitalsError, match=r"0.zarr does not say what it was made from"):
        vitals.open_tokens(tmp_path)


def test_what_is_absent_comes_with_its_reasons_from_every_shard_and_the_model(tmp_path):
    model(tmp_path, absent=[("attention", "talking heads")], attention=False)
    for read in (vitals.open_tokens, vitals.open_pooled):
        assert read(tmp_path).attrs == {"absent": {"attention": "talking heads"}}
    assert "attention_mean" not in vitals.open_pooled(tmp_path)


def test_a_model_that_has_everything_says_of_nothing_that_it_is_absent(sharded):
    assert vitals.open_tokens(sharded).attrs == {}


def test_a_tier_that_no_shard_holds_is_an_error(tmp_path):
    write(tmp_path, 0, 7, 9)
    with pytest.raises(VitalsError, match=r"no shard of .* holds the tier 'gallery'"):
        vitals.open_gallery(tmp_path)


@EACH
def test_a_torn_shard_is_named(tmp_path, read):
    (model(tmp_path) / "activations" / "1.zarr" / "zarr.json").unlink()
    with pytest.raises(VitalsError, match=r"1.zarr is not a whole shard"):
        read(tmp_path)


def test_a_shard_that_lost_its_tier_is_not_left_out(tmp_path):
    (model(tmp_path) / "activations" / "1.zarr" / "tokens" / "zarr.json").unlink()
    with pytest.raises(VitalsError, match=r"1.zarr lacks tokens"):
        vitals.open_tokens(tmp_path)


@EACH
def test_a_model_without_shards_is_an_error(tmp_path, read):
    with pytest.raises(VitalsError, match="no shards at"):
        read(tmp_path)


def test_a_name_that_vitals_has_not_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'open_everything'"):
        vitals.open_everything  # noqa: B018


def test_what_is_published_of_the_weights_is_beside_the_logits(tmp_path):
    known = {"top1": 81.402, "source": "a table"}
    write(tmp_path, 0, 0, 9, published=known)
    assert vitals.open_pooled(tmp_path).attrs["published"] == known
    assert "published" not in vitals.open_tokens(tmp_path).attrs
    write(tmp_path / "trained", 0, 0, 9, published=None)
    assert "published" not in vitals.open_pooled(tmp_path / "trained").attrs
