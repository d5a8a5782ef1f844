"""Any picture comes out in RGB as Pillow makes it, and anything else is an error."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from vitals.data import decode


@pytest.mark.parametrize(
    ("format", "mode"),
    [
        ("JPEG", "RGB"),
        ("JPEG", "L"),
        ("JPEG", "CMYK"),
        ("PNG", "P"),
        ("PNG", "L"),
        ("PNG", "1"),
        ("PNG", "LA"),
        ("PNG", "RGBA"),
        ("GIF", "P"),
        ("BMP", "RGB"),
        ("TIFF", "RGB"),
        ("WEBP", "RGB"),
        ("PPM", "L"),
    ],
)
def test_a_picture_of_any_mode_is_rgb_as_pillow_converts_it(encoded, format, mode):
    content = encoded(3, format, mode)
    expected = Image.open(io.BytesIO(content)).convert("RGB")
    found = decode.picture(content)
    assert found.mode == "RGB"
    assert np.array_equal(np.asarray(found), np.asarray(expected))


def test_pixels_stay_in_the_orientation_in_which_they_are_stored():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    buffer = io.BytesIO()
    Image.new("RGB", (12, 8)).save(buffer, "JPEG", exif=exif)
    assert decode.picture(buffer.getvalue()).size == (12, 8)


def bomb() -> bytes:
    """The head of a PNG of 20,000 × 20,000 pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + chunk


@pytest.mark.parametrize("kind", ["cut JPEG", "cut PNG", "damaged PNG", "empty", "text", "bomb"])
def test_what_is_no_whole_picture_is_an_error(encoded, kind):
    png = encoded(1, "PNG", size=(64, 64))
    jpeg = encoded(1, size=(64, 64))
    content = {
        "cut JPEG": jpeg[: len(jpeg) // 2],
        "cut PNG": png[: len(png) // 2],
        "damaged PNG": png[:200] + b"\x00" * 50 + png[250:],
        "empty": b"",
        "text": b"no picture at all\n" * 9,
        "bomb": bomb(),
    }[kind]
    with pytest.raises(OSError, match=r"\w"):
        decode.picture(content)


def test_a_cut_picture_is_an_error_whatever_another_library_set(encoded, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    jpeg = encoded(1, size=(64, 64))
    with pytest.raises(OSError, match="truncated"):
        decode.picture(jpeg[: len(jpeg) // 2])
