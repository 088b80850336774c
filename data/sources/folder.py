"""The image names below a folder, as compact arrays, with what tells later whether the folder changed."""

import os
import time
from array import array
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from data.images.decode import IMAGE_SUFFIXES
from data.tables.names import Names
from utils.errors import DataError

_ENDINGS = tuple(suffix.encode() for suffix in IMAGE_SUFFIXES)
_TICK_NS = 50_000_000
_COARSE_TICK_NS = 2_000_000_000


class Listing(NamedTuple):
    """Images of a folder, sorted by their names' bytes; the same ones as data.images.list_images."""

    names: Names
    """Relative POSIX paths."""
    folder_of: np.ndarray
    """(N,) int32 row of the image's folder in `folders`."""
    folders: Names
    """Relative paths of all folders, "" first."""
    changed_ns: np.ndarray
    """(F,) int64 modification time of each folder, before it was listed."""
    other_files: int
    """Files with another suffix."""
    settled: bool
    """False when a folder changed so recently that a later change might not move its time."""


def list_compactly(root: str | os.PathLike) -> Listing:
    """List the images below `root`, any suffix case, following links but never in circles."""
    root = os.fsencode(os.path.abspath(root))
    if not os.path.isdir(root):
        raise DataError(f"{os.fsdecode(root)}: no such folder of images; name an existing one")
    text, lengths, counts = bytearray(), array("q"), array("q")
    folders, changed = [], array("q")
    others, settled = 0, True
    for folder, names, other_files, changed_ns in _walk(root):
        tick = _TICK_NS if changed_ns % 1_000_000_000 else _COARSE_TICK_NS
        settled &= changed_ns + tick < time.time_ns()
        folders.append(folder)
        changed.append(changed_ns)
        counts.append(len(names))
        others += other_files
        names.sort()
        keys = [folder + b"/" + name for name in names] if folder else names
        text += b"".join(keys)
        lengths.extend(map(len, keys))
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(np.frombuffer(lengths, np.int64), out=offsets[1:])
    table = Names(np.frombuffer(text, np.uint8), offsets)
    folder_of = np.repeat(np.arange(len(counts), dtype=np.int32), np.frombuffer(counts, np.int64))
    if (order := table.order()) is not None:
        table, folder_of = table.take(order), folder_of[order]
    return Listing(table, folder_of, Names.from_strings(folders), np.array(changed, np.int64), others, settled)


def unchanged(root: str | os.PathLike, folders: Names, changed_ns: np.ndarray) -> bool:
    """Tell whether no folder gained or lost an entry since the listing."""
    base = os.path.abspath(root)
    try:
        return all(
            os.stat(os.path.join(base, name)).st_mtime_ns == int(then)
            for name, then in zip(folders, changed_ns, strict=True)
        )
    except OSError:
        return False


def _walk(root: bytes) -> Iterator[tuple[bytes, list[bytes], int, int]]:
    """Yield (relative folder, image names, count of other files, modification time) for every folder."""
    pending: list[tuple[bytes, tuple]] = [(b"", ())]
    while pending:
        folder, parents = pending.pop()
        path = os.path.join(root, folder) if folder else root
        try:
            status = os.stat(path)
            identity = (status.st_dev, status.st_ino)
            if identity in parents:
                continue
            names, others, below = [], 0, []
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_dir():
                        below.append(entry.name + b"/")
                    elif not (entry.is_file() or entry.is_symlink()):
                        continue
                    elif _is_image(entry.name):
                        names.append(entry.name)
                    else:
                        others += 1
        except OSError as error:
            raise DataError(f"{os.fsdecode(path)}: the folder cannot be listed ({error.strerror})") from None
        for name in sorted(below, reverse=True):  # the last in is the first out
            pending.append((os.path.join(folder, name[:-1]), (*parents, identity)))
        yield folder, names, others, status.st_mtime_ns


def _is_image(name: bytes) -> bool:
    """Tell an image by its suffix; a hidden file `.jpg` has none."""
    return name.lower().endswith(_ENDINGS) and (name[:1] != b"." or os.path.splitext(name)[1] != b"")
