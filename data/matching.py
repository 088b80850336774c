"""The one rule by which names of two tables are joined.

Names are relative paths; `\\` counts as `/`; a leading `./` or `/` and an image suffix (.jpg, .PNG, ...)
do not count. Two names match when they are equal, or when one is the tail of the other from a folder
on (`train/n000002/0001_01` and `n000002/0001_01`), with one number of dropped folders for the whole
table: the number that matches most, at a tie the smallest. Only where no such number matches
anything, folders are dropped on both sides, leaving at least one. With a key_root nothing is found
automatically: that prefix is removed where a name has it. Names that differ in their suffix alone are
told apart by it; a name that could still mean two different ones is an error.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from data.keys import KeyTable
from utils.errors import DataError

_SUFFIXES = tuple(f".{suffix}".encode() for suffix in "jpg jpeg jpe png webp bmp tif tiff".split())
_LONGEST_NAME = 1 << 16
_CHUNK_BYTES = 1 << 20
_BASES = (0x9E3779B97F4A7C15, 0xD1B54A32D192ED03, 0xABC98388FB8FAC03)
_SLASH, _DOT = ord("/"), ord(".")
_WAY_OUT = "remove one or set key_root to the prefix to strip"
_LOWER = np.array([ord(chr(byte).lower()) if byte < 128 else byte for byte in range(256)], np.uint8)


class Match(NamedTuple):
    """For each wanted name its row in the other table, -1 for none, and the folders dropped."""

    rows: np.ndarray
    wanted_folders: int = 0
    have_folders: int = 0


class Drop(NamedTuple):
    """What is ignored in front of and behind the names of one table."""

    folders: int = 0
    root: bytes = b""
    suffix: bool = True


def find_match(wanted: KeyTable, have: KeyTable, key_root: str | None = None) -> Match:
    """Join two tables by the module's rule; raise DataError, naming both, where a name is ambiguous."""
    wanted, have = normalise(wanted), normalise(have)
    if not len(wanted) or not len(have):
        return Match(np.full(len(wanted), -1, np.int64))
    if key_root is not None:
        drop = Drop(root=_root(key_root))
        return Match(_Join(wanted, have, drop, drop).settled())
    best = _best(wanted, have, _tails(wanted, have))
    if best.found == 0:
        best = _best(wanted, have, _both_sides(wanted, have)) or best
    return Match(best.settled(), best.drop_wanted.folders, best.drop_have.folders)


def duplicates(keys: KeyTable) -> np.ndarray:
    """Return (row, later row) pairs (K, 2) of names that are equal, suffix included."""
    keys = normalise(keys)
    for base in _BASES:
        lookup = _Lookup(keys, Drop(suffix=False), base)
        later = np.flatnonzero(lookup.hashes[1:] == lookup.hashes[:-1]) + 1
        first = np.searchsorted(lookup.hashes, lookup.hashes[later])
        pairs = np.stack([lookup.order[first], lookup.order[later]], axis=1).astype(np.int64)
        left, right = keys.take(pairs[:, 0]), keys.take(pairs[:, 1])
        if pc.all(pc.equal(left.to_arrow(), right.to_arrow())).as_py() is not False:
            return pairs[np.argsort(pairs[:, 1], kind="stable")]
    raise DataError("the names of a table cannot be told apart; remove names of many thousand characters")


def normalise(keys: KeyTable) -> KeyTable:
    """Return the names with `/` as the only separator, none doubled, none leading, and no `./`."""
    if not _untidy(keys):
        return keys
    names = pc.replace_substring(keys.to_arrow(), pattern="\\", replacement="/")
    names = pc.replace_substring_regex(names, pattern=r"/(?:\.?/)+", replacement="/")
    return KeyTable.from_arrow(pc.replace_substring_regex(names, pattern=r"^(?:\.?/)+", replacement=""))


def _untidy(keys: KeyTable) -> bool:
    """Tell whether any name may need tidying; false alarms are possible."""
    for rows in _chunks(keys):
        text, starts, ends = _text(keys, rows)
        raw = text.tobytes()
        if any(part in raw for part in (b"\\", b"//", b"./")) or (text[starts[ends > starts]] == _SLASH).any():
            return True
    return False


