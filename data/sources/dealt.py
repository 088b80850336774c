"""Containers dealt to the processes of torchrun: each opens and names its own; the names of all are sorted on disk.

Rows of all images are counted container by container, in the order of the files. Scores are written in the order of
the names, as from a folder: what leads from one to the other is worked out before anything long starts.
"""

import hashlib
import itertools
import os
import tempfile
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import pyarrow as pa

from data.sources.base import ImageSource
from data.sources.shards import ShardedSource, expand
from data.tables.names import Names
from utils import distributed
from utils.errors import DataError
from utils.files import make_folder

_AT_ONCE = 1 << 19
"""Names that are sorted at a time."""
_SAMPLED = 64
"""Names of each container by which the others are parted."""


class DealtSource(ImageSource):
    """Images of the containers of one process, in the order of the files and, in each of them, of the names."""

    def __init__(self, location: str, opened: "_Opened", told: "list[_Told]"):
        """Take the containers of this process, and what is known of those of all."""
        self.location, self.parts, self._names = os.path.abspath(location), opened.parts, opened.names
        self._begins = np.cumsum([0, *(one.count for one in opened.told)])
        for part, (first, end) in zip(self.parts, itertools.pairwise(self._begins.tolist()), strict=True):
            part.share_names(self._names.between(first, end))
        self.other_kinds = sum((Counter(one.others) for one in told), Counter())
        self._print_of_all = _hash(one.fingerprint for one in told)

    def _places(self, rows: np.ndarray) -> np.ndarray:
        """Return (part, row in it) of each row, (R, 2) int32."""
        part = np.searchsorted(self._begins, rows, side="right") - 1
        return np.stack([part, rows - self._begins[part]], axis=1).astype(np.int32)

    def read(self, row: int) -> bytes:
        """Return an encoded image."""
        ((part, place),) = self._places(np.array([row])).tolist()
        return self.parts[part].read(place)

    def describe(self, row: int) -> str:
        """Name the image as its part does."""
        ((part, place),) = self._places(np.array([row])).tolist()
        return self.parts[part].describe(place)

    def take(self, rows: np.ndarray) -> ShardedSource:
        """Return a source of the given rows, in that order."""
        return ShardedSource(self.location, self.parts, self._names.take(rows), self._places(rows))

    def fingerprint(self) -> str:
        """Return that of all containers, whichever of them are here."""
        return self._print_of_all


class SortedNames(NamedTuple):
    """The names of the images of all containers, sorted."""

    names: Names
    rows: np.ndarray
    """(N,) row of each name, as they are counted container by container; of the smallest type that holds them."""


