"""Pairs in text: plain lists with a flag, the two-line lists of CPLFW and CALFW, reference and probe lists."""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from data.tables.names import Names
from evaluation.pairs.rows import PairColumns, Row, collect, lines_of, pair_set
from evaluation.pairs.sets import PairSet, even_folds
from utils.errors import DataError

_FLAGS = {"1": True, "0": False, "-1": False, "true": True, "false": False}
"""Marks of a pair, in any case: of one person, or of two."""
_WORD = re.compile(r"[^\W\d][\w ]*")


def flag_of(text: str) -> bool | None:
    """Tell whether the mark of a pair says that it is mated; None for what is no mark."""
    return _FLAGS.get(text.strip().lower())


def read_list(path: Path) -> PairSet:
    """Read `imgA imgB 1|0` lines, parted by blanks, tabs or commas; also -1, True and False, and a row of titles.

    An identity is a folder, or its last part, where that agrees.
    """
    titles = has_titles(path)
    return _read_list_fast(path, titles) or collect(_list_rows(path, titles), path)


def has_titles(path: Path) -> bool:
    """Tell whether the first line holds titles: three cells, the last a word that is no flag and no number."""
    _, line = next(lines_of(path), (0, ""))
    return any(len(cells) == 3 and _is_title(cells[2]) for cells in map(line.split, ("\t", ",", None)))


def _is_title(cell: str) -> bool:
    return flag_of(cell) is None and _WORD.fullmatch(cell.strip().strip('"')) is not None


def _read_list_fast(path: Path, titles: bool) -> PairSet | None:
    """Read a plain list of millions of pairs without a Python object per line; None: let the careful reader look."""
    binary = pa.large_binary()
    read = pa.csv.ReadOptions(column_names=["first", "second", "mated"], skip_rows=int(titles))
    convert = pa.csv.ConvertOptions(column_types=dict.fromkeys(read.column_names, binary))
    for delimiter in ("\t", ",", " "):
        parse = pa.csv.ParseOptions(delimiter=delimiter, quote_char=False)
        try:
            table = pa.csv.read_csv(path, read, parse, convert)
            text = pc.utf8_lower(table["mated"].combine_chunks().cast(pa.large_string()))
            flags = pc.index_in(text, pa.array(_FLAGS, pa.large_string()))
            both = pa.concat_arrays([*table["first"].chunks, *table["second"].chunks]).dictionary_encode()
            text = both.dictionary.cast(pa.large_string())
        except (pa.ArrowInvalid, OSError):
            continue
        tidy = pc.and_(pc.equal(text, pc.utf8_trim_whitespace(text)), pc.greater(pc.binary_length(text), 0))
        if flags.null_count or not len(flags) or not pc.all(tidy).as_py():
            return None
        mated = np.array([*_FLAGS.values()])[flags.to_numpy()]
        first, second = np.split(both.indices.to_numpy().astype(np.int64), 2)
        return pair_set(Names.from_arrow(both.dictionary), PairColumns(first, second, mated, None), posixpath.dirname)
    return None


def _list_rows(path: Path, titles: bool) -> Iterator[Row]:
    for number, line in lines_of(path):
        if titles and number == 1:
            continue
        for separator in ("\t", ",", None):
            cells = line.split(separator)
            mated = flag_of(cells[2]) if len(cells) == 3 else None
            if mated is not None:
                yield Row(cells[0].strip(), cells[1].strip(), mated, -1)
                break
        else:
            raise DataError(
                f"{path}, line {number}: expected `imgA imgB 1` or `imgA imgB 0` (or -1, True, False), found "
                f"{line[:80]!r}; part names that contain blanks by tabs"
            )


def read_two_line_list(path: Path) -> PairSet:
    """Read pairs_CPLFW.txt or pairs_CALFW.txt: two lines `image flag` are a pair, a flag above 0 says mated.

    The person is what stands before the number of the image: Ann_Lee of Ann_Lee_0001.jpg or Ann_Lee_1.jpg.
    """
    return collect(_two_line_rows(path), path, lambda name: re.sub(r"_\d+(\.\w+)?$", "", posixpath.basename(name)))


