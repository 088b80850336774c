"""Text files as bytes: how they are encoded or packed, and a clear word where a file is no text at all."""

import codecs
import gzip
import re
from io import BufferedReader
from pathlib import Path
from typing import IO

import pyarrow as pa

from utils.errors import DataError

GZIP = b"\x1f\x8b"
_HEAD_BYTES = 4096
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_KINDS = (
    (rb"PK\x03\x04.*xl/", "an Excel workbook; save the sheet as CSV"),
    (rb"PK\x03\x04.*data\.pkl", "a file of torch.save; save the numbers as CSV, or pickle a dict of names"),
    (rb"PK\x03\x04.*\.npy", "a numpy .npz; give it that suffix"),
    (rb"PK\x03\x04", "a zip archive; unpack it"),
    (rb"\x93NUMPY", "a numpy array; give it the suffix .npy"),
    (rb"\x80[\x02-\x05][^ -~]", "a pickle; give it the suffix .pkl"),
    (rb"PAR1[^ -~]", "parquet; give it the suffix .parquet"),
    (rb"ARROW1\0|FEA1", "feather; give it the suffix .feather"),
    (rb"\x89HDF", "HDF5; save the numbers as CSV"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP", "an image; name a file with names and numbers"),
    (rb"SQLite format 3", "a database; save the table as CSV"),
    (rb"%PDF-", "a PDF; save the table as CSV"),
)


def text_encoding(path: Path) -> str:
    """Return the encoding of a text file, by its first bytes."""
    with _bytes(path) as stream:
        return "utf-16" if stream.read(2) in _UTF16 else "utf-8-sig"


def open_text(path: Path) -> IO[str]:
    """Open a text file, unpacked; names that are no UTF-8 keep their bytes."""
    encoding = text_encoding(path)
    if _is_packed(path):
        return gzip.open(path, "rt", encoding=encoding, errors="surrogateescape", newline="")
    return open(path, encoding=encoding, errors="surrogateescape", newline="")


def open_bytes(path: Path) -> pa.NativeFile:
    """Open a text file for Arrow, unpacked and in UTF-8.

    Arrow reads ahead in a thread of its own, which must not need Python: at its end that would be gone.
    """
    if text_encoding(path) == "utf-16":
        with _bytes(path) as stream:
            return pa.BufferReader(stream.read().decode("utf-16", "replace").encode())
    return pa.input_stream(str(path), compression="gzip" if _is_packed(path) else None)


def require_text(path: Path) -> None:
    """Raise DataError saying what a file is, where it is no text."""
    with _bytes(path) as stream:
        try:
            head = stream.read(_HEAD_BYTES)
        except (OSError, EOFError) as error:
            raise DataError(f"{path}: a damaged gzip file ({error}); pack it anew") from error
    known = next((words for pattern, words in _KINDS if re.match(pattern, head, re.DOTALL)), None)
    if head[:2] in _UTF16 or (known is None and b"\0" not in head):
        return
    if known is None:
        raise DataError(f"{path}: is no text file; name a table of names and numbers, see docs/formats.md")
    what, _, way_out = known.partition("; ")
    raise DataError(f"{path}: is no text file but {what}; {way_out}")


def _is_packed(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(2) == GZIP


def _bytes(path: Path) -> gzip.GzipFile | BufferedReader:
    return gzip.open(path, "rb") if _is_packed(path) else open(path, "rb")
