"""Image files of every kind people have, good and broken."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

ORIENTATION = 0x0112


def crop_pixels(seed: int, size: int = 112) -> np.ndarray:
    """Return smooth random RGB pixels (size, size, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def write_image(path: Path, pixels: np.ndarray, **options) -> Path:
    """Write RGB or grey pixels in the format of the suffix; TIFF, PNG, BMP and lossless WebP keep them exactly."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".webp":
        options = {"lossless": True, **options}
    Image.fromarray(pixels).save(path, **options)
    return path


def write_crops(folder: Path, count: int, start: int = 0) -> list[str]:
    """Write `count` different PNG crops in two sub-folders; return their relative names, sorted."""
    names = sorted(f"id_{i % 2}/{i:03d}.png" for i in range(start, start + count))
    for name in names:
        write_image(folder / name, crop_pixels(int(Path(name).stem)))
    return names


def jpeg_bytes(pixels: np.ndarray) -> bytes:
    """Return pixels as an ordinary JPEG file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_broken(folder: Path) -> dict[str, str]:
    """Write one file of each broken kind; return name -> a word its reason must hold."""
    whole = jpeg_bytes(crop_pixels(99))
    write_bytes(folder / "broken/empty.jpg", b"")
    write_bytes(folder / "broken/text.jpg", b"this is no picture\n")
    write_bytes(folder / "broken/truncated.jpg", whole[: len(whole) // 2])
    write_bytes(folder / "broken/truncated.png", png_bytes(crop_pixels(98))[:200])
    write_bytes(folder / "broken/huge.png", blank_png(30_000, 30_000))
    (folder / "broken/nowhere.jpg").symlink_to(folder / "no such file")
    return {
        "broken/empty.jpg": "empty",
        "broken/huge.png": "30000x30000",
        "broken/nowhere.jpg": "read",
        "broken/text.jpg": "not an image",
        "broken/truncated.jpg": "JPEG",
        "broken/truncated.png": "PNG",
    }


def png_bytes(pixels: np.ndarray) -> bytes:
    """Return pixels as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def blank_png(width: int, height: int) -> bytes:
    """Return a valid black 1-bit grey PNG of any size, a few kilobytes for a gigapixel."""
    packer = zlib.compressobj(9)
    line = b"\0" * (1 + (width + 7) // 8)
    data = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", data), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def write_twins(folder: Path, pixels: np.ndarray) -> list[str]:
    """Write the same square RGB pixels in every lossless way; return the names."""
    turned = Image.Exif()
    turned[ORIENTATION] = 6  # shown after a quarter turn clockwise
    stored = np.ascontiguousarray(np.rot90(pixels))
    alpha = np.dstack([pixels, np.full(pixels.shape[:2], 77, np.uint8)])
    write_image(folder / "twin.PNG", pixels)
    write_image(folder / "twin.bmp", pixels)
    write_image(folder / "twin.TIFF", pixels)
    write_image(folder / "twin.WebP", pixels, exact=True)
    write_image(folder / "rgba.png", alpha)
    write_image(folder / "turned.png", stored, exif=turned)
    rgb16 = cv2.imencode(".png", pixels[:, :, ::-1].astype(np.uint16) * 257)[1].tobytes()
    write_bytes(folder / "colour16.png", rgb16)
    return sorted(["twin.PNG", "twin.bmp", "twin.TIFF", "twin.WebP", "rgba.png", "turned.png", "colour16.png"])
