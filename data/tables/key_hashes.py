"""Names as numbers: each name's part that counts is hashed in place, millions at a time."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from data.tables.names import Names
from utils.errors import DataError

BASES = (0x9E3779B97F4A7C15, 0xD1B54A32D192ED03, 0xABC98388FB8FAC03)
"""Bases of the polynomial hash: the next one is taken where two names collide."""
_SUFFIXES = tuple(f".{suffix}".encode() for suffix in "jpg jpeg jpe png webp bmp tif tiff".split())
_LONGEST_NAME = 1 << 16
_CHUNK_BYTES = 1 << 20
_SLASH, _DOT = ord("/"), ord(".")
_LOWER = np.array([ord(chr(byte).lower()) if byte < 128 else byte for byte in range(256)], np.uint8)


class Drop(NamedTuple):
    """What is ignored in front of and behind the names of one table."""

    folders: int = 0
    root: bytes = b""
    suffix: bool = True


class Lookup:
    """The hashes of a table's names, sorted, and the rows they came from."""

    def __init__(self, keys: Names, drop: Drop, base: int):
        self.base = base
        hashes = np.empty(len(keys), np.uint64)
        valid = np.empty(len(keys), bool)
        for chunk in chunks(keys):
            spans = spans_of(keys, chunk, drop)
            hashes[chunk], valid[chunk] = hashes_of(spans, base), spans.valid
        order = np.argsort(hashes, kind="stable")
        self.order = order.astype(np.int32) if len(keys) < 2**31 else order
        del order
        if not valid.all():
            self.order = self.order[valid[self.order]]
        self.hashes = hashes[self.order]

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return for each hash: whether it is here, the first row it belongs to, whether there are more."""
        if not len(self.hashes):
            none = np.zeros(len(hashes), bool)
            return none, np.zeros(len(hashes), np.int64), none
        ascending = np.argsort(hashes)  # memory is then read in order, five times faster
        places = np.empty(len(hashes), np.int64)
        places[ascending] = np.searchsorted(self.hashes, hashes[ascending])
        last = len(self.hashes) - 1
        hit = self.hashes[np.minimum(places, last)] == hashes
        more = hit & (places < last) & (self.hashes[np.minimum(places + 1, last)] == hashes)
        return hit, self.order[np.minimum(places, last)].astype(np.int64), more

    def group(self, hashes: np.ndarray) -> np.ndarray:
        """Return all rows of these hashes, sorted."""
        return np.sort(self.order[np.isin(self.hashes, hashes)]).astype(np.int64)


class Spans(NamedTuple):
    """Parts [start, end) of a text, one per name; invalid where fewer folders exist than are dropped."""

    text: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    valid: np.ndarray

    def take(self, mask: np.ndarray) -> "Spans":
        """Return the named ones."""
        return Spans(self.text, self.starts[mask], self.ends[mask], self.valid[mask])


def chunks(keys: Names) -> Iterator[slice]:
    """Cut the table into runs of about _CHUNK_BYTES."""
    marks = np.arange(keys.offsets[0], keys.offsets[-1], _CHUNK_BYTES)
    edges = np.unique(np.append(np.searchsorted(keys.offsets[:-1], marks), [0, len(keys)]))
    for first, last in pairwise(edges):
        yield slice(int(first), int(last))


def text_of(keys: Names, rows: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the bytes of a run of names, and where each starts and ends in them."""
    offsets = keys.offsets[rows.start : rows.stop + 1]
    return keys.data[offsets[0] : offsets[-1]], offsets[:-1] - offsets[0], offsets[1:] - offsets[0]


def spans_of(keys: Names, rows: slice, drop: Drop) -> Spans:
    """Return the parts of a run of names that count."""
    text, starts, ends = text_of(keys, rows)
    valid = np.ones(len(starts), bool)
    if drop.root:
        starts = starts + len(drop.root) * _begins_with(text, starts, ends, drop.root)
    if drop.folders:
        slashes = np.flatnonzero(text == _SLASH)
        first = np.searchsorted(slashes, starts)
        valid = np.searchsorted(slashes, ends) - first >= drop.folders
        starts = starts.copy()
        starts[valid] = slashes[first[valid] + drop.folders - 1] + 1
    return Spans(text, starts, ends - _suffix_bytes(text, starts, ends) if drop.suffix else ends, valid)


def _begins_with(text: np.ndarray, starts: np.ndarray, ends: np.ndarray, part: bytes) -> np.ndarray:
    found = ends - starts >= len(part)
    for ahead, byte in enumerate(part):
        rows = np.flatnonzero(found)
        found[rows] = text[starts[rows] + ahead] == byte
    return found


def _suffix_bytes(text: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the length of each span's image suffix, in any case; 0 without one."""
    lengths = np.zeros(len(ends), np.int64)
    for length in sorted(set(map(len, _SUFFIXES))):
        rows = np.flatnonzero(ends - starts > length)
        rows = rows[text[ends[rows] - length] == _DOT]
        tails = np.zeros(len(rows), np.int64)
        for back in range(length - 1, 0, -1):
            tails = tails * 256 + _LOWER[text[ends[rows] - back]]
        known = [int.from_bytes(suffix[1:], "big") for suffix in _SUFFIXES if len(suffix) == length]
        lengths[rows[np.isin(tails, known)]] = length
    return lengths


def _powers(base: int) -> np.ndarray:
    """Return base**i modulo 2**64 for i up to a chunk's length."""
    if base not in _TABLES:
        _TABLES[base] = np.cumprod(np.full(_CHUNK_BYTES + _LONGEST_NAME, base, np.uint64), dtype=np.uint64)
    return _TABLES[base]


_TABLES: dict[int, np.ndarray] = {}


def hashes_of(spans: Spans, base: int) -> np.ndarray:
    """Return the polynomial hash of each span: sum of (byte + 1) * base**position, wherever it stands in the text."""
    powers, length = _powers(base), len(spans.text)
    if length >= len(powers):
        raise DataError(f"a name is longer than {_LONGEST_NAME:,} bytes; it is no file name")
    sums = np.zeros(length + 1, np.uint64)
    np.cumsum((spans.text.astype(np.uint64) + np.uint64(1)) * powers[:length], out=sums[1:])
    return (sums[spans.ends] - sums[spans.starts]) * powers[len(powers) - 1 - spans.starts]


def same_text(left: Spans, right: Spans) -> bool:
    """Tell whether the spans are equal, name by name."""
    lengths = left.ends - left.starts
    if not np.array_equal(lengths, right.ends - right.starts):
        return False
    inside = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.array_equal(
        left.text[np.repeat(left.starts, lengths) + inside], right.text[np.repeat(right.starts, lengths) + inside]
    )
