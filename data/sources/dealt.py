"""Containers dealt to the processes of torchrun: each opens and names its own; the names of all are sorted on disk.

Rows of all images are counted container by container, in the order of the files. Scores are written in the order of
the names, as from a folder: what leads from one to the other is worked out before anything long starts.
"""

import hashlib
import os
import tempfile
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

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


class DealtSource(ShardedSource):
    """Images of the containers of one process, in the order of the files and, in each of them, of the names."""

    def __init__(self, location: str, parts: list[ImageSource], others: Mapping[str, int], print_of_all: str):
        """Take the containers of this process, and what is known of those of all."""
        names = Names.from_arrow(
            pa.concat_arrays([pa.array([], pa.large_binary()), *(part.names.to_arrow() for part in parts)])
        )
        ends = np.cumsum([0, *map(len, parts)]).tolist()
        for part, first, end in zip(parts, ends[:-1], ends[1:], strict=True):
            part.share_names(names.between(first, end))
        shard = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
        row = np.concatenate([np.zeros(0, np.int32), *(np.arange(len(part), dtype=np.int32) for part in parts)])
        super().__init__(location, parts, names, np.stack([shard, row], axis=1))
        self.other_kinds, self._print_of_all = Counter(others), print_of_all

    def fingerprint(self) -> str:
        """Return that of all containers, whichever of them are here."""
        return self._print_of_all


class SortedNames(NamedTuple):
    """The names of the images of all containers, sorted."""

    names: Names
    rows: np.ndarray
    """(N,) int64 row of each name, as they are counted container by container."""


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
    parts = [_by_name(opener(files[place])) for place in mine]
    told = [_Told(len(part), part.names.digest(), part.fingerprint(), dict(part.other_kinds)) for part in parts]
    everything: dict[int, _Told] = {}
    for some in distributed.from_each(dict(zip(mine, told, strict=True))):
        everything.update(some)
    ordered = [everything[place] for place in range(len(files))]
    others = sum((Counter(one.others) for one in ordered), Counter())
    source = DealtSource(os.fspath(location), parts, others, _hash(one.fingerprint for one in ordered))
    counts = np.array([one.count for one in ordered], np.int64)
    found = Deal(source, counts, owners, _hash(one.digest for one in ordered), None)
    try:
        return found._replace(sorted=_sorted(found, files, make_folder(folder, "base.save_path")))
    except OSError as error:
        place = error.filename or folder
        raise DataError(f"{place}: cannot be written ({error.strerror}); free space and run again") from error


def _by_name(part: ImageSource) -> ImageSource:
    order = part.names.order()
    return part if order is None else part.take(order)


def _hash(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _sorted(found: Deal, files: list[str], folder: Path) -> SortedNames | None:
    """Have the first process sort the names of all, which the others put on disk for it."""
    with tempfile.TemporaryDirectory(prefix="names-", dir=folder) as own:
        shared, names = Path(distributed.from_main(own)), found.source.names
        if not distributed.is_main() and found.owners[0] >= 0:
            np.save(shared / f"{distributed.rank()}.text.npy", names.data)
            np.save(shared / f"{distributed.rank()}.offsets.npy", names.offsets)
        distributed.barrier()
        if not distributed.is_main():
            return None
        tables = {process: _mapped(shared, str(process)) for process in set(found.owners.tolist()) - {-1, 0}}
        return _merged(_Container.all(found, {**tables, 0: names, -1: names}), files, shared)


def _mapped(folder: Path, name: str) -> Names:
    text, offsets = (np.load(folder / f"{name}.{kind}.npy", mmap_mode="r") for kind in ("text", "offsets"))
    return Names(np.asarray(text), np.asarray(offsets))


class _Container(NamedTuple):
    """The sorted names of one container: some rows of a table."""

    table: Names
    start: int
    count: int
    row: int
    """Of its first image among all."""

    @classmethod
    def all(cls, found: Deal, tables: Mapping[int, Names]) -> list["_Container"]:
        """Find the names of each container in the table of the process that has it."""
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
    text, end = open(folder / "text", "wb+"), 0
    offsets = np.lib.format.open_memmap(folder / "offsets.npy", "w+", np.int64, (count + 1,))
    rows = np.lib.format.open_memmap(folder / "rows.npy", "w+", np.int64, (count,))
    with text:
        done = 0
        for block in blocks:
            _refuse_repeats(block, containers, files)
            text.write(block.names.data.data)
            rows[done : done + len(block.rows)] = block.rows
            offsets[done + 1 : done + 1 + len(block.rows)] = block.names.offsets[1:] + end
            done, end = done + len(block.rows), end + int(block.names.offsets[-1])
        text.flush()
        data = np.asarray(np.memmap(text, np.uint8, "r", shape=(end,)))
    return SortedNames(Names(data, np.asarray(offsets)), np.asarray(rows))


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
