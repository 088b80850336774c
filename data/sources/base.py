"""What every place of encoded images offers, be it a folder or one large file."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from data.images.decode import read_size
from data.tables.names import Names
from utils.errors import DataError

_MOST_KINDS = 5


def kind_of(name: bytes) -> str:
    """Return the suffix of a file in lower case, or an empty text."""
    return os.fsdecode(os.path.splitext(name)[1].lower()).encode("utf-8", "replace").decode()[:20]


class ImageSource(ABC):
    """Give the encoded bytes of named images; a row is a place in `names`.

    The order of the rows is fixed: by the bytes of the names, or by number where a container numbers its images.
    Pickling sends what finds the images, and never the images of a file.
    """

    location: str
    """Absolute path of the folder or file."""
    other_kinds: Mapping[str, int] = MappingProxyType({})
    """How many files of each suffix lie beside the images and are none by their names."""

    _names: Names

    @property
    def names(self) -> Names:
        """Return what landmarks, labels and scores call the images."""
        return self._names

    @property
    def other_files(self) -> int:
        """Return how many files beside the images are none by their names."""
        return sum(self.other_kinds.values())

    def named_others(self) -> str:
        """Name the other files by count and kind: `12 other files: 9 .txt, 3 without suffix`, or `no other files`."""
        if not self.other_kinds:
            return "no other files"
        common = sorted(self.other_kinds.items(), key=lambda pair: (-pair[1], pair[0]))[:_MOST_KINDS]
        shown = [f"{count:,} {kind or 'without suffix'}" for kind, count in common]
        further = self.other_files - sum(count for _, count in common)
        files = "file" if self.other_files == 1 else "files"
        return f"{self.other_files:,} other {files}: {', '.join([*shown, *([f'{further:,} more'] if further else [])])}"

    def __len__(self) -> int:
        return len(self.names)

    def share_names(self, names: Names) -> None:
        """Take the same names where they lie in memory already."""
        self._names = names

    @abstractmethod
    def read(self, row: int) -> bytes:
        """Return an encoded image; raises ImageError with the reason where there is none."""

    def size(self, row: int, exif: bool) -> tuple[int, int]:
        """Return (width, height) of an image, upright by its EXIF tag if asked; ImageError where there is none."""
        return read_size(self.read(row), exif=exif)

    @abstractmethod
    def describe(self, row: int) -> str:
        """Return what messages call an image: enough for a person to find it."""

    @abstractmethod
    def take(self, rows: np.ndarray) -> "ImageSource":
        """Return a source of the given rows, in that order."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a SHA-256 that changes with the names, sizes or times of change of the files, not with their place."""


def require_there(place: str, error: OSError) -> None:
    """Raise DataError where a folder or file of images is gone, as with a share that was disconnected.

    Then no image has failed, and going on would only count all of them. A folder is gone, too, when it cannot be
    listed, or is as empty as a place to mount on.
    """
    try:
        if not os.path.isdir(place):
            os.stat(place)
            return
        with os.scandir(place) as entries:
            if next(entries, None) is not None:
                return
    except OSError:
        pass
    raise DataError(f"{place} is gone ({error.strerror or error}); bring it back and run again") from None
