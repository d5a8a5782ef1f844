"""Codecs lose nothing; rounding loses what was asked for, where it was allowed, and says so."""

import numpy as np
import pytest
import zarr

from vitals.activations import store
from vitals.activations.encoding import Encoding
from vitals.activations.integrity import recorded
from vitals.errors import VitalsError

DIMS = ("layer", "image", "channel")


def values_of(dtype):
    return np.random.default_rng(0).standard_normal((2, 50, 96)).astype(dtype)


def write(path, values, encoding):
    """A shard with the same values in an array that may lose bits and in one that may not."""
    with store.new_shard(path, {}, encoding) as writer:
        for name, lossy in (("lossy", True), ("exact", False)):
            writer.declare(f"tokens/{name}", DIMS, values.shape, values.dtype, lossy=lossy)
            writer.append(f"tokens/{name}", values)
    return store.open_group(path, "tokens")


@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_codec_alone_loses_nothing(tmp_path, codec, dtype):
    values = values_of(dtype)
    found = write(tmp_path / "0.zarr", values, Encoding(codec))
    assert np.array_equal(found["lossy"].values, values)
    assert np.array_equal(found["exact"].values, values)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_a_codec_is_blosc_with_bitshuffle_and_the_checksum_is_last(tmp_path, codec):
    write(tmp_path / "0.zarr", values_of("float16"), Encoding(codec))
    metadata = zarr.open_group(tmp_path / "0.zarr", mode="r")["tokens/lossy"].metadata
    names = [c.to_dict()["name"] for c in metadata.codecs]
    assert names == ["bytes", "blosc", "crc32c"]
    configuration = metadata.codecs[1].to_dict()["configuration"]
    assert configuration["cname"] == codec
    assert configuration["shuffle"] == "bitshuffle"
    assert configuration["typesize"] == 2


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_rounding_makes_files_smaller(tmp_path, codec):
    def size(name):
        return sum(f.stat().st_size for f in (tmp_path / name).rglob("c/**/*") if f.is_file())

    for name, keep_bits in (("all.zarr", None), ("few.zarr", 4)):
        with store.new_shard(tmp_path / name, {}, Encoding(codec, keep_bits)) as writer:
            writer.declare("tokens/tokens", DIMS, (2, 50, 96), "float16", lossy=True)
            writer.append("tokens/tokens", values_of("float16"))
    assert size("few.zarr") < 0.75 * size("all.zarr")


@pytest.mark.parametrize(("dtype", "keep_bits"), [("float16", 7), ("float16", 3), ("float32", 9)])
def test_rounding_is_to_the_nearest_value_that_has_so_few_bits(tmp_path, dtype, keep_bits):
    values = values_of(dtype)
    found = write(tmp_path / "0.zarr", values, Encoding("zstd", keep_bits))
    mantissa, exponent = np.frexp(values.astype("float64"))  # |mantissa| in [1/2, 1)
    steps = 2.0 ** (keep_bits + 1)
    expected = np.ldexp(np.rint(mantissa * steps) / steps, exponent)
    assert np.array_equal(found["lossy"].values, expected.astype(dtype))
    assert np.array_equal(found["exact"].values, values)


def test_rounding_halfway_goes_to_even():
    values = np.array([1 + 1 / 8, 1 + 3 / 8, -1 - 1 / 8, 0, 2.0], "float32")
    found = Encoding("none", 2).rounded("x", values)  # steps of 1/4 between 1 and 2
    assert found.tolist() == [1, 1.5, -1, 0, 2]


def test_all_the_bits_that_a_type_has_change_nothing():
    values = values_of("float16")
    assert np.array_equal(Encoding("zstd", 10).rounded("x", values), values)


def test_a_value_that_rounding_takes_beyond_its_type_is_an_error_that_names_the_array(tmp_path):
    values = values_of("float16")
    values[1, 3, 5] = 65504
    with pytest.raises(VitalsError, match="tokens/lossy: a value is beyond float16 when rounded"):
        write(tmp_path / "0.zarr", values, Encoding("zstd", 5))


@pytest.mark.parametrize(("dtype", "bits"), [("float16", 10), ("float32", 23), ("int64", 0)])
def test_more_bits_than_a_type_has_are_refused(tmp_path, dtype, bits):
    with (
        pytest.raises(VitalsError, match=rf"mantissa of {dtype} has {bits} bits: set {bits}"),
        store.new_shard(tmp_path / "0.zarr", {}, Encoding("zstd", bits + 1)) as writer,
    ):
        writer.declare("tokens/tokens", DIMS, (1, 1, 1), dtype, lossy=True)


def test_a_wrong_encoding_is_refused_with_what_is_allowed():
    with pytest.raises(VitalsError, match=r"unknown codec 'zst': did you mean 'zstd'"):
        Encoding("zst")
    with pytest.raises(VitalsError, match="keep_bits is 0: expected 1 or more"):
        Encoding("zstd", 0)


def test_the_encoding_is_recorded(tmp_path):
    write(tmp_path / "0.zarr", values_of("float16"), Encoding("lz4", 7))
    assert recorded(tmp_path / "0.zarr", "encoding") == {"codec": "lz4", "keep_bits": 7}
