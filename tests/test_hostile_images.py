"""Hostile images and records of images end as a named failure, soon; no pixel changes."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from data.images.decode import ImageError, decode_rgb
from data.sources.folder import list_folder
from data.sources.recordio import open_records
from tests.helpers.hostile import refused
from utils.outside.reading import limited_memory


def jpeg(**options):
    stream = io.BytesIO()
    picture = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(picture).resize((64, 64)).save(stream, "JPEG", **options)
    return stream.getvalue()


def scans(data, times):
    """Repeat the last scan of a JPEG."""
    at = data.rindex(b"\xff\xda")
    return data[:at] + data[at:-2] * times + b"\xff\xd9"


def test_a_jpeg_of_thousands_of_scans_is_a_named_failure_and_few_are_none():
    whole = decode_rgb(jpeg(progressive=True))
    assert whole.shape == (64, 64, 3)
    with pytest.raises(ImageError, match="3009 scans of 64x64 pixels take too long"):
        decode_rgb(scans(jpeg(progressive=True), 3000))


def png_header(width, height, bits, colour):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    lines = zlib.compress(b"\0" * (height * (1 + width * 6)), 9)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def test_sixteen_bits_take_little_more_memory_than_eight():
    """3000x3000 pixels of 16 bit: 54 MB decoded, 27 MB of result, and a block of each at a time."""
    with limited_memory(170 << 20):
        image = decode_rgb(png_header(3000, 3000, 16, 2))
    assert image.shape == (3000, 3000, 3)
    assert not image.any()


def test_a_chunk_of_three_gigabytes_takes_none():
    whole = png_header(8, 8, 16, 2)
    at = whole.index(b"IDAT") - 4
    with limited_memory(100 << 20), pytest.raises(ImageError, match="damaged PNG: cut off"):
        decode_rgb(whole[:at] + (0xAF000000).to_bytes(4, "big") + whole[at + 4 :])


def test_sixteen_bits_are_rounded_as_before():
    values = np.arange(0, 65536, 7, dtype=np.uint16)[: 96 * 96].reshape(96, 96)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    expected = np.rint(values / 257).astype(np.uint8)
    assert np.array_equal(decode_rgb(stream.getvalue())[:, :, 0], expected)


def test_run_lengths_and_animations_have_bounds_of_their_own():
    header = b"BM" + struct.pack("<IHHI", 1000, 0, 0, 54 + 1024)
    header += struct.pack("<IiiHHIIiiII", 40, 2_000_000, 20, 1, 8, 1, 0, 0, 0, 256, 0)
    with pytest.raises(ImageError, match="too many for a BMP with run lengths"):
        decode_rgb(header + bytes(1024) + b"\0\0" * 100)
    stream = io.BytesIO()
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    frames[0].save(stream, "WebP", save_all=True, append_images=frames[1:])
    assert decode_rgb(stream.getvalue())[0, 0, 0] > 200
    large = bytearray(stream.getvalue())
    large[24:30] = (5999).to_bytes(3, "little") + (5999).to_bytes(3, "little")
    with pytest.raises(ImageError, match="6000x6000 pixels are too many for an animation"):
        decode_rgb(large)


def test_devices_pipes_and_circles_are_failures_of_their_own(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to(tmp_path / "b.png")
    (tmp_path / "d.png").symlink_to("/dev/zero")
    (tmp_path / "e.png").symlink_to("e.png")
    source = list_folder(tmp_path)
    assert len(source.read(0)) == (tmp_path / "a.png").stat().st_size
    for row in range(1, len(source)):
        with pytest.raises(ImageError):
            source.read(row)
    assert {"c.png", "d.png", "e.png"} <= set(source.names)


@pytest.mark.parametrize("stated", [np.nan, np.inf, -np.inf, 1e30, -5, 0, 1])
def test_record_0_that_states_an_odd_number_of_images(tmp_path, stated):
    body = struct.pack("<IfQQ", 2, 0.0, 0, 0) + struct.pack("<ff", stated, stated)
    data = struct.pack("<II", 0xCED7230A, len(body)) + body
    (tmp_path / "train.rec").write_bytes(data * 2)
    (tmp_path / "train.idx").write_text(f"0\t0\n1\t{len(data)}\n")
    refused(open_records, tmp_path / "train.rec")