def _root(key_root: str) -> bytes:
    root = normalise(KeyTable.from_strings([key_root]))[0].strip("/")
    return f"{root}/".encode("utf-8", "surrogateescape") if root and root != "." else b""


def _tails(wanted: KeyTable, have: KeyTable) -> Iterator[tuple[int, int]]:
    wanted_depths, have_depths = _depths(wanted), _depths(have)
    differences = {h - w for h in have_depths for w in wanted_depths}
    for difference in sorted(differences, key=lambda d: (abs(d), d < 0)):
        yield (0, difference) if difference >= 0 else (-difference, 0)


def _both_sides(wanted: KeyTable, have: KeyTable) -> Iterator[tuple[int, int]]:
    wanted_depths, have_depths = _depths(wanted), _depths(have)
    pairs = {
        (w - rest, h - rest) for w in wanted_depths for h in have_depths for rest in range(1, min(w, h))
    }
    yield from sorted(pairs, key=lambda pair: (sum(pair), pair))


def _best(wanted: KeyTable, have: KeyTable, candidates: Iterator[tuple[int, int]]) -> "_Join | None":
    best = None
    for folders in candidates:
        join = _Join(wanted, have, Drop(folders[0]), Drop(folders[1]))
        if best is None or join.found > best.found:
            best = join
        if join.found == len(wanted):
            break
    return best


def _depths(keys: KeyTable) -> list[int]:
    names = keys.to_arrow()
    counts = (pc.count_substring(names[rows.start : rows.stop], pattern="/") for rows in _chunks(keys))
    return sorted(set().union(*(pc.unique(count).to_pylist() for count in counts)))


class _Join:
    """Rows of `have` for each name of `wanted`, under one way of dropping."""

    def __init__(self, wanted: KeyTable, have: KeyTable, drop_wanted: Drop, drop_have: Drop):
        self.wanted, self.have = wanted, have
        self.drop_wanted, self.drop_have = drop_wanted, drop_have
        for base in _BASES:
            self.lookup = _Lookup(have, drop_have, base)
            if self._search():
                break
        else:
            raise DataError("names cannot be told apart; remove names of many thousand characters")
        self.found = int((self.rows >= 0).sum())

    def _search(self) -> bool:
        """Fill rows (-1: none) and several (more than one name of `have` fits); False when hashes collide."""
        self.rows = np.full(len(self.wanted), -1, np.int64)
        self.several = np.zeros(len(self.wanted), bool)
        for chunk in _chunks(self.wanted):
            spans = _spans(self.wanted, chunk, self.drop_wanted)
            hit, rows, several = self.lookup.find(_hashes(spans, self.lookup.base))
            hit &= spans.valid
            self.rows[chunk][hit] = rows[hit]
            self.several[chunk] = several & hit
            theirs = self.have.take(rows[hit])
            theirs = _spans(theirs, slice(0, len(theirs)), self.drop_have)
            if not _same_text(spans.take(hit), theirs):
                return False
        return True

    def settled(self) -> np.ndarray:
        """Return the rows after telling names apart by suffix where that is needed and possible."""
        claimed = np.zeros(len(self.have), bool)
        claimed[self.rows[self.rows >= 0]] = True
        if claimed.sum() == self.found and not self.several.any():
            return self.rows
        hits = np.flatnonzero(self.rows >= 0)
        shared = np.bincount(self.rows[hits], minlength=1)[self.rows[hits]] > 1
        doubtful = hits[shared | self.several[hits]]
        if not len(doubtful) or not (self.drop_wanted.suffix and self.drop_have.suffix):
            self._refuse(doubtful)
            return self.rows
        asked = self.wanted.take(doubtful)
        offered = self.lookup.group(_hashes(_spans(asked, slice(0, len(asked)), self.drop_wanted), self.lookup.base))
        whole = [drop._replace(suffix=False) for drop in (self.drop_wanted, self.drop_have)]
        own = _Join(asked, self.have.take(offered), *whole).settled()
        lost = doubtful[own < 0]
        owned = np.isin(self.rows[lost], self.rows[doubtful[own >= 0]])
        self._refuse(lost[self.several[lost] | ~owned])
        self.rows[doubtful] = np.where(own >= 0, offered[own], -1)
        return self.rows

    def _refuse(self, doubtful: np.ndarray) -> None:
        if not len(doubtful):
            return
        row = doubtful[0]
        if self.several[row]:
            asked = self.wanted.take([row])
            names = _spans(asked, slice(0, 1), self.drop_wanted)
            first, second = (self.have[i] for i in self.lookup.group(_hashes(names, self.lookup.base))[:2])
            raise DataError(f"{self.wanted[row]!r} may be {first!r} or {second!r}; {_WAY_OUT}")
        second = doubtful[np.flatnonzero(self.rows[doubtful] == self.rows[row])[1]]
        raise DataError(
            f"{self.have[self.rows[row]]!r} may mean {self.wanted[row]!r} or {self.wanted[second]!r}; {_WAY_OUT}"
        )


