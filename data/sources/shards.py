"""Several containers as one source: `part-{000..099}.tar`, `train-*.parquet`."""

import glob
import hashlib
import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from data.sources.base import ImageSource
from data.tables.names import Names
from utils.errors import DataError

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_WILD = re.compile(r"[*?]")


class ShardedSource(ImageSource):
    """Images of several sources, in the order of their names."""

    def __init__(self, location: str, parts: Sequence[ImageSource], names: Names, places: np.ndarray):
        """Take the parts, and for each name (part, row in it), (N, 2) int32."""
        self.location = os.path.abspath(location)
        self.parts, self._names, self.places = parts, names, places
        self.other_kinds = sum((Counter(part.other_kinds) for part in parts), Counter())

    def read(self, row: int) -> bytes:
        """Return an encoded image."""
        part, place = self.places[row]
        return self.parts[part].read(int(place))

    def describe(self, row: int) -> str:
        """Name the image as its part does."""
        part, place = self.places[row]
        return self.parts[part].describe(int(place))

    def take(self, rows: np.ndarray) -> "ShardedSource":
        """Return a source of the given rows, in that order."""
        return ShardedSource(self.location, self.parts, self._names.take(rows), self.places[rows])

    def fingerprint(self) -> str:
        """Return the SHA-256 of the parts' fingerprints, the names and their places."""
        digest = hashlib.sha256(self._names.digest().encode())
        for part in self.parts:
            digest.update(part.fingerprint().encode())
        digest.update(np.ascontiguousarray(self.places).data)
        return digest.hexdigest()


def is_pattern(location: str | os.PathLike) -> bool:
    """Tell whether a location stands for several files."""
    text = os.fspath(location)
    return bool(_RANGE.search(text) or _WILD.search(text)) and not os.path.lexists(text)


def expand(location: str | os.PathLike) -> list[str]:
    """Return the files that a pattern stands for, sorted; raises DataError where there is none, or one is missing."""
    pieces = _RANGE.split(os.fspath(location))
    texts, ranges = pieces[::3], list(zip(pieces[1::3], pieces[2::3], strict=True))
    numbers = [[f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)] for first, last in ranges]
    files = []
    for chosen in itertools.product(*numbers):
        path = "".join(itertools.chain(*itertools.zip_longest(texts, chosen, fillvalue="")))
        found = sorted(glob.glob(path)) if _WILD.search(path) else [path] * os.path.isfile(path)
        if not found:
            raise DataError(f"{path}: no such file, which {location} stands for; fetch it or narrow the pattern")
        files += found
    if not files:
        raise DataError(f"{location}: stands for no file; name the range as {{000..099}}")
    return files


def open_shards(location: str | os.PathLike, opener: Callable[[str], ImageSource]) -> ShardedSource:
    """Open every file that a pattern stands for; raises DataError where two hold an image of one name."""
    files = expand(location)
    parts = [opener(path) for path in files]
    arrays = [part.names.to_arrow() for part in parts]
    names = Names.from_arrow(pa.concat_arrays([pa.array([], pa.large_binary()), *arrays]))
    del arrays
    shard = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
    row = np.concatenate([np.arange(len(part), dtype=np.int32) for part in parts])
    places = np.stack([shard, row], axis=1)
    if (order := names.order()) is not None:
        names, places = names.take(order), places[order]
    if (place := names.first_repeat()) is not None:
        one, other = (files[places[at, 0]] for at in (place, place + 1))
        raise DataError(
            f"{other}: holds {names[place]!r}, as {one} does; give the images of all files names of their own"
        )
    return ShardedSource(os.fspath(location), parts, names, places)
