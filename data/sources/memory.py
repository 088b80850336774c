"""Encoded images that are in memory already, as those of a pairs file that carries them (InsightFace .bin)."""

import hashlib
import os
from collections.abc import Sequence

import numpy as np

from data.sources.base import ImageSource
from data.tables.names import Names


class MemorySource(ImageSource):
    """Images in a list, one per name, in the order of the list."""

    def __init__(self, location: str | os.PathLike, names: Names, images: Sequence[bytes]):
        """Take images that were read from the file `location`."""
        self.location = os.path.abspath(location)
        self._names, self.images = names, images

    def read(self, row: int) -> bytes:
        """Return an encoded image."""
        return self.images[row]

    def describe(self, row: int) -> str:
        """Name file and image."""
        return f"{self.location}, image {self._names[row]}"

    def take(self, rows: np.ndarray) -> "MemorySource":
        """Return a source of the given rows, in that order."""
        return MemorySource(self.location, self._names.take(rows), [self.images[row] for row in rows])

    def fingerprint(self) -> str:
        """Return the SHA-256 of names and images."""
        digest = hashlib.sha256(self._names.digest().encode())
        for image in self.images:
            digest.update(hashlib.sha256(image).digest())
        return digest.hexdigest()
