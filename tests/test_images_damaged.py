"""Damaged, cut off and oversized image files: a reason each, pixels only where all are there, and nothing printed."""

import io
import os
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.images.decode import ImageError, decode_rgb
from data.images.silence import native_silence
from tests.helpers.encoding import encoded, picture, png_bytes, reason

# ---------------------------------------------------------------- bad files


def test_nothing_and_text():
    assert reason(b"") == "empty file"
    assert "not an image" in reason(b"<html>404 not found</html>")


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.99])
def test_truncated_jpeg(options, share):
    data = encoded(picture(200, 240), "JPEG", quality=90, **options)
    assert "JPEG" in reason(data[: int(len(data) * share)])


def test_truncated_jpeg_with_a_thumbnail():
    """The thumbnail's end marker is none of the image's."""
    exif = b"Exif\0\0" + encoded(picture(16, 16), "JPEG")
    data = encoded(picture(200, 240), "JPEG", exif=exif)
    assert decode_rgb(data).shape == (200, 240, 3)
    assert "JPEG" in reason(data[: len(data) // 2])


def test_jpeg_followed_by_something_is_whole():
    data = encoded(picture(), "JPEG")
    for tail in (b"\0" * 100, b"trailer" * 50, data):
        np.testing.assert_array_equal(decode_rgb(data + tail), decode_rgb(data))


JPEG_KINDS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
    "cmyk": {"mode": "CMYK"},
    "grey": {"mode": "L"},
}


def jpeg(mode="RGB", size=(200, 240), **options):
    return encoded(Image.fromarray(picture(*size)).convert(mode), "JPEG", quality=90, **options)


@pytest.mark.parametrize("options", JPEG_KINDS.values(), ids=JPEG_KINDS)
def test_jpeg_that_lacks_only_its_end_marker_is_whole(options):
    data = jpeg(**options)
    for cut in (1, 2):  # of the two bytes
        np.testing.assert_array_equal(decode_rgb(data[:-cut]), decode_rgb(data))


@pytest.mark.parametrize("options", JPEG_KINDS.values(), ids=JPEG_KINDS)
def test_what_the_jpeg_decoder_warns_of_is_a_failure(options):
    data = jpeg(**options)
    middle = (data.index(b"\xff\xda") + len(data)) // 2
    noise = np.random.default_rng(0).bytes(4000)
    damaged = {
        "cut off, with an end marker": data[:middle] + b"\xff\xd9",
        "the tail is zeros": data[:middle] + bytes(len(data) - middle),
        "something else in the scan": data[:middle] + noise + data[middle:],
        "something else behind it": data[:-2] + noise[:300].replace(b"\xff", b"") + data[-2:],
    }
    for what, file in damaged.items():
        assert reason(file).startswith("damaged JPEG: "), what


def test_the_reason_is_what_the_decoder_says():
    data = jpeg()
    assert reason(data[:-400] + b"\xff\xd9") == "damaged JPEG: premature end of data segment"
    assert reason(data[:-2] + bytes(77) + data[-2:]) == "damaged JPEG: 77 extraneous bytes before marker 0xd9"


def test_a_progressive_jpeg_cut_off_between_two_scans_is_not_whole():
    """Nothing to warn of: the pixels are all there, but coarse."""
    data = jpeg(progressive=True)
    assert reason(data[: data.rindex(b"\xff\xda")]) == "damaged JPEG: cut off before its last scan"


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_remark_of_the_decoder_is_no_damage_and_hides_none(mode):
    """Of several warnings libjpeg prints the first: here one on the version of JFIF, or of Adobe's colours."""
    data = bytearray(jpeg(mode))
    if mode == "RGB":
        data[data.index(b"JFIF\0") + 5] = 9
    else:
        data[data.index(b"Adobe") + 11] = 7
    whole = decode_rgb(data)
    assert whole.shape == (200, 240, 3)
    assert reason(data[: len(data) // 2] + b"\xff\xd9") == "damaged JPEG: premature end of data segment"


def test_garbage_between_the_segments_of_a_header_is_no_damage():
    data = jpeg()
    at = data.index(b"\xff\xdb")
    np.testing.assert_array_equal(decode_rgb(data[:at] + b"junk" + data[at:]), np.array(Image.open(io.BytesIO(data))))


def test_threads_do_not_hear_of_each_others_files():
    whole, cut = jpeg(), jpeg()[:-600] + b"\xff\xd9"
    right, decoded = decode_rgb(whole), [cut, whole, whole, cut] * 10

    def outcome(data):
        try:
            return "right" if (decode_rgb(data) == right).all() else "wrong"
        except ImageError as error:
            return str(error)

    with ThreadPoolExecutor(6) as pool:
        for data, said in zip(decoded, pool.map(outcome, decoded), strict=True):
            assert said == ("damaged JPEG: premature end of data segment" if data is cut else "right")


def test_where_warnings_cannot_be_heard_a_jpeg_that_is_cut_off_is_still_a_failure(monkeypatch):
    monkeypatch.setattr(native_silence, "memory", None)
    data = jpeg()
    assert decode_rgb(data).shape == (200, 240, 3)
    assert "truncated" in reason(data[: len(data) // 2])


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_truncated_other_formats(format):
    options = {"compression": "tiff_lzw"} if format == "TIFF" else {}
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    image = Image.fromarray(noise).quantize(256) if format == "GIF" else noise
    data = encoded(image, format, **options)
    assert "damaged" in reason(data[: len(data) // 2])


def huge_png(side):
    return png_bytes([[0]], 8, 0, size=(side, side))


def test_header_size_is_checked_before_memory_is_taken():
    """30,000 x 30,000 as RGB would be 2.7 GB; a child with 0.5 GB of address space to spare must survive."""
    program = (
        "import sys; from data.images.decode import decode_rgb, ImageError; import resource\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 500_000_000,) * 2)\n"
        "try: decode_rgb(sys.stdin.buffer.read())\n"
        "except ImageError as error: print(error)\n"
    )
    for data in (huge_png(30000), big_jpeg_header(30000), big_webp_header(16383), big_tiff_header(30000)):
        done = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True, check=True)
        assert b"more than dataset.max_pixels (100000000)" in done.stdout
        assert done.stderr == b""


def big_jpeg_header(side):
    data = encoded(picture(16, 16), "JPEG")
    return data.replace(struct.pack(">HH", 16, 16), struct.pack(">HH", side, side))


def big_webp_header(side):
    body = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + (side - 1).to_bytes(3, "little") * 2
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def big_tiff_header(side):
    image = Image.fromarray(np.zeros((16, 16), np.uint8))
    data = encoded(image, "TIFF")
    assert data.count(b"\0\x01\x04\0\x01\0\0\0\x10\0\0\0") == 1
    for tag in (b"\0\x01", b"\x01\x01"):
        data = data.replace(tag + b"\x04\0\x01\0\0\0\x10\0\0\0", tag + b"\x04\0\x01\0\0\0" + struct.pack("<I", side))
    return data


def test_max_pixels_is_the_largest_allowed_number():
    for format in ("JPEG", "PNG", "WEBP", "TIFF", "BMP"):
        data = encoded(picture(20, 30), format)
        assert decode_rgb(data, max_pixels=600).shape == (20, 30, 3)
        assert reason(data, max_pixels=599) == "30x20 pixels are more than dataset.max_pixels (599)"


def test_a_larger_limit_than_pillows_own_is_honoured():
    """Pillow warns above 89 M pixels and refuses above 179 M by itself."""
    side = 14000
    data = encoded(Image.new("1", (side, side)), "PNG")
    assert "max_pixels" in reason(data)
    limit = Image.MAX_IMAGE_PIXELS
    if os.environ.get("AIKD_LARGE_TESTS"):
        assert decode_rgb(data, max_pixels=side * side).shape == (side, side, 3)
    assert Image.MAX_IMAGE_PIXELS == limit


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_damage_gives_pixels_or_a_reason(data):
    """Whatever is done to the bytes, the answer is an RGB array or an ImageError."""
    format = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"]))
    image = Image.fromarray(picture()).quantize(256) if format == "GIF" else picture()
    whole = bytearray(encoded(image, format))
    for at in data.draw(st.lists(st.integers(2, len(whole) - 1), min_size=1, max_size=8)):
        whole[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    for damaged in (bytes(whole), bytes(whole[:cut])):
        try:
            decoded = decode_rgb(damaged, max_pixels=1_000_000)
        except ImageError as error:
            assert str(error)
            assert "\n" not in str(error)
        else:
            assert decoded.dtype == np.uint8
            assert decoded.ndim == 3 and decoded.shape[2] == 3


# ---------------------------------------------------------------- silence


def noisy_files():
    """Return files whose decoders print: a JPEG with a hole, a PNG with a bad profile, a TIFF with odd tags."""
    jpeg = bytearray(encoded(picture(200, 200), "JPEG", quality=90))
    jpeg[-2000:-1500] = b"\x5a" * 500
    jpeg[-900:-897] = b"\xff\xd0\x11"
    png = encoded(picture(), "PNG", icc_profile=b"no profile at all" * 20)
    palette = Image.fromarray(picture()).quantize(50)
    half = encoded(palette, "PNG", transparency=bytes(range(50)))
    tiff = encoded(picture(60, 60), "TIFF", compression="tiff_lzw")
    wide = bytearray(png_bytes(np.zeros((8, 48), np.uint8), 16, 2))
    wide[50] ^= 0xFF
    return [bytes(jpeg), png, half, tiff[:900] + b"\xee" * (len(tiff) - 900), bytes(wide), huge_png(9800)]


def decode_noisy_files(times=1):
    for _ in range(times):
        for data in noisy_files():
            try:
                decode_rgb(data)
            except ImageError:
                pass


def test_nothing_reaches_the_terminal(capfd, recwarn):
    decode_noisy_files()
    os.write(2, b"still here")
    assert capfd.readouterr() == ("", "still here")
    assert not recwarn.list


def test_the_libraries_do_print_without_silence(capfd):
    """Guard of the test above: if this fails, the libraries have become quiet."""
    for data in noisy_files()[:1]:
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert "JPEG" in capfd.readouterr().err


def test_silence_in_many_threads_loses_no_message_of_others(capfd):
    threads = [threading.Thread(target=decode_noisy_files, args=(5,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    said = 0
    while any(thread.is_alive() for thread in threads):
        os.write(2, b"a line\n")
        said += 1
        time.sleep(0.001)
    assert capfd.readouterr().err == "a line\n" * said
    for data in noisy_files()[:1]:
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert "JPEG" in capfd.readouterr().err


def test_a_process_without_stderr_decodes():
    program = (
        "import os, sys; os.close(2); from data.images.decode import decode_rgb;"
        "print(decode_rgb(sys.stdin.buffer.read()).shape)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, input=encoded(picture(200, 200), "JPEG"), stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"(200, 200, 3)\n"
