"""One image, a text list of paths, and the names that a list gives to the images of a container."""

import os
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.sources.base import ImageSource
from data.sources.folder import FolderSource
from data.tables.name_lists import read_names
from data.tables.names import Names
from utils.errors import DataError
from utils.outside.reading import shown


def open_image(location: str | os.PathLike) -> FolderSource:
    """Open one image file, named by its file name."""
    path = os.path.abspath(location)
    return FolderSource(os.path.dirname(path), Names.from_strings([os.fsencode(os.path.basename(path))]))


def open_list(location: str | os.PathLike) -> FolderSource:
    """Open a list with a path in each line, as CR-FIQA's image_path_list.txt; the lines are the names.

    Relative paths begin at the list's folder, or, where the first image is not there, at the working directory.
    Raises DataError where paths are partly absolute, or a line stands twice.
    """
    names = read_names(location)
    if not len(names):
        return FolderSource(os.path.dirname(os.path.abspath(location)), names)
    absolute = pc.starts_with(names.to_arrow(), pattern=b"/").to_numpy(zero_copy_only=False)
    if absolute.all():
        base = "/"
    elif absolute.any():
        raise DataError(f"{location}: some paths are absolute and some are not; write all of them in one way")
    else:
        base = os.path.dirname(os.path.abspath(location))
        if not os.path.lexists(os.path.join(base, names[0])) and os.path.lexists(names[0]):
            base = os.getcwd()
    _refuse_repeats(location, names)
    order = names.order()
    source = FolderSource(base, names if order is None else names.take(order))
    if not os.path.isdir(source.home):
        raise DataError(
            f"{location}: the folder of its images, {shown(source.home)}, is not there; a line is a path and nothing "
            f"else, the first one here is {shown(names[0])}"
        )
    return source


def _refuse_repeats(path: str | os.PathLike, names: Names) -> None:
    counts = pc.value_counts(names.to_arrow())
    repeated = np.flatnonzero(counts.field("counts").to_numpy() > 1)
    if len(repeated):
        name = os.fsdecode(counts.field("values")[int(repeated[0])].as_py())
        raise DataError(f"{path}: {len(repeated)} lines stand more than once, first {name!r}; remove the repeats")


class NamedSource(ImageSource):
    """Images of another source under names that a list gives them."""

    def __init__(self, source: ImageSource, names: Names):
        """Take a name for each row of the source."""
        self.source, self._names = source, names
        self.location, self.other_kinds = source.location, Counter(source.other_kinds)

    def read(self, row: int) -> bytes:
        """Return an encoded image."""
        return self.source.read(row)

    def describe(self, row: int) -> str:
        """Name the image as the source does, and by its given name."""
        return f"{self.source.describe(row)} ({self._names[row]})"

    def take(self, rows: np.ndarray) -> "NamedSource":
        """Return a source of the given rows, in that order."""
        return NamedSource(self.source.take(rows), self._names.take(rows))

    def fingerprint(self) -> str:
        """Return that of the source and the names."""
        return f"{self.source.fingerprint()}{self._names.digest()}"


def _are_numbers(names: Names) -> bool:
    """Tell whether names are numbers in ascending order, as a container counts its images."""
    array = names.to_arrow()
    if not pc.all(pc.match_substring_regex(array, pattern=r"^[0-9]{1,18}$")).as_py():
        return False
    return bool((np.diff(array.cast(pa.large_string()).cast(pa.int64()).to_numpy()) > 0).all())


def with_names(source: ImageSource, path: str) -> NamedSource:
    """Return the images of a source, in its order, under the names that a list has in its lines; sorted by them.

    Raises DataError where the images have names: a list in another order would call each by that of another.
    """
    names = read_names(path)
    if not _are_numbers(source.names):
        raise DataError(
            f"{source.location}: its images have names, first {source.names[0]!r}; `names` is for the images of a "
            f"container that only numbers them, leave {path} out"
        )
    if len(names) != len(source):
        raise DataError(f"{path}: has {len(names)} names for the {len(source)} images of {source.location}")
    _refuse_repeats(path, names)
    order = names.order()
    return NamedSource(source, names) if order is None else NamedSource(source.take(order), names.take(order))
