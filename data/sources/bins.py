"""InsightFace's .bin, a pickle of (encoded images, flags of pairs), as a source of images named by their numbers."""

import os
import pickletools
from pathlib import Path

import numpy as np

from data.sources.base import ImageSource
from data.sources.members import MemberSource, Places
from data.sources.memory import MemorySource
from data.tables.names import Names
from utils.errors import DataError
from utils.outside.reading import shown
from utils.pickles import load_restricted_pickle

_HEADS = {"BINBYTES": 5, "SHORT_BINBYTES": 2, "BINBYTES8": 9, "BINSTRING": 5, "SHORT_BINSTRING": 2}
"""Instruction of a pickle that holds bytes -> its own length before them."""


def images_of_bin(location: str | os.PathLike) -> tuple[list[bytes], np.ndarray]:
    """Return the encoded images and the flags, (n,) bool, of the pairs that images 2i and 2i + 1 make."""
    content = load_restricted_pickle(Path(location), encoding="bytes")
    shaped = isinstance(content, list | tuple) and len(content) == 2
    shaped = shaped and all(isinstance(part, list | tuple | np.ndarray) and np.ndim(part[:0]) == 1 for part in content)
    if not shaped or len(content[0]) != 2 * len(content[1]) or len(content[1]) == 0:
        raise DataError(f"{location}: not an InsightFace .bin, which holds (2n encoded images, n flags)")
    images = [_encoded(location, row, image) for row, image in enumerate(content[0])]
    return images, np.array([bool(flag) for flag in content[1]])


def _encoded(path: str | os.PathLike, row: int, image: object) -> bytes:
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        return image.tobytes()
    if not isinstance(image, bytes):
        raise DataError(f"{path}: image {row} is {shown(image)}, not the bytes of a file; mend it")
    return image


def bin_names(count: int) -> Names:
    """Return the numbers 000000, 000001 ... as names."""
    return Names.from_strings([f"{row:06d}" for row in range(count)])


def open_bin(location: str | os.PathLike) -> ImageSource:
    """Open a .bin; its images are read by their offsets, or stay in memory where the pickle holds them otherwise."""
    images, _ = images_of_bin(location)
    names = bin_names(len(images))
    with open(location, "rb") as stream:
        found = [
            ((position or 0) + _HEADS[code.name], len(data or b"")) for code, data, position in _byte_strings(stream)
        ]
    offsets, sizes = np.array(found, np.int64).reshape(-1, 2).T
    source = MemberSource(location, names, Places(offsets, sizes))
    if len(found) == len(images) and all(source.read(row) == image for row, image in enumerate(images)):
        return source
    return MemorySource(location, names, images)


def _byte_strings(stream):
    return ((code, data, position) for code, data, position in pickletools.genops(stream) if code.name in _HEADS)
