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
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from data.tables.key_hashes import BASES, Drop, Lookup, chunks, hashes_of, same_text, spans_of, text_of
from data.tables.names import Names
from utils.errors import DataError

_WAY_OUT = "remove one or set key_root to the prefix to strip"


class Match(NamedTuple):
    """For each wanted name its row in the other table, -1 for none, and the folders dropped."""

    rows: np.ndarray
    wanted_folders: int = 0
    have_folders: int = 0


def find_match(wanted: Names, have: Names, key_root: str | None = None) -> Match:
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


def duplicates(keys: Names) -> np.ndarray:
    """Return (row, later row) pairs (K, 2) of names that are equal, suffix included."""
    keys = normalise(keys)
    for base in BASES:
        lookup = Lookup(keys, Drop(suffix=False), base)
        later = np.flatnonzero(lookup.hashes[1:] == lookup.hashes[:-1]) + 1
        first = np.searchsorted(lookup.hashes, lookup.hashes[later])
        pairs = np.stack([lookup.order[first], lookup.order[later]], axis=1).astype(np.int64)
        left, right = keys.take(pairs[:, 0]), keys.take(pairs[:, 1])
        if pc.all(pc.equal(left.to_arrow(), right.to_arrow())).as_py() is not False:
            return pairs[np.argsort(pairs[:, 1], kind="stable")]
    raise DataError("the names of a table cannot be told apart; remove names of many thousand characters")


def normalise(keys: Names) -> Names:
    """Return the names with `/` as the only separator, none doubled, none leading, and no `./`."""
    if not _untidy(keys):
        return keys
    names = pc.replace_substring(keys.to_arrow(), pattern="\\", replacement="/")
    names = pc.replace_substring_regex(names, pattern=r"/(?:\.?/)+", replacement="/")
    return Names.from_arrow(pc.replace_substring_regex(names, pattern=r"^(?:\.?/)+", replacement=""))


def _untidy(keys: Names) -> bool:
    """Tell whether any name may need tidying; false alarms are possible."""
    for rows in chunks(keys):
        text, starts, ends = text_of(keys, rows)
        raw = text.tobytes()
        if any(part in raw for part in (b"\\", b"//", b"./")) or (text[starts[ends > starts]] == ord("/")).any():
            return True
    return False


def _root(key_root: str) -> bytes:
    root = normalise(Names.from_strings([key_root]))[0].strip("/")
    return f"{root}/".encode("utf-8", "surrogateescape") if root and root != "." else b""


def _tails(wanted: Names, have: Names) -> Iterator[tuple[int, int]]:
    wanted_depths, have_depths = _depths(wanted), _depths(have)
    differences = {h - w for h in have_depths for w in wanted_depths}
    for difference in sorted(differences, key=lambda d: (abs(d), d < 0)):
        yield (0, difference) if difference >= 0 else (-difference, 0)


def _both_sides(wanted: Names, have: Names) -> Iterator[tuple[int, int]]:
    wanted_depths, have_depths = _depths(wanted), _depths(have)
    pairs = {(w - rest, h - rest) for w in wanted_depths for h in have_depths for rest in range(1, min(w, h))}
    yield from sorted(pairs, key=lambda pair: (sum(pair), pair))


def _best(wanted: Names, have: Names, candidates: Iterator[tuple[int, int]]) -> "_Join | None":
    best = None
    for folders in candidates:
        join = _Join(wanted, have, Drop(folders[0]), Drop(folders[1]))
        if best is None or join.found > best.found:
            best = join
        if join.found == len(wanted):
            break
    return best


def _depths(keys: Names) -> list[int]:
    names = keys.to_arrow()
    counts = (pc.count_substring(names[rows.start : rows.stop], pattern="/") for rows in chunks(keys))
    return sorted(set().union(*(pc.unique(count).to_pylist() for count in counts)))


class _Join:
    """Rows of `have` for each name of `wanted`, under one way of dropping."""

    def __init__(self, wanted: Names, have: Names, drop_wanted: Drop, drop_have: Drop):
        self.wanted, self.have = wanted, have
        self.drop_wanted, self.drop_have = drop_wanted, drop_have
        for base in BASES:
            self.lookup = Lookup(have, drop_have, base)
            if self._search():
                break
        else:
            raise DataError("names cannot be told apart; remove names of many thousand characters")
        self.found = int((self.rows >= 0).sum())

    def _search(self) -> bool:
        """Fill rows (-1: none) and several (more than one name of `have` fits); False when hashes collide."""
        self.rows = np.full(len(self.wanted), -1, np.int64)
        self.several = np.zeros(len(self.wanted), bool)
        for chunk in chunks(self.wanted):
            spans = spans_of(self.wanted, chunk, self.drop_wanted)
            hit, rows, several = self.lookup.find(hashes_of(spans, self.lookup.base))
            hit &= spans.valid
            self.rows[chunk][hit] = rows[hit]
            self.several[chunk] = several & hit
            theirs = self.have.take(rows[hit])
            theirs = spans_of(theirs, slice(0, len(theirs)), self.drop_have)
            if not same_text(spans.take(hit), theirs):
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
        offered = self._candidates(asked)
        whole = [drop._replace(suffix=False) for drop in (self.drop_wanted, self.drop_have)]
        own = _Join(asked, self.have.take(offered), *whole).settled()
        lost = doubtful[own < 0]
        owned = np.isin(self.rows[lost], self.rows[doubtful[own >= 0]])
        self._refuse(lost[self.several[lost] | ~owned])
        self.rows[doubtful] = np.where(own >= 0, offered[own], -1)
        return self.rows

    def _candidates(self, asked: Names) -> np.ndarray:
        """Return all rows of `have` that any of the names fits."""
        runs = (hashes_of(spans_of(asked, rows, self.drop_wanted), self.lookup.base) for rows in chunks(asked))
        return self.lookup.group(np.concatenate(list(runs)))

    def _refuse(self, doubtful: np.ndarray) -> None:
        if not len(doubtful):
            return
        row = doubtful[0]
        if self.several[row]:
            first, second = (self.have[i] for i in self._candidates(self.wanted.take([row]))[:2])
            raise DataError(f"{self.wanted[row]!r} may be {first!r} or {second!r}; {_WAY_OUT}")
        second = doubtful[np.flatnonzero(self.rows[doubtful] == self.rows[row])[1]]
        raise DataError(
            f"{self.have[self.rows[row]]!r} may mean {self.wanted[row]!r} or {self.wanted[second]!r}; {_WAY_OUT}"
        )
