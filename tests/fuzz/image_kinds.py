"""Pictures and the files that hold them, made here, each with its reader."""

import io
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from data.images.decode import ImageError, decode_rgb, read_size
from data.sources.registry import open_source
from tests.fuzz.kind import JPEG, MARK, NAMES, Kind, parquet, picture, saved
from tests.fuzz.mutation import of_chunks, of_lines


def _animation(form: str) -> bytes:
    frames = [Image.new("RGB", (24, 20), colour) for colour in ("red", "blue")]
    return saved(lambda stream: frames[0].save(stream, form, save_all=True, append_images=frames[1:]))


def _sixteen_bits() -> bytes:
    values = np.arange(24 * 20, dtype=np.uint16).reshape(24, 20) * 137
    return saved(lambda stream: Image.fromarray(values).save(stream, "PNG"))


def _run_lengths() -> bytes:
    """Return a BMP of 8 bit with run lengths."""
    body = b"\x10\x05\x00\x00" * 16 + b"\x00\x01"
    header = b"BM" + struct.pack("<IHHI", 1078 + len(body), 0, 0, 1078)
    header += struct.pack("<IiiHHIIiiII", 40, 16, 16, 1, 8, 1, len(body), 0, 0, 256, 0)
    return header + bytes(range(256)) * 4 + body


def _decoded(path: Path) -> None:
    content = path.read_bytes()
    try:
        read_size(content)
    except ImageError:
        pass
    decode_rgb(content, max_pixels=4_000_000)


def _tar() -> bytes:
    def write(stream: io.BytesIO) -> None:
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name in NAMES[:3]:
                member = tarfile.TarInfo(name)
                member.size = len(JPEG)
                archive.addfile(member, io.BytesIO(JPEG))

    return saved(write)


def _zip(method: int) -> bytes:
    def write(stream: io.BytesIO) -> None:
        with zipfile.ZipFile(stream, "w", method) as archive:
            for name in NAMES[:3]:
                archive.writestr(name, JPEG)

    return saved(write)


def _record(header: bytes, content: bytes) -> bytes:
    body = header + content
    return struct.pack("<II", 0xCED7230A, len(body)) + body + bytes(-len(body) % 4)


def _records() -> bytes:
    """Return a record file and, behind a mark, its index."""
    parts = [_record(struct.pack("<IfQQ", 2, 0, 0, 0) + struct.pack("<ff", 3, 3), b"")]
    parts += [_record(struct.pack("<IfQQ", 0, n, n, 0), JPEG) for n in (1, 2)]
    places = [sum(map(len, parts[:n])) for n in range(3)]
    return b"".join(parts) + MARK + "".join(f"{n}\t{at}\n" for n, at in enumerate(places)).encode()


def _opened(path: Path) -> None:
    """Open a place of images and read each."""
    source = open_source(path)
    for row in range(min(len(source), 8)):
        try:
            decode_rgb(source.read(row), max_pixels=1_000_000)
        except ImageError:
            continue


def _opened_records(path: Path) -> None:
    records, _, index = path.read_bytes().partition(MARK)
    path.write_bytes(records)
    path.with_suffix(".idx").write_bytes(index)
    _opened(path)


def _opened_list(path: Path) -> None:
    (path.parent / "id_0").mkdir(exist_ok=True)
    (path.parent / "id_0/0.jpg").write_bytes(JPEG)
    _opened(path)


IMAGES = {
    "JPEG": Kind(
        ".jpg", [JPEG, picture("JPEG", progressive=True), picture("JPEG", "CMYK"), picture("JPEG", "L")], _decoded
    ),
    "PNG": Kind(
        ".png",
        [
            picture("PNG"),
            picture("PNG", "RGBA"),
            picture("PNG", "P"),
            picture("PNG", "1"),
            _sixteen_bits(),
            _animation("PNG"),
        ],
        _decoded,
        of_chunks,
    ),
    "WebP": Kind(".webp", [picture("WebP"), picture("WebP", lossless=True), _animation("WebP")], _decoded),
    "BMP": Kind(".bmp", [picture("BMP"), picture("BMP", "P"), picture("BMP", "1"), _run_lengths()], _decoded),
    "TIFF": Kind(
        ".tif",
        [
            picture("TIFF"),
            picture("TIFF", compression="tiff_lzw"),
            picture("TIFF", "CMYK"),
            picture("TIFF", compression="jpeg"),
        ],
        _decoded,
    ),
    "GIF": Kind(".gif", [picture("GIF", "P"), _animation("GIF")], _decoded),
    "records": Kind(".rec", [_records()], _opened_records),
    "images, list": Kind(".txt", ["".join(f"{name}\n" for name in NAMES).encode()], _opened_list, of_lines),
    "images, tar": Kind(".tar", [_tar()], _opened),
    "images, zip": Kind(".zip", [_zip(zipfile.ZIP_STORED), _zip(zipfile.ZIP_DEFLATED)], _opened),
    "images, parquet": Kind(".parquet", [parquet({"image": [{"bytes": JPEG, "path": n} for n in NAMES[:3]]})], _opened),
    "images, bin": Kind(".bin", [pickle.dumps(([JPEG, JPEG], [True]), p) for p in (2, 4)], _opened),
}