class Deal(NamedTuple):
    """Who has which containers, and the images of this process."""

    source: DealtSource
    counts: np.ndarray
    """(K,) int64 images of each container."""
    owners: np.ndarray
    """(K,) process that has it; all are -1 where there are fewer containers than processes: everybody has all."""
    digest: str
    """What changes where an image, or a container, changes its place."""
    sorted: SortedNames | None
    """Of all images; on the first process only, and on disk."""

    @property
    def begins(self) -> np.ndarray:
        """Return the first row of each container, and the number of images: (K + 1,)."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.counts)])

    @property
    def is_parted(self) -> bool:
        """Tell whether each process has containers of its own."""
        return bool((self.owners >= 0).all())

    def mine(self) -> np.ndarray:
        """Return the containers of this process, ascending."""
        return np.flatnonzero((self.owners == distributed.rank()) | (self.owners < 0))

    def here(self, rows: np.ndarray) -> np.ndarray:
        """Return where in `source` the images of the given rows are, -1 for those of other processes."""
        mine, begins = self.mine(), self.begins
        places = np.full(len(self.counts) + 1, -1, np.int64)
        places[mine] = np.cumsum(self.counts[mine]) - self.counts[mine]
        container = np.searchsorted(begins, rows, side="right") - 1
        first = places[container]
        return np.where(first < 0, -1, first + rows - begins[container])


def names_of_all(names: Names, deal: Deal | None) -> Names:
    """Return the names in the order of the results: those of this process, or of all where it sorted them."""
    return names if deal is None or deal.sorted is None else deal.sorted.names


class _Told(NamedTuple):
    """What a process tells the others about a container."""

    count: int
    digest: str
    fingerprint: str
    others: dict[str, int]


def deal(location: str | os.PathLike, opener: Callable[[str], ImageSource], folder: str | Path) -> Deal:
    """Open the containers of this process; all processes call this, and `folder` is one that they share.

    Raises DataError where two containers hold an image of one name.
    """
    files, processes = expand(location), distributed.world_size()
    owners = np.arange(len(files)) % processes if len(files) >= processes else np.full(len(files), -1)
    mine = np.flatnonzero((owners == distributed.rank()) | (owners < 0)).tolist()
    folder = make_folder(folder, "base.save_path")
    with _writing(folder), tempfile.TemporaryDirectory(prefix="names-", dir=folder) as own:  # mapped files outlive it
        shared = Path(distributed.from_main(own))
        opened = _opened([files[place] for place in mine], opener, shared)
        everything: dict[int, _Told] = {}
        for some in distributed.from_each(dict(zip(mine, opened.told, strict=True))):  # all have written their names
            everything.update(some)
        told = [everything[place] for place in range(len(files))]
        counts, digest = np.array([one.count for one in told], np.int64), _hash(one.digest for one in told)
        found = Deal(DealtSource(os.fspath(location), opened, told), counts, owners, digest, None)
        if not distributed.is_main():
            return found
        return found._replace(sorted=_merged(_Container.all(found, shared), files, shared))


class _Opened(NamedTuple):
    """The containers of one process."""

    parts: list[ImageSource]
    told: list[_Told]
    names: Names
    """In all of them."""


def _opened(files: list[str], opener: Callable[[str], ImageSource], shared: Path) -> _Opened:
    """Open containers one after the other; only the places of their images stay in memory, their names on disk."""
    parts, told = [], []

    def names_of_each() -> Iterator[Names]:
        for path in files:
            part = opener(path)
            if (order := part.names.order()) is not None:
                part = part.take(order)
            told.append(_Told(len(part), part.names.digest(), part.fingerprint(), dict(part.other_kinds)))
            parts.append(part)
            yield part.names
            part.share_names(_NONE)

    _write(shared, str(distributed.rank()), names_of_each())
    pa.default_memory_pool().release_unused()
    return _Opened(parts, told, _mapped(shared, str(distributed.rank())))


def _hash(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


_NONE = Names(np.zeros(0, np.uint8), np.zeros(1, np.int64))


def _write(folder: Path, name: str, tables: Iterable[Names]) -> None:
    """Write tables of names one behind the other."""
    end = 0
    with open(folder / f"{name}.text", "wb") as text, open(folder / f"{name}.offsets", "wb") as offsets:
        offsets.write(np.zeros(1, np.int64).data)
        for table in tables:
            first, last = table.offsets[[0, -1]].tolist()
            text.write(table.data[first:last].data)
            offsets.write((table.offsets[1:] + (end - first)).data)
            end += last - first


def _mapped(folder: Path, name: str) -> Names:
    """Return names that were written; they take no memory until they are looked at."""
    return Names(_map(folder / f"{name}.text", np.uint8), _map(folder / f"{name}.offsets", np.int64))


def _map(path: Path, dtype: type | np.dtype) -> np.ndarray:
    return np.asarray(np.memmap(path, dtype, "r")) if path.stat().st_size else np.zeros(0, dtype)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn a disk that is full or read-only into one sentence; errors of the containers themselves are left alone."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and not Path(error.filename).is_relative_to(folder):
            raise
        raise DataError(f"{folder}: cannot be written ({error.strerror}); free space and run again") from error


class _Container(NamedTuple):
    """The sorted names of one container: some rows of a table."""

    table: Names
    start: int
    count: int
    row: int
    """Of its first image among all."""

    @classmethod
    def all(cls, found: Deal, folder: Path) -> list["_Container"]:
        """Find the names of each container in the table that the process that has it wrote into `folder`."""
        tables = {owner: _mapped(folder, str(max(owner, 0))) for owner in set(found.owners.tolist())}
        containers, starts = [], Counter()
        for count, owner, row in zip(found.counts.tolist(), found.owners.tolist(), found.begins.tolist(), strict=False):
            containers.append(cls(tables[owner], starts[owner], count, row))
            starts[owner] += count
        return containers

    def bytes_of(self, place: int) -> bytes:
        """Return a name."""
        first, end = self.table.offsets[self.start + place : self.start + place + 2]
        return self.table.data[first:end].tobytes()

    def sample(self) -> list[bytes]:
        """Return some names, evenly spread."""
        places = np.linspace(0, self.count - 1, min(_SAMPLED, self.count)).astype(np.int64)
        return [self.bytes_of(place) for place in places.tolist()]

    def before(self, name: bytes | None) -> int:
        """Return how many names come before the given one; all where it is None."""
        return self.count if name is None else bisect_left(range(self.count), name, key=self.bytes_of)


def _merged(containers: list[_Container], files: list[str], folder: Path) -> SortedNames:
    """Sort the names of all containers, so many at a time as fit well into memory."""
    count = sum(container.count for container in containers)
    blocks = _blocks(containers, _borders(containers, count))
    if count <= _AT_ONCE:
        found = next(blocks)
        _refuse_repeats(found, containers, files)
        return found
    kind, path = np.min_scalar_type(count), folder / "sorted.rows"

    def names_of_each(rows: IO[bytes]) -> Iterator[Names]:
        for block in blocks:
            _refuse_repeats(block, containers, files)
            rows.write(block.rows.astype(kind).data)
            yield block.names

    with open(path, "wb") as rows:
        _write(folder, "sorted", names_of_each(rows))
    return SortedNames(_mapped(folder, "sorted"), _map(path, kind))


def _borders(containers: list[_Container], count: int) -> list[bytes | None]:
    """Return names that part all of them into blocks of about _AT_ONCE; None stands for the end."""
    sampled = sorted(name for container in containers for name in container.sample())
    step = max(1, len(sampled) * _AT_ONCE // max(count, 1))
    return [*dict.fromkeys(sampled[step::step] if count > _AT_ONCE else ()), None]


def _blocks(containers: list[_Container], borders: list[bytes | None]) -> Iterator[SortedNames]:
    """Yield the names up to each border, sorted, with their rows."""
    done = [0] * len(containers)
    for border in borders:
        ends = [container.before(border) for container in containers]
        arrays, rows = [pa.array([], pa.large_binary())], [np.zeros(0, np.int64)]
        for container, first, end in zip(containers, done, ends, strict=True):
            if first < end:
                arrays.append(container.table.between(container.start + first, container.start + end).to_arrow())
                rows.append(np.arange(container.row + first, container.row + end))
        names, places, done = Names.from_arrow(pa.concat_arrays(arrays)), np.concatenate(rows), ends
        order = names.order()
        yield SortedNames(names, places) if order is None else SortedNames(names.take(order), places[order])


def _refuse_repeats(found: SortedNames, containers: list[_Container], files: list[str]) -> None:
    place = found.names.first_repeat()
    if place is not None:
        begins = [container.row for container in containers]
        one, other = (files[np.searchsorted(begins, row, side="right") - 1] for row in found.rows[place : place + 2])
        raise DataError(
            f"{other}: holds {found.names[place]!r}, as {one} does; give the images of all files names of their own"
        )