class _Lookup:
    """The hashes of a table's names, sorted, and the rows they came from."""

    def __init__(self, keys: KeyTable, drop: Drop, base: int):
        self.base = base
        hashes = np.empty(len(keys), np.uint64)
        valid = np.empty(len(keys), bool)
        for chunk in _chunks(keys):
            spans = _spans(keys, chunk, drop)
            hashes[chunk], valid[chunk] = _hashes(spans, base), spans.valid
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


class _Spans(NamedTuple):
    """Parts [start, end) of a text, one per name; invalid where fewer folders exist than are dropped."""

    text: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    valid: np.ndarray

    def take(self, mask: np.ndarray) -> "_Spans":
        return _Spans(self.text, self.starts[mask], self.ends[mask], self.valid[mask])


def _chunks(keys: KeyTable) -> Iterator[slice]:
    """Cut the table into runs of about _CHUNK_BYTES."""
    marks = np.arange(keys.offsets[0], keys.offsets[-1], _CHUNK_BYTES)
    edges = np.unique(np.append(np.searchsorted(keys.offsets[:-1], marks), [0, len(keys)]))
    for first, last in pairwise(edges):
        yield slice(int(first), int(last))


def _text(keys: KeyTable, rows: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    offsets = keys.offsets[rows.start : rows.stop + 1]
    return keys.data[offsets[0] : offsets[-1]], offsets[:-1] - offsets[0], offsets[1:] - offsets[0]


def _spans(keys: KeyTable, rows: slice, drop: Drop) -> _Spans:
    text, starts, ends = _text(keys, rows)
    valid = np.ones(len(starts), bool)
    if drop.root:
        starts = starts + len(drop.root) * _begins_with(text, starts, ends, drop.root)
    if drop.folders:
        slashes = np.flatnonzero(text == _SLASH)
        first = np.searchsorted(slashes, starts)
        valid = np.searchsorted(slashes, ends) - first >= drop.folders
        starts = starts.copy()
        starts[valid] = slashes[first[valid] + drop.folders - 1] + 1
    return _Spans(text, starts, ends - _suffix_bytes(text, starts, ends) if drop.suffix else ends, valid)


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


def _hashes(spans: _Spans, base: int) -> np.ndarray:
    """Return the polynomial hash of each span: sum of (byte + 1) * base**position, wherever it stands in the text."""
    powers, length = _powers(base), len(spans.text)
    if length >= len(powers):
        raise DataError(f"a name is longer than {_LONGEST_NAME:,} bytes; it is no file name")
    sums = np.zeros(length + 1, np.uint64)
    np.cumsum((spans.text.astype(np.uint64) + np.uint64(1)) * powers[:length], out=sums[1:])
    return (sums[spans.ends] - sums[spans.starts]) * powers[len(powers) - 1 - spans.starts]


def _same_text(left: _Spans, right: _Spans) -> bool:
    """Tell whether the spans are equal, name by name."""
    lengths = left.ends - left.starts
    if not np.array_equal(lengths, right.ends - right.starts):
        return False
    inside = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.array_equal(
        left.text[np.repeat(left.starts, lengths) + inside], right.text[np.repeat(right.starts, lengths) + inside]
    )
