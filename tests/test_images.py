"""Decoding every kind of image file people have: formats, modes, bit depths, rotation."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image, features

from data.images.decode import decode_rgb, read_size
from data.sources.folder import list_folder
from tests.helpers.encoding import encoded, picture, png_bytes, reason

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
