"""Images that lie one after the other in one file, each found by its offset: members of archives, images of a .bin."""

import hashlib
import os
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from data.images.decode import ImageError
from data.sources.base import ImageSource, require_there
from data.tables.names import Names


class Places(NamedTuple):
    """Where the images of a file are."""

    offsets: np.ndarray
    """(N,) int64 byte at which an image, or what precedes it, begins."""
    sizes: np.ndarray
    """(N,) int64 bytes that it takes in the file."""
    checksums: np.ndarray | None = None
    """(N,) uint32 CRC-32 of each image, where the file tells."""

    def take(self, rows: np.ndarray) -> "Places":
        """Return the given rows, in that order."""
        checksums = None if self.checksums is None else self.checksums[rows]
        return Places(self.offsets[rows], self.sizes[rows], checksums)


def cut(path: str, offset: int, size: int) -> bytes:
    """Return `size` bytes of a file; raises ImageError where it ends before, or cannot be read.

    Raises DataError where the file is gone.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        try:
            missing = min(size, offset + size - os.fstat(descriptor).st_size)
            if missing > 0:  # before memory is taken for what is not there
                raise ImageError(f"cut off: {os.path.basename(path)} ends {missing} bytes before it does")
            content = os.pread(descriptor, size, offset)
            while len(content) < size and (part := os.pread(descriptor, size - len(content), offset + len(content))):
                content += part
        finally:
            os.close(descriptor)
    except OSError as error:
        require_there(path, error)
        raise ImageError(f"cannot be read: {error.strerror or error}") from None
    if len(content) < size:
        raise ImageError(f"cut off: {os.path.basename(path)} ends {size - len(content)} bytes before it does")
    return content


_NO_OTHERS: Mapping[str, int] = MappingProxyType({})


class MemberSource(ImageSource):
    """Images of one file by name; it is opened for each image, so that any number of such files can be in use."""

    def __init__(
        self,
        location: str | os.PathLike,
        names: Names,
        places: Places,
        other_kinds: Mapping[str, int] = _NO_OTHERS,
    ):
        """Take the names and places of the images; nothing is read."""
        self.location = os.path.abspath(location)
        self._names, self.places, self.other_kinds = names, places, Counter(other_kinds)

    def read(self, row: int) -> bytes:
        """Return an encoded image; raises ImageError where the file does not hold it whole."""
        return cut(self.location, int(self.places.offsets[row]), int(self.places.sizes[row]))

    def describe(self, row: int) -> str:
        """Name file and image."""
        return f"{self.location}, {self._names[row]}"

    def take(self, rows: np.ndarray) -> "MemberSource":
        """Return a source of the given rows, in that order."""
        return type(self)(self.location, self._names.take(rows), self.places.take(rows), self.other_kinds)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file's size and time of change, and of the names and places of the images."""
        status = os.stat(self.location)
        digest = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns} {self._names.digest()}".encode())
        for column in self.places:
            digest.update(b"" if column is None else np.ascontiguousarray(column).data)
        return digest.hexdigest()


class ZipSource(MemberSource):
    """Members of a .zip; an offset is that of a local header, a size that of the packed member."""

    def read(self, row: int) -> bytes:
        """Return an encoded image; raises ImageError where it is damaged, encrypted or packed in an unknown way."""
        at = int(self.places.offsets[row])
        head = cut(self.location, at, 30)
        if head[:4] != b"PK\x03\x04":
            raise ImageError(f"damaged: no member begins at byte {at} of {os.path.basename(self.location)}")
        flags, method = int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little")
        if flags & 1:
            raise ImageError("encrypted")
        skipped = int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        packed = cut(self.location, at + 30 + skipped, int(self.places.sizes[row]))
        if method not in _UNPACK:
            raise ImageError(f"packed by method {method}, neither stored nor deflated")
        content = _UNPACK[method](packed)
        if self.places.checksums is not None and zlib.crc32(content) != int(self.places.checksums[row]):
            raise ImageError("damaged: its checksum is another one")
        return content


def _inflate(packed: bytes) -> bytes:
    unpacking = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = unpacking.decompress(packed, _LARGEST)
    except zlib.error as error:
        raise ImageError(f"damaged: {error}") from None
    if unpacking.unconsumed_tail:
        raise ImageError(f"larger than {_LARGEST >> 20} MiB when unpacked")
    if not unpacking.eof:
        raise ImageError("damaged: its packed data end early")
    return content


_LARGEST = 1 << 30
_UNPACK: dict[int, Callable[[bytes], bytes]] = {0: bytes, 8: _inflate}
