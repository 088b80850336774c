"""Decoding the images people have, of any kind, into RGB uint8.

Ordinary JPEGs take a short path through cv2; everything else goes through Pillow, one plugin per format.
"""

import io
from collections.abc import Callable

import cv2
import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)

from data.images.jpeg import EOI, EXTRANEOUS, SOI, JpegHeader, damage, decode_listening, read_header
from data.images.silence import native_silence, python_silence

_AVIF = bool(features.check("avif"))
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".jp2", ".j2k", ".ppm", ".pgm"}
    | ({".avif"} if _AVIF else set())
)
"""Lower case; files are compared with their suffix in lower case. The content decides which kind an image is."""

MAX_PIXELS = 100_000_000
_BLOCK_PIXELS = 1 << 20
_MAX_SCANS = 100
_MAX_SCANNED_PIXELS = 1_000_000_000
_MAX_RUN_LENGTH_PIXELS = 4_000_000
_ANIMATION_PICTURES = 4
"""Pictures as large as the canvas that a decoder of animations holds at once."""

_ORIENTATION_TAG = 0x0112
_RUN_LENGTHS = (1, 2)
"""Kinds of compression of a BMP that Pillow undoes in Python."""
_BITS_PER_SAMPLE_TAG = 258
_PLUGINS = (
    (SOI, "JPEG", JpegImagePlugin.JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", "PNG", PngImagePlugin.PngImageFile),
    (b"RIFF", "WebP", WebPImagePlugin.WebPImageFile),
    (b"BM", "BMP", BmpImagePlugin.BmpImageFile),
    (b"II", "TIFF", TiffImagePlugin.TiffImageFile),
    (b"MM", "TIFF", TiffImagePlugin.TiffImageFile),
    (b"GIF8", "GIF", GifImagePlugin.GifImageFile),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000", Jpeg2KImagePlugin.Jpeg2KImageFile),
    (b"\xff\x4f\xff\x51", "JPEG 2000", Jpeg2KImagePlugin.Jpeg2KImageFile),
    *((f"P{n}".encode(), "PPM", PpmImagePlugin.PpmImageFile) for n in range(1, 7)),
)
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", **dict.fromkeys((b"heic", b"heix", b"hevc", b"mif1", b"msf1"), "HEIC")}
"""Behind `ftyp`, what a file of that family holds."""


class ImageError(Exception):
    """Signal a file that yields no pixels; `str()` is the reason, in a few words."""


def decode_rgb(
    encoded: bytes | bytearray | memoryview | np.ndarray, *, exif: bool = True, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decode an encoded image of any kind to (H, W, 3) uint8 RGB.

    Alpha is dropped, not composited; 16 bit is divided by 257; grey is repeated; CMYK and palettes are converted;
    of an animation the first frame counts; a JPEG that lacks nothing but its end marker is whole, one whose decoder
    warns of damage is none. `exif` applies the rotation stored in the file. More than `max_pixels` pixels are refused
    from the header, before memory is taken. Nothing is printed.
    Raises: ImageError with the reason.
    """
    data = bytes(encoded)
    if data[:3] == SOI:
        return _decode_jpeg(data, exif, max_pixels)
    with python_silence, native_silence:
        return _decode_with_pillow(data, exif, max_pixels)


def read_size(encoded: bytes, *, exif: bool = True) -> tuple[int, int]:
    """Read (width, height) from the header of an encoded image, as `decode_rgb` would give it; ImageError without."""
    data = bytes(encoded)
    header = read_header(data) if data[:3] == SOI else None
    if header is not None:
        size, turned = (header.width, header.height), _orientation(header.exif) if exif and header.exif else 1
    else:
        kind, plugin = _plugin(data)
        try:
            with python_silence, plugin(io.BytesIO(data)) as image:
                size, turned = image.size, image.getexif().get(_ORIENTATION_TAG, 1) if exif else 1
        except Exception as error:  # Pillow raises a dozen types on damaged files
            raise ImageError(f"damaged {kind}: {_one_line(error)}") from None
    return (size[1], size[0]) if turned in (5, 6, 7, 8) else size


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"empty image of {width}x{height} pixels")
    if width * height > max_pixels:
        raise ImageError(f"{width}x{height} pixels are more than dataset.max_pixels ({max_pixels})")


def _check_scans(header: JpegHeader) -> None:
    if header.scans > _MAX_SCANS or header.scans * header.width * header.height > _MAX_SCANNED_PIXELS:
        raise ImageError(f"{header.scans} scans of {header.width}x{header.height} pixels take too long to decode")


def _decode_jpeg(data: bytes, exif: bool, max_pixels: int) -> np.ndarray:
    """Decode with cv2 what it decodes right and the rest with Pillow; what libjpeg warns of is an error.

    A missing end marker is put there: then an intact picture decodes without a warning, and one cut off does not.
    """
    header = read_header(data)
    if header is None:  # Pillow finds its way, and looks at the size before memory is taken
        with python_silence, native_silence:
            image = _decode_with_pillow(data, exif, max_pixels)
        _refuse_damage(decode_listening(data)[1], skip=EXTRANEOUS)
        return image
    _check_size(header.width, header.height, max_pixels)
    _check_scans(header)
    if not header.ended and native_silence.hears:
        if not header.complete:
            raise ImageError("damaged JPEG: cut off before its last scan")
        data += EOI
    image, said = decode_listening(data)
    _refuse_damage(said)
    plain = header.plain and (header.ended or native_silence.hears)
    if image is None or not plain or image.shape[:2] != (header.height, header.width):
        with python_silence, native_silence:
            return _decode_with_pillow(data, exif, max_pixels)
    return _upright(image, _orientation(header.exif)) if exif and header.exif is not None else image


def _refuse_damage(said: str, skip: str | None = None) -> None:
    warning = damage(said)
    if warning is not None and (skip is None or skip not in warning):
        raise ImageError(f"damaged JPEG: {warning}")


def _orientation(exif: bytes) -> int:
    with python_silence:
        try:
            tags = Image.Exif()
            tags.load(exif)
            return tags.get(_ORIENTATION_TAG, 1)
        except Exception:  # damaged EXIF of any kind: the picture itself is fine
            return 1


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels the way EXIF orientation 1-8 says; anything else means 1."""
    turned = {
        2: lambda: image[:, ::-1],
        3: lambda: image[::-1, ::-1],
        4: lambda: image[::-1],
        5: lambda: image.transpose(1, 0, 2),
        6: lambda: np.rot90(image, -1),
        7: lambda: image[::-1, ::-1].transpose(1, 0, 2),
        8: lambda: np.rot90(image, 1),
    }.get(orientation)
    return image if turned is None else np.ascontiguousarray(turned())


def _decode_with_pillow(data: bytes, exif: bool, max_pixels: int) -> np.ndarray:
    """Decode with the one plugin that the first bytes name; its own `open` would look at 40 formats."""
    kind, plugin = _plugin(data)
    try:
        if kind == "WebP":
            width, height = _webp_size(data)
            _check_size(width, height, max_pixels)
            if _is_animation(data) and _ANIMATION_PICTURES * width * height > max_pixels:
                raise ImageError(f"{width}x{height} pixels are too many for an animation")
        if kind == "JPEG" and data.count(b"\xff\xda") > _MAX_SCANS:
            raise ImageError(f"damaged JPEG of more than {_MAX_SCANS} scans")
        with plugin(io.BytesIO(data)) as image:
            width, height = image.size
            _check_size(width, height, max_pixels)
            if kind == "BMP" and data[30] in _RUN_LENGTHS and width * height > _MAX_RUN_LENGTH_PIXELS:
                raise ImageError(f"{width}x{height} pixels are too many for a BMP with run lengths")
            if kind == "PPM" and image.tile[0][0] != "raw" and width * height > _MAX_RUN_LENGTH_PIXELS:
                raise ImageError(f"{width}x{height} pixels are too many for a PPM of this kind")
            # Pillow turns a TIFF while loading it and forgets the tag
            tiff = isinstance(image, TiffImagePlugin.TiffImageFile)
            turned = image.tag_v2.get(_ORIENTATION_TAG, 1) if tiff else 1
            orientation = image.getexif().get(_ORIENTATION_TAG, 1) if exif and kind != "TIFF" else 1
            if _has_16_bit_colour(image, kind, data):
                if kind == "PNG":
                    _require_whole_chunks(data)
                return _upright(_decode_16_bit_colour(data), turned if exif else 1)
            image.load()
            rgb = _rgb8(image, kind)
    except ImageError:
        raise
    except Exception as error:  # Pillow raises a dozen types on damaged files
        raise ImageError(f"damaged {kind}: {_one_line(error)}") from None
    if kind == "TIFF" and not exif:
        return _upright(rgb, {6: 8, 8: 6}.get(turned, turned))
    return _upright(rgb, orientation)


def _plugin(data: bytes) -> tuple[str, Callable[[io.BytesIO], ImageFile.ImageFile]]:
    if not data:
        raise ImageError("empty file")
    for magic, kind, plugin in _PLUGINS:
        if data.startswith(magic) and (kind != "WebP" or data[8:12] == b"WEBP"):
            return kind, plugin
    brand = _BRANDS.get(data[8:12]) if data[4:8] == b"ftyp" else None
    if brand == "AVIF" and _AVIF:
        from PIL.AvifImagePlugin import AvifImageFile  # Pillow before 11.3 has none

        return brand, AvifImageFile
    if brand is not None:
        raise ImageError(f"{brand}, which the installed Pillow cannot read; convert it")
    raise ImageError("not an image (no JPEG, PNG, WebP, BMP, TIFF, GIF, JPEG 2000, PPM or AVIF header)")


def _one_line(error: Exception) -> str:
    return " ".join(str(error)[:1000].split())[:200] or type(error).__name__


def _webp_size(data: bytes) -> tuple[int, int]:
    """Read the canvas size; Pillow's plugin takes the memory for it at once."""
    kind, body = data[12:16], data[20:30]
    if kind == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    raise ImageError("damaged WebP: no picture chunk")


def _is_animation(data: bytes) -> bool:
    return data[12:16] == b"VP8X" and bool(data[20] & 2)


def _has_16_bit_colour(image: Image.Image, kind: str, data: bytes) -> bool:
    """Say whether Pillow would keep only the high bytes of this file's colours."""
    if kind == "PNG":
        return data[24] == 16 and data[25] != 0
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.mode in ("RGB", "RGBA", "RGBX", "RGBa", "LA"):
        return max(image.tag_v2.get(_BITS_PER_SAMPLE_TAG, (8,))) == 16
    return False


def _require_whole_chunks(png: bytes) -> None:
    """Refuse a chunk that is longer than the file: cv2 takes the memory for it at once."""
    at = len(b"\x89PNG\r\n\x1a\n")
    while at + 8 <= len(png):
        at += 12 + int.from_bytes(png[at : at + 4], "big")
        if at > len(png):
            raise ImageError("damaged PNG: cut off")


def _decode_16_bit_colour(data: bytes) -> np.ndarray:
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None or image.dtype != np.uint16:
        raise ImageError("damaged 16-bit image")
    return _to_8_bit(image[:, :, ::-1])


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    """Divide by 257, rounding to nearest: 0..65535 -> 0..255; some rows at a time, to need little memory."""
    result = np.empty(values.shape, np.uint8)
    rows = max(1, _BLOCK_PIXELS // max(1, values.shape[1]))
    for start in range(0, len(values), rows):
        block = slice(start, start + rows)
        result[block] = (values[block].astype(np.uint32) + 128) // 257
    return result


def _rgb8(image: Image.Image, kind: str) -> np.ndarray:
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and kind in ("PNG", "PPM")):
        grey = _to_8_bit(np.asarray(image))
        return np.repeat(grey[:, :, None], 3, axis=2)
    if mode in ("I", "F"):
        raise ImageError("32-bit pixels have no known range")
    if mode in ("RGBA", "RGBX"):
        return np.ascontiguousarray(np.asarray(image)[:, :, :3])
    if mode in ("RGBa", "La"):
        image = image.convert("RGBA" if mode == "RGBa" else "LA")
    return np.array(image if mode == "RGB" else image.convert("RGB"))
