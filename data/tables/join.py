"""The one rule by which names of two tables are joined.

Names are relative paths; `\\` counts as `/`; a leading `./` or `/` and an image suffix (.jpg, .PNG, ...)
do not count, nor does the Unicode form of a letter: an e followed by an accent is one letter with it.
Two names match when they are equal, or when one is the tail of the other from a folder
on (`train/n000002/0001_01` and `n000002/0001_01`), with one number of dropped folders for the whole
table: the number that matches most, at a tie the smallest. Only where no such number matches
anything, folders are dropped on both sides, leaving at least one. With a key_root nothing is found
automatically: that prefix is removed where a name has it. Names that differ in their suffix alone are
told apart by it; a name that could still mean two different ones is an error.
"""

import re
import unicodedata
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.images.decode import IMAGE_SUFFIXES
from data.tables.names import Names
from utils.errors import DataError

_SUFFIX = rf"(?is)(.)(?:{'|'.join(map(re.escape, sorted(IMAGE_SUFFIXES)))})$"
_WAY_OUT = "remove one or set key_root to the prefix to strip"


class Match(NamedTuple):
    """For each wanted name its row in the other table, -1 for none, and the folders dropped."""

    rows: np.ndarray
    wanted_folders: int = 0
    have_folders: int = 0


def join(wanted: Names, have: Names, key_root: str | None = None) -> Match:
    """Find the row of each wanted name in `have`, by the module's rule; DataError, naming both, where it may be two."""
    wanted, have = normalise(wanted), normalise(have)
    if not len(wanted) or not len(have):
        return Match(np.full(len(wanted), -1, np.int64))
    if key_root is not None:
        cut = _Cut(root=_root(key_root))
        return _Pairing(wanted, have, cut, cut).match()
    depths = _depths(wanted), _depths(have)
    best = _best(_Pairing(wanted, have, *map(_Cut, folders)) for folders in _tails(*depths))
    if best.found == 0:
        further = (_Pairing(wanted, have, *map(_Cut, folders)) for folders in _both_sides(*depths))
        best = _best(chain([best], further))
    return best.match()


def way_together(wanted: Names, have: Names, key_root: str | None = None) -> str:
    """Say what to do where the names of images and those of a file have nothing in common."""
    some = [wanted[row] for row in range(min(len(wanted), 100))]
    if key_root is not None and (join(Names.from_strings(some), have).rows >= 0).any():
        return f"they match without dataset.key_root ({key_root!r}): leave it out"
    lower = Names.from_strings(name.lower() for name in some)
    if (join(lower, Names.from_strings(name.lower() for name in have), key_root).rows >= 0).any():
        return "they differ in upper and lower case: rename one of them"
    return "name the file of these images, or set dataset.key_root to the folder to strip from one of them"


def duplicates(names: Names) -> np.ndarray:
    """Return (row, later row) pairs (K, 2) of names that are equal, suffix included, by later row."""
    array = normalise(names).to_arrow()
    if len(array) < 2 or pc.all(pc.less(array[:-1], array[1:])).as_py():  # sorted, as most files are: far cheaper
        return np.zeros((0, 2), np.int64)
    first = pc.index_in(array, value_set=array).to_numpy().astype(np.int64)
    later = np.flatnonzero(first != np.arange(len(first)))
    return np.stack([first[later], later], axis=1)


def normalise(names: Names) -> Names:
    """Return the names with `/` as the only separator, none doubled, none leading, no `./`, and letters composed."""
    names = _composed(names)
    text = names.data.tobytes()  # seen as one text: where two names meet, there may be false alarms
    filled = names.offsets[:-1][names.offsets[1:] > names.offsets[:-1]]
    if not any(part in text for part in (b"\\", b"//", b"./")) and not (names.data[filled] == ord("/")).any():
        return names
    array = pc.replace_substring(names.to_arrow(), pattern="\\", replacement="/")
    array = pc.replace_substring_regex(array, pattern=r"/(?:\.?/)+", replacement="/")
    return Names.from_arrow(pc.replace_substring_regex(array, pattern=r"^(?:\.?/)+", replacement=""))


def _composed(names: Names) -> Names:
    """Return the names in Unicode's form NFC, as most systems write them; macOS takes letters and accents apart."""
    if not len(names.data) or int(names.data.max()) < 128:
        return names
    array = names.to_arrow()
    try:
        return Names.from_arrow(pc.utf8_normalize(array.cast(pa.large_string()), form="NFC"))
    except pa.ArrowInvalid:  # a name that is no UTF-8
        return Names.from_strings(unicodedata.normalize("NFC", name) for name in names)


def _root(key_root: str) -> bytes:
    root = normalise(Names.from_strings([key_root]))[0].strip("/")
    return f"{root}/".encode("utf-8", "surrogateescape") if root not in ("", ".") else b""


def _depths(names: Names) -> list[int]:
    return sorted(pc.unique(pc.count_substring(names.to_arrow(), pattern="/")).to_pylist())


