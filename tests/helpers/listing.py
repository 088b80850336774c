"""The images below a folder, found the simple way: the oracle of data.sources.folder."""

import os
from collections.abc import Iterator
from typing import NamedTuple

from data.images.decode import IMAGE_SUFFIXES
from data.sources.folder import TEXTS, FolderSource, list_folder


class ImageListing(NamedTuple):
    """What a folder holds."""

    names: list[str]
    """Relative POSIX paths of the images, sorted by their bytes."""
    other_files: int
    """Files with another suffix, and texts without one."""


def list_images(root: str | os.PathLike) -> ImageListing:
    """List the images below root, any suffix case, following links but never in circles."""
    files = sorted(walk_files(os.fspath(root)), key=os.fsencode)
    names = [name for name in files if _is_candidate(os.path.basename(name))]
    return ImageListing(names, len(files) - len(names))


def _is_candidate(name: str) -> bool:
    if "." not in name:
        return os.fsencode(name.lower()) not in TEXTS
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def walk_files(folder: str, prefix: str = "", above: frozenset = frozenset()) -> Iterator[str]:
    """Yield the relative POSIX paths of all files below a folder; `above` holds (device, inode) of those around it."""
    status = os.stat(folder)
    around = above | {(status.st_dev, status.st_ino)}
    for entry in os.scandir(folder):
        if entry.is_dir():
            target = os.stat(entry.path)
            if (target.st_dev, target.st_ino) not in around:
                yield from walk_files(entry.path, f"{prefix}{entry.name}/", around)
        elif entry.is_file() or entry.is_symlink():
            yield prefix + entry.name


def listed(root: str | os.PathLike) -> FolderSource:
    """List a folder; the simple way finds the same."""
    source, plain = list_folder(root), list_images(root)
    assert (list(source.names), source.other_files) == plain
    return source
