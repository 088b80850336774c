"""Images as encoded bytes, some written by hand, and the reason why bytes give no pixels."""

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from data.images.decode import ImageError, decode_rgb


def picture(height: int = 40, width: int = 30, seed: int = 0) -> np.ndarray:
    """Return a smooth RGB image, different in every corner and channel."""
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(seed).integers(0, 9, (height, width, 3))
    image = np.stack([x * 200 / width, y * 200 / height, (x + y) * 200 / (height + width)], axis=-1)
    return (image + noise).astype(np.uint8)


def encoded(image: np.ndarray | Image.Image, format: str, **options) -> bytes:
    """Encode an image by Pillow."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png_bytes(rows: Sequence, bit_depth: int, colour_type: int, size: tuple[int, int] | None = None) -> bytes:
    """Write a PNG by hand: rows of bytes, no filter; `size` makes its header lie."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height = len(rows)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type]
    width = len(rows[0]) * 8 // bit_depth // channels
    header = struct.pack(">IIBBBBB", *(size or (width, height)), bit_depth, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def reason(data: bytes, **options) -> str:
    """Return the line with which the decoder refuses the bytes."""
    with pytest.raises(ImageError) as caught:
        decode_rgb(data, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