def _tails(wanted_depths: list[int], have_depths: list[int]) -> Iterator[tuple[int, int]]:
    differences = {h - w for h in have_depths for w in wanted_depths}
    for difference in sorted(differences, key=lambda d: (abs(d), d < 0)):
        yield (0, difference) if difference >= 0 else (-difference, 0)


def _both_sides(wanted_depths: list[int], have_depths: list[int]) -> Iterator[tuple[int, int]]:
    pairs = {(w - rest, h - rest) for w in wanted_depths for h in have_depths for rest in range(1, min(w, h))}
    yield from sorted(pairs, key=lambda pair: (sum(pair), pair))


def _best(pairings: Iterator["_Pairing"]) -> "_Pairing":
    """Return the first of those that find most; none is made after one that finds every name."""
    best = next(pairings)
    while best.found < len(best.wanted) and (pairing := next(pairings, None)) is not None:
        best = pairing if pairing.found > best.found else best
    return best


class _Cut(NamedTuple):
    """What is ignored in front of and behind the names of one table."""

    folders: int = 0
    root: bytes = b""
    suffix: bool = True

    def rest(self, names: Names) -> pa.Array:
        """Return the part of each name that counts; null where fewer folders exist than are dropped."""
        array = names.to_arrow()
        if self.root:
            pattern = "^" + "".join(rf"\x{byte:02x}" for byte in self.root)  # a folder's name need not be UTF-8
            array = pc.replace_substring_regex(array, pattern=pattern, replacement="")
        if self.folders:
            deep = pc.greater_equal(pc.count_substring(array, pattern="/"), self.folders)
            array = array if pc.all(deep).as_py() else pc.if_else(deep, array, None)
            parts = pc.split_pattern(array, pattern="/", max_splits=self.folders)
            array = pc.list_element(parts, self.folders)
        return pc.replace_substring_regex(array, pattern=_SUFFIX, replacement=r"\1") if self.suffix else array


class _Pairing:
    """Rows of `have` for each name of `wanted`, under one way of cutting."""

    def __init__(self, wanted: Names, have: Names, cut_wanted: _Cut, cut_have: _Cut):
        self.wanted, self.have = wanted, have
        self.cut_wanted, self.cut_have = cut_wanted, cut_have
        self.offers = cut_have.rest(have)
        rows = pc.index_in(cut_wanted.rest(wanted), value_set=self.offers, skip_nulls=True)
        self.rows = rows.fill_null(-1).to_numpy().astype(np.int64)
        self.found = len(rows) - rows.null_count

    def match(self) -> Match:
        """Return the rows after telling names apart by suffix where that is needed and possible."""
        hits = np.flatnonzero(self.rows >= 0)
        uses = np.bincount(self.rows[hits], minlength=len(self.have))
        double = self._doubles(uses)
        doubtful = hits[((uses > 1) | double)[self.rows[hits]]]
        if len(doubtful):
            self._tell_apart(doubtful, double)
        return Match(self.rows, self.cut_wanted.folders, self.cut_have.folders)

    def _doubles(self, uses: np.ndarray) -> np.ndarray:
        """Tell for each row in use whether another name of `have` is the same."""
        unused = np.flatnonzero(uses == 0)
        if not len(unused):
            return np.zeros(len(uses), bool)
        alike = pc.is_in(self.offers, value_set=self.offers.take(pa.array(unused)), skip_nulls=True)
        return alike.to_numpy(zero_copy_only=False) & (uses > 0)

    def _tell_apart(self, doubtful: np.ndarray, double: np.ndarray) -> None:
        if not (self.cut_wanted.suffix and self.cut_have.suffix):
            self._refuse(doubtful, double)
        asked = self.wanted.take(doubtful)
        offered = self._candidates(asked)
        whole = (cut._replace(suffix=False) for cut in (self.cut_wanted, self.cut_have))
        own = _Pairing(asked, self.have.take(offered), *whole).match().rows
        lost = doubtful[own < 0]
        owned = np.isin(self.rows[lost], self.rows[doubtful[own >= 0]])
        self._refuse(lost[double[self.rows[lost]] | ~owned], double)
        self.rows[doubtful] = np.where(own >= 0, offered[own], -1)

    def _candidates(self, asked: Names) -> np.ndarray:
        """Return all rows of `have` that any of the names fits."""
        fits = pc.is_in(self.offers, value_set=self.cut_wanted.rest(asked), skip_nulls=True)
        return np.flatnonzero(fits.to_numpy(zero_copy_only=False))

    def _refuse(self, doubtful: np.ndarray, double: np.ndarray) -> None:
        if not len(doubtful):
            return
        row = int(doubtful[0])
        if double[self.rows[row]]:
            first, second = (self.have[i] for i in self._candidates(self.wanted.take(np.array([row])))[:2])
            raise DataError(f"{self.wanted[row]!r} may be {first!r} or {second!r}; {_WAY_OUT}")
        second = int(doubtful[np.flatnonzero(self.rows[doubtful] == self.rows[row])[1]])
        raise DataError(
            f"{self.have[int(self.rows[row])]!r} may mean {self.wanted[row]!r} or {self.wanted[second]!r}; {_WAY_OUT}"
        )
