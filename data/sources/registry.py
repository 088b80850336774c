"""Which kind of source a location is: the only place that knows them all."""

import os
from collections.abc import Callable
from pathlib import Path

from data.images.decode import IMAGE_SUFFIXES
from data.sources.archives import open_tar, open_zip
from data.sources.base import ImageSource
from data.sources.bins import open_bin
from data.sources.dealt import Deal, deal
from data.sources.folder import list_folder
from data.sources.lists import open_image, open_list, with_names
from data.sources.parquet import open_parquet
from data.sources.recordio import open_records
from data.sources.shards import is_pattern, open_shards
from utils.errors import DataError
from utils.outside.reading import reading

CONTAINERS: dict[str, Callable[[str | os.PathLike], ImageSource]] = {
    ".rec": open_records,
    ".bin": open_bin,
    ".tar": open_tar,
    ".zip": open_zip,
    ".parquet": open_parquet,
    ".txt": open_list,
    ".lst": open_list,
}
"""What opens a file that holds images, by its suffix in lower case."""


def open_source(location: str | os.PathLike, names: str | None = None) -> ImageSource:
    """Open a folder of images, one image, a list of paths, or one or more files that hold images.

    names: a list of the names that its images get, in the order of the source.
    Raises DataError where the location is none of these.
    """
    source = open_shards(location, _open) if is_pattern(location) else _open(location)
    return source if names is None else with_names(source, names)


def open_dealt(location: str | os.PathLike, folder: str | Path) -> Deal:
    """Open those of several containers that are this process's; all processes call this, `folder` is shared."""
    return deal(location, _open, folder)


def _open(location: str | os.PathLike) -> ImageSource:
    if not os.path.isfile(location):
        return list_folder(location)
    suffix = Path(location).suffix.lower()
    if suffix in CONTAINERS:
        with reading(location, way_out="fetch it again, or name another"):
            return CONTAINERS[suffix](location)
    if suffix in IMAGE_SUFFIXES or not suffix:
        return open_image(location)
    if suffix in (".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"):
        raise DataError(f"{location}: a packed archive gives no single image; unpack it, or gunzip a .tar.gz to a .tar")
    known = ", ".join(CONTAINERS)
    raise DataError(f"{location}: is no folder, no image and no file that holds images ({known}); name one of them")
