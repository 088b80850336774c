"""A folder of image files: its names as compact arrays, the files' bytes, and what tells whether it changed."""

import hashlib
import os
import stat
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from data.images.decode import IMAGE_SUFFIXES, ImageError
from data.sources.base import ImageSource, kind_of, require_there
from data.tables.names import Names
from utils.errors import DataError

_ENDINGS = tuple(suffix.encode() for suffix in IMAGE_SUFFIXES)
TEXTS = frozenset(
    b"readme license licence copying notice authors contributors changelog changes version manifest makefile "
    b"dockerfile index md5sum md5sums sha1sum sha1sums sha256sum sha256sums checksums".split()
)
"""Names in lower case that people give to files without suffix that are no images."""
_BLOCK = 1 << 14
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_TICK_NS = 50_000_000
_COARSE_TICK_NS = 2_000_000_000


class FolderState(NamedTuple):
    """What tells later, in a glance at its folders alone, whether a folder gained or lost an entry."""

    folders: Names
    """Relative paths of all folders, "" first."""
    changed_ns: np.ndarray
    """(F,) int64 modification time of each folder, before it was listed."""
    settled: bool = True
    """False when a folder changed so recently that a later change might not move its time."""

    def holds(self, location: str) -> bool:
        """Tell whether all folders below `location` are as they were."""
        try:
            return all(
                os.stat(os.path.join(location, name)).st_mtime_ns == int(then)
                for name, then in zip(self.folders, self.changed_ns, strict=True)
            )
        except OSError:
            return False


class FolderSource(ImageSource):
    """Files of a folder by their relative POSIX paths."""

    def __init__(
        self,
        location: str | os.PathLike,
        names: Names,
        other_kinds: Mapping[str, int] = MappingProxyType({}),
        state: FolderState | None = None,
    ):
        """Take names below `location`; nothing is opened."""
        self.location = os.path.abspath(location)
        self.other_kinds, self.state = Counter(other_kinds), state
        self._names = names
        self._base = os.path.join(os.fsencode(self.location), b"")

    def read(self, row: int) -> bytes:
        """Return the content of a file; raises ImageError where it cannot be read or is a pipe or device.

        Raises DataError where the whole folder is gone, as a share that was disconnected: no image has failed then.
        """
        try:
            return _content(self._path(row))
        except ValueError as error:  # a list may hold any bytes
            raise ImageError(f"cannot be read: {error}") from None
        except OSError as error:
            require_there(self.home, error)
            raise ImageError(f"cannot be read: {error.strerror or error}") from None

    @cached_property
    def home(self) -> str:
        """Return the folder that all images are below; of a list of absolute paths the location is the root."""
        extremes = pc.min_max(self._names.to_arrow()).as_py()
        common = os.path.commonpath([os.path.dirname(os.fsdecode(name)) for name in extremes.values()])
        return os.path.join(self.location, common) if common else self.location

    def describe(self, row: int) -> str:
        """Return the path of a file."""
        return os.fsdecode(self._path(row))

    def take(self, rows: np.ndarray) -> "FolderSource":
        """Return a source of the given rows, in that order."""
        return FolderSource(self.location, self._names.take(rows), self.other_kinds)

    def fingerprint(self) -> str:
        """Return the SHA-256 of names, sizes and modification times; a file that is not there counts as such.

        Takes about 3 microseconds a file when the system has its inodes in memory.
        """
        digest, paths = hashlib.sha256(self._names.digest().encode()), self._names.to_arrow()
        for start in range(0, len(self), _BLOCK):
            block = array("q")
            for name in paths[start : start + _BLOCK].to_pylist():
                block.extend(_size_and_time(self._base + name))
            digest.update(block)
        return digest.hexdigest()

    def _path(self, row: int) -> bytes:
        """Join bytes as they are stored: this runs for every image, and needs no text."""
        first, end = self._names.offsets[row : row + 2]
        return self._base + self._names.data[first:end].tobytes()

    def __reduce__(self) -> tuple:
        return FolderSource, (self.location, self._names, self.other_kinds)


def list_folder(root: str | os.PathLike) -> FolderSource:
    """List the images below `root`, any suffix case or none, following links but never in circles; opens no file."""
    location = os.path.abspath(os.fspath(root))
    if not os.path.isdir(location):
        raise DataError(f"{location}: no such folder of images; name an existing one")
    text, lengths = bytearray(), array("q")
    folders, changed = [], array("q")
    others, settled = Counter(), True
    for folder, names, other_kinds, changed_ns in _walk(os.fsencode(location)):
        tick = _TICK_NS if changed_ns % 1_000_000_000 else _COARSE_TICK_NS
        settled &= changed_ns + tick < time.time_ns()
        folders.append(folder)
        changed.append(changed_ns)
        others.update(other_kinds)
        names.sort()
        keys = [folder + b"/" + name for name in names] if folder else names
        text += b"".join(keys)
        lengths.extend(map(len, keys))
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(np.frombuffer(lengths, np.int64), out=offsets[1:])
    table = Names(np.frombuffer(text, np.uint8), offsets)
    if (order := table.order()) is not None:
        table = table.take(order)
    state = FolderState(Names.from_strings(folders), np.array(changed, np.int64), settled)
    return FolderSource(location, table, others, state)


def _content(path: bytes) -> bytes:
    """Read a regular file whole, with few calls; never wait for a pipe, never read what has no end."""
    descriptor = os.open(path, _READ)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "is a folder" if stat.S_ISDIR(status.st_mode) else "is no regular file")
        content = os.read(descriptor, status.st_size)
        while len(content) < status.st_size and (part := os.read(descriptor, status.st_size - len(content))):
            content += part
        return content
    finally:
        os.close(descriptor)


def _size_and_time(path: bytes) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _walk(root: bytes) -> Iterator[tuple[bytes, list[bytes], Counter[str], int]]:
    """Yield (relative folder, image names, count of other files by kind, modification time) for every folder."""
    pending: list[tuple[bytes, tuple]] = [(b"", ())]
    while pending:
        folder, parents = pending.pop()
        path = os.path.join(root, folder) if folder else root
        try:
            status = os.stat(path)
            identity = (status.st_dev, status.st_ino)
            if identity in parents:
                continue
            names, others, below = [], Counter(), []
            with os.scandir(path) as entries:
                for entry in entries:
                    if _is_folder(entry):
                        below.append(entry.name + b"/")
                    elif not (entry.is_symlink() or entry.is_file()):
                        continue
                    elif is_image_name(entry.name):
                        names.append(entry.name)
                    else:
                        others[kind_of(entry.name)] += 1
        except OSError as error:
            raise DataError(f"{os.fsdecode(path)}: the folder cannot be listed ({error.strerror})") from None
        for name in sorted(below, reverse=True):  # the last in is the first out
            pending.append((os.path.join(folder, name[:-1]), (*parents, identity)))
        yield folder, names, others, status.st_mtime_ns


def _is_folder(entry: os.DirEntry) -> bool:
    """Tell folders and links to them; a link in a circle is none, and fails when it is read."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_image_name(name: bytes) -> bool:
    """Tell what may be an image: an image's suffix, or none and no README; a hidden file `.jpg` has neither."""
    lower = name.lower()
    if lower.endswith(_ENDINGS):
        return name[:1] != b"." or os.path.splitext(name)[1] != b""
    return b"." not in name and lower not in TEXTS
