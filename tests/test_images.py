"""Decoding every kind of image file people have."""

import io
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from data.images.decode import ImageError, decode_rgb, read_size
from data.images.silence import native_silence
from data.sources.folder import list_folder


def picture(height=40, width=30, seed=0):
    """Return a smooth RGB image, different in every corner and channel."""
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(seed).integers(0, 9, (height, width, 3))
    image = np.stack([x * 200 / width, y * 200 / height, (x + y) * 200 / (height + width)], axis=-1)
    return (image + noise).astype(np.uint8)


def encoded(image, format, **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png_bytes(rows, bit_depth, colour_type, size=None):
    """Write a PNG by hand: rows of bytes, no filter; `size` makes its header lie."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height = len(rows)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type]
    width = len(rows[0]) * 8 // bit_depth // channels
    header = struct.pack(">IIBBBBB", *(size or (width, height)), bit_depth, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def reason(data, **options):
    with pytest.raises(ImageError) as caught:
        decode_rgb(data, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- ordinary files


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_give_the_exact_pixels(format):
    image = picture()
    options = {"lossless": True} if format == "WEBP" else {}
    decoded = decode_rgb(encoded(image, format, **options))
    np.testing.assert_array_equal(decoded, image)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}])
def test_jpeg_equals_pillow(options):
    data = encoded(picture(151, 97), "JPEG", quality=88, **options)
    difference = np.abs(decode_rgb(data).astype(int) - np.asarray(Image.open(io.BytesIO(data))))
    assert difference.max() <= 1


def test_jpeg_channels_are_red_green_blue():
    image = np.zeros((16, 16, 3), np.uint8)
    image[:] = (200, 100, 20)
    np.testing.assert_allclose(decode_rgb(encoded(image, "JPEG", quality=95))[8, 8], (200, 100, 20), atol=3)


def test_large_and_small_jpegs():
    for size in ((1, 1), (7, 3), (8, 16), (600, 800)):
        assert decode_rgb(encoded(picture(*size), "JPEG")).shape == (*size, 3)


def test_bytes_in_any_form_are_the_same():
    data = encoded(picture(), "JPEG")
    for form in (memoryview, bytearray, lambda data: np.frombuffer(data, np.uint8)):
        np.testing.assert_array_equal(decode_rgb(form(data)), decode_rgb(data))


@pytest.mark.parametrize(
    "name", ["a b.jpg", "a,b.jpg", "a'\"b.jpg", "a\nb.jpg", "gesicht_äöü.jpg", "脸.jpg", "a\tb;.jpg"]
)
def test_odd_file_names(tmp_path, name):
    (tmp_path / name).write_bytes(encoded(picture(), "JPEG"))
    source = list_folder(tmp_path)
    assert list(source.names) == [name]
    assert decode_rgb(source.read(0)).shape == (40, 30, 3)


def test_the_suffix_does_not_matter(tmp_path):
    image = picture()
    for name, format in (("a.jpg", "PNG"), ("b.png", "BMP"), ("c.tif", "GIF")):
        data = encoded(Image.fromarray(image).quantize(256) if format == "GIF" else image, format)
        (tmp_path / name).write_bytes(data)
    source = list_folder(tmp_path)
    assert [decode_rgb(source.read(row)).shape for row in range(3)] == [image.shape] * 3


@pytest.mark.parametrize(
    ("format", "options"),
    [("PPM", {}), ("JPEG2000", {}), ("JPEG2000", {"no_jp2": True}), ("GIF", {})],
    ids=["ppm", "jp2", "j2k", "gif"],
)
def test_kinds_without_loss_of_passports_and_feret(format, options):
    image = picture() if format != "GIF" else np.full((40, 30, 3), (200, 10, 60), np.uint8)
    data = encoded(image, format, **options)
    np.testing.assert_array_equal(decode_rgb(data), image)
    assert read_size(data) == (30, 40)
    assert "pixels are more than dataset.max_pixels" in reason(data, max_pixels=1199)
    assert reason(data[: len(data) // 2]).startswith("damaged") or format == "GIF"


def test_avif():
    if not features.check("avif"):
        pytest.skip("Pillow without AVIF")
    data = encoded(picture(), "AVIF", quality=100)
    assert np.abs(decode_rgb(data).astype(int) - picture()).mean() < 6
    assert "pixels are more than dataset.max_pixels" in reason(data, max_pixels=1199)
    assert reason(data[:60]).startswith("damaged AVIF")


def test_grey_maps_of_8_and_16_bit():
    grey = np.array([[0, 100, 255]], np.uint8)
    expected = np.repeat(grey[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(decode_rgb(b"P5 3 1 255\n" + grey.tobytes()), expected)
    np.testing.assert_array_equal(decode_rgb(b"P2 3 1 255\n0 100 255\n"), expected)
    sixteen = (grey.astype(np.uint16) * 257).astype(">u2").tobytes()
    np.testing.assert_array_equal(decode_rgb(b"P5 3 1 65535\n" + sixteen), expected)
    assert "too many for a PPM of this kind" in reason(b"P2 3000 3000 255\n0 1 2\n")


def test_a_photograph_of_a_telephone_gets_a_clear_word():
    assert reason(b"\0\0\0\x18ftypheic" + bytes(40)) == "HEIC, which the installed Pillow cannot read; convert it"


# ---------------------------------------------------------------- modes


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_grey_is_repeated(format):
    grey = picture()[:, :, 0]
    options = {"lossless": True} if format == "WEBP" else {"quality": 95} if format == "JPEG" else {}
    decoded = decode_rgb(encoded(grey, format, **options))
    assert decoded.shape == (40, 30, 3)
    np.testing.assert_array_equal(decoded[:, :, 0], decoded[:, :, 1])
    np.testing.assert_array_equal(decoded[:, :, 0], decoded[:, :, 2])
    np.testing.assert_allclose(decoded[:, :, 0], grey, atol=8 if format == "JPEG" else 0)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_dropped_and_not_composited(format):
    rgba = np.dstack([picture(), np.full((40, 30), 3, np.uint8)])
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    np.testing.assert_array_equal(decode_rgb(encoded(rgba, format, **options)), picture())


def test_grey_with_alpha():
    rgba = np.dstack([picture()[:, :, 0], np.full((40, 30), 0, np.uint8)])
    decoded = decode_rgb(encoded(Image.fromarray(rgba, "LA"), "PNG"))
    np.testing.assert_array_equal(decoded, np.repeat(picture()[:, :, :1], 3, axis=2))


@pytest.mark.parametrize("transparent", [None, 0, bytes(range(256))])
def test_palette(transparent):
    palette = Image.fromarray(picture()).quantize(200)
    options = {} if transparent is None else {"transparency": transparent}
    decoded = decode_rgb(encoded(palette, "PNG", **options))
    np.testing.assert_array_equal(decoded, np.asarray(palette.convert("RGB")))


def test_one_bit():
    bits = picture()[:, :, 0] > 90
    for format in ("PNG", "TIFF", "BMP"):
        decoded = decode_rgb(encoded(bits, format))
        np.testing.assert_array_equal(decoded, np.repeat(bits[:, :, None] * np.uint8(255), 3, axis=2))


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_is_converted(format):
    cmyk = Image.fromarray(picture()).convert("CMYK")
    decoded = decode_rgb(encoded(cmyk, format, **({"quality": 98} if format == "JPEG" else {})))
    np.testing.assert_allclose(decoded.astype(int), picture(), atol=12 if format == "JPEG" else 1)


def test_16_bit_grey_equals_its_8_bit_twin():
    grey = picture()[:, :, 0]
    wide = grey.astype(np.uint16) * 257
    twin = decode_rgb(encoded(grey, "PNG"))
    np.testing.assert_array_equal(decode_rgb(encoded(wide, "PNG")), twin)
    np.testing.assert_array_equal(decode_rgb(encoded(wide, "TIFF")), twin)
    np.testing.assert_array_equal(decode_rgb(png_bytes(wide.astype(">u2").view(np.uint8), 16, 0)), twin)


@pytest.mark.parametrize(("colour_type", "extra"), [(2, 0), (6, 1)])
def test_16_bit_colour_equals_its_8_bit_twin(colour_type, extra):
    image = np.dstack([picture()] + [np.full((40, 30), 9, np.uint8)] * extra)
    wide = (image.astype(np.uint16) * 257).astype(">u2").reshape(40, -1).view(np.uint8)
    np.testing.assert_array_equal(decode_rgb(png_bytes(wide, 16, colour_type)), picture())


def test_16_bit_grey_with_alpha():
    image = np.dstack([picture()[:, :, 0], np.full((40, 30), 9, np.uint8)])
    wide = (image.astype(np.uint16) * 257).astype(">u2").reshape(40, -1).view(np.uint8)
    np.testing.assert_array_equal(decode_rgb(png_bytes(wide, 16, 4)), np.repeat(picture()[:, :, :1], 3, axis=2))


def test_16_bit_colour_tiff():
    ok, data = cv2.imencode(".tiff", np.ascontiguousarray(picture()[:, :, ::-1]).astype(np.uint16) * 257)
    assert ok
    np.testing.assert_array_equal(decode_rgb(data.tobytes()), picture())


def test_16_bit_is_divided_by_257_and_rounded():
    values = np.array([[0, 128, 129, 385, 386, 65406, 65407, 65535]], np.uint16)
    expected = np.rint(values / 257).astype(int).tolist()
    assert expected == [[0, 0, 1, 1, 2, 254, 255, 255]]
    colour = np.repeat(values[:, :, None], 3, axis=2)
    assert decode_rgb(png_bytes(values.astype(">u2").view(np.uint8), 16, 0))[:, :, 0].tolist() == expected
    assert (
        decode_rgb(png_bytes(colour.astype(">u2").reshape(1, -1).view(np.uint8), 16, 2))[:, :, 1].tolist() == expected
    )


def test_low_bit_depths_fill_the_range():
    assert decode_rgb(png_bytes([[0b00011011]], 2, 0))[0, :, 0].tolist() == [0, 85, 170, 255]


def test_pixels_without_a_known_range_are_refused():
    assert "32-bit" in reason(encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))
    assert "32-bit" in reason(encoded(Image.fromarray(np.ones((4, 4), np.int32)), "TIFF"))


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animations_give_their_first_frame(format):
    first, second = (Image.fromarray(np.full((20, 20, 3), value, np.uint8)) for value in (50, 200))
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(first, format, save_all=True, append_images=[second], **options)
    np.testing.assert_array_equal(decode_rgb(data), np.full((20, 20, 3), 50))


# ---------------------------------------------------------------- rotation


def stored_for(orientation, image):
    """Return the pixels that a camera stores so that `orientation` shows `image`, by the EXIF table."""
    return {
        1: lambda: image,
        2: lambda: np.fliplr(image),
        3: lambda: np.flipud(np.fliplr(image)),
        4: lambda: np.flipud(image),
        5: lambda: image.swapaxes(0, 1),
        6: lambda: np.fliplr(image).swapaxes(0, 1),
        7: lambda: np.flipud(np.fliplr(image)).swapaxes(0, 1),
        8: lambda: np.flipud(image).swapaxes(0, 1),
    }[orientation]()


def with_orientation(stored, orientation, format, **options):
    image = Image.fromarray(np.ascontiguousarray(stored))
    if format == "TIFF":
        return encoded(image, format, tiffinfo={274: orientation}, **options)
    exif = Image.Exif()
    exif[274] = orientation
    return encoded(image, format, exif=exif.tobytes(), **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_rotation(format, orientation):
    image = picture(48, 32)
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format, {})
    stored = stored_for(orientation, image)
    data = with_orientation(stored, orientation, format, **options)
    tolerance = 4 if format == "JPEG" else 0
    np.testing.assert_allclose(decode_rgb(data).astype(int), image, atol=tolerance)
    np.testing.assert_allclose(decode_rgb(data, exif=False).astype(int), stored, atol=tolerance)
    assert decode_rgb(data).flags.c_contiguous


def test_compressed_tiff_is_rotated_once():
    image = picture(48, 32)
    data = with_orientation(stored_for(6, image), 6, "TIFF", compression="tiff_lzw")
    np.testing.assert_array_equal(decode_rgb(data), image)
    np.testing.assert_array_equal(decode_rgb(data, exif=False), stored_for(6, image))


def test_damaged_exif_is_ignored():
    data = with_orientation(picture(), 6, "JPEG")
    at = data.index(b"Exif\0\0") + 6
    for damage in (b"XX", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"):
        broken = data[:at] + damage + data[at + len(damage) :]
        assert decode_rgb(broken).shape in ((40, 30, 3), (30, 40, 3))


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