def _two_line_rows(path: Path) -> Iterator[Row]:
    lines = lines_of(path)
    for number, line in lines:
        number_2, line_2 = next(lines, (number, ""))
        one, two = (_name_and_flag(text) for text in (line, line_2))
        if one is None or two is None or (one.flag > 0) != (two.flag > 0):
            raise DataError(
                f"{path}, lines {number} and {number_2}: expected `image flag` twice with the same flag, found "
                f"{line[:60]!r} and {line_2[:60]!r}"
            )
        yield Row(one.name, two.name, one.flag > 0, -1)


class _Flagged(NamedTuple):
    name: str
    flag: int


def _name_and_flag(line: str) -> _Flagged | None:
    cells = line.rsplit(maxsplit=1)
    if len(cells) != 2 or not re.fullmatch(r"-?\d{1,3}", cells[1]):
        return None
    return _Flagged(cells[0].strip(), int(cells[1]))


class Side(NamedTuple):
    """One side of a comparison experiment: images and who is on them."""

    names: list[str]
    identities: list[str]


def reference_probe_pairs(reference: Side, probe: Side, non_mated: int, seed: int) -> PairSet:
    """Pair every reference with every probe of its person, never with itself, and draw `non_mated` other pairs."""
    rows = {name: row for row, name in enumerate(dict.fromkeys([*reference.names, *probe.names]))}
    people = np.unique([*reference.identities, *probe.identities], return_inverse=True)[1].reshape(-1)
    split = len(reference.names)
    sides = [np.array([rows[name] for name in side.names]) for side in (reference, probe)]
    person = people[:split], people[split:]
    of_person = {one: np.flatnonzero(person[1] == one) for one in np.unique(person[0])}
    places = [(a, b) for a, one in enumerate(person[0].tolist()) for b in of_person[one].tolist()]
    mated = np.array([(sides[0][a], sides[1][b]) for a, b in places], np.int64).reshape(-1, 2)
    mated = mated[mated[:, 0] != mated[:, 1]]
    if not len(mated):
        raise DataError("no person has a reference and another image as probe; check the lists and identity")
    other = _of_two_people(person, non_mated, np.random.default_rng(seed))
    first = np.concatenate([mated[:, 0], sides[0][other[:, 0]]])
    second = np.concatenate([mated[:, 1], sides[1][other[:, 1]]])
    flags = np.arange(len(first)) < len(mated)
    identities = np.empty(len(rows), np.int64)
    identities[np.concatenate(sides)] = people
    return PairSet(Names.from_strings(list(rows)), first, second, flags, even_folds(flags), identities)


def _of_two_people(person: tuple[np.ndarray, np.ndarray], wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `wanted` different (reference, probe) places of different people, (wanted, 2), or all if there are fewer."""
    width = len(person[1])
    total = len(person[0]) * width
    counts = [np.bincount(one, minlength=max(map(np.max, person)) + 1) for one in person]
    available = total - int((counts[0] * counts[1]).sum())
    if wanted > available // 2:
        every = np.arange(total)
        codes = every[person[0][every // width] != person[1][every % width]]
        codes = codes if wanted >= available else np.sort(rng.choice(codes, wanted, replace=False))
    else:
        codes = np.empty(0, np.int64)
        while len(codes) < wanted:
            drawn = rng.integers(total, size=2 * (wanted - len(codes)) + 16)
            drawn = drawn[person[0][drawn // width] != person[1][drawn % width]]
            drawn = np.concatenate([codes, drawn])
            codes = drawn[np.sort(np.unique(drawn, return_index=True)[1])][:wanted]
        codes = np.sort(codes)
    return np.stack([codes // width, codes % width], axis=1)
