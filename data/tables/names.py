"""Names of millions of images as two arrays."""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from utils.files import sha256_arrays

_BLOCK = 1 << 16


class Names:
    """Hold strings as one block of UTF-8 bytes and N+1 offsets into it; immutable, cheap to share."""

    __slots__ = ("data", "offsets")

    def __init__(self, data: np.ndarray, offsets: np.ndarray):
        self.data, self.offsets = data, offsets

    @classmethod
    def from_strings(cls, strings: Iterable[str | bytes]) -> "Names":
        """Build the table; undecodable file names survive as in os.fsencode."""
        encoded = [s if isinstance(s, bytes) else s.encode("utf-8", "surrogateescape") for s in strings]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=offsets[1:])
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets)

    @classmethod
    def from_arrow(cls, array: pa.Array) -> "Names":
        """Take over a large_binary array without nulls."""
        array = array.cast(pa.large_binary())
        _, offsets, data = array.buffers()
        if not len(array) or data is None:
            return cls(np.zeros(0, np.uint8), np.zeros(len(array) + 1, np.int64))
        offsets = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
        data = np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]]
        return cls(data, offsets - offsets[0] if offsets[0] else offsets)

    def to_arrow(self) -> pa.Array:
        """Return the same memory as a large_binary array."""
        buffers = [None, pa.py_buffer(np.ascontiguousarray(self.offsets)), pa.py_buffer(self.data)]
        return pa.Array.from_buffers(pa.large_binary(), len(self), buffers)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> str:
        row = range(len(self))[row]
        return self.data[self.offsets[row] : self.offsets[row + 1]].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(len(self)))

    def take(self, rows: np.ndarray) -> "Names":
        """Return the named rows, in that order."""
        return Names.from_arrow(self.to_arrow().take(pa.array(np.asarray(rows, np.int64))))

    def between(self, first: int, end: int) -> "Names":
        """Return the rows from `first` up to, not including, `end`; not copied, offsets may begin behind 0."""
        return Names(self.data, self.offsets[first : end + 1])

    def digest(self) -> str:
        """Return the SHA-256 of the names and their order."""
        begin, end = self.offsets[0], self.offsets[-1]
        return sha256_arrays(self.offsets - begin if begin else self.offsets, self.data[begin:end])

    def order(self) -> np.ndarray | None:
        """Return the rows that sort the table by bytes, or None when it is sorted already."""
        array = self.to_arrow()
        if len(self) < 2 or pc.all(pc.less_equal(array[:-1], array[1:])).as_py():
            return None
        return pc.sort_indices(array).to_numpy(zero_copy_only=False).astype(np.int64)

    def first_repeat(self) -> int | None:
        """Return, in a sorted table, the first row whose name the next one has too; None where all differ."""
        array = self.to_arrow()
        same = pc.index(pc.equal(array[:-1], array[1:]), True).as_py() if len(self) > 1 else -1
        return None if same < 0 else same


class Chosen:
    """Some rows of a table of names, looked up one by one: a copy of millions would be as large as the table."""

    def __init__(self, names: Names, rows: np.ndarray):
        self.names, self.rows = names, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[str]:
        return (
            self.names[row]
            for start in range(0, len(self.rows), _BLOCK)
            for row in self.rows[start : start + _BLOCK].tolist()
        )
