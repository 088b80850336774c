"""Readers for the pair lists people have: plain lists, LFW, XQLFW, CFP, Adience and InsightFace .bin."""

import glob
import itertools
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from data.sources.bins import images_of_bin
from data.tables.names import Names
from evaluation.pairs.sets import Generation, PairSet, components, even_folds, pairs_from_identities
from utils.errors import DataError
from utils.outside.reading import reading


def read_pairs(path: str | Path, form: str, root: str | Path | None = None, draw: Generation | None = None) -> PairSet:
    """Read the pairs file `path` in one of the formats of READERS, or of Adience's folds.

    root: image folder, which tells apart the two published file namings of Adience. draw: for Adience.
    """
    path = Path(path)
    with reading(path, "cannot be read as a pairs file", "see README for the formats"):
        if not path.exists():
            raise DataError(f"{path}: no such pairs file")
        if form == "adience":
            names, identities = read_adience_images(path, root)
            try:
                return pairs_from_identities(names, identities, draw or Generation())
            except DataError as error:
                raise DataError(f"{path}: {error}") from None
        return READERS[form](path)


def read_list(path: Path) -> PairSet:
    """Read `imgA imgB 1|0` lines, parted by blanks, tabs or commas.

    An identity is a folder, or its last part, where that agrees.
    """
    return _read_list_fast(path) or _collect(_list_rows(path), path)


def read_lfw(path: Path) -> PairSet:
    """Read LFW's or XQLFW's pairs.txt: `name n1 n2` is mated, `name1 n1 name2 n2` is not."""
    return _collect(_lfw_rows(path), path)


def read_cfp_fp(path: Path) -> PairSet:
    """Read CFP's frontal-profile protocol from its Protocol folder, or the folder that holds it."""
    return _collect(_cfp_rows(path, "FP"), path, lambda name: name.split("/")[-3])


def read_cfp_ff(path: Path) -> PairSet:
    """Read CFP's frontal-frontal protocol from its Protocol folder, or the folder that holds it."""
    return _collect(_cfp_rows(path, "FF"), path, lambda name: name.split("/")[-3])


def read_bin(path: Path) -> PairSet:
    """Read an InsightFace .bin: images 2i and 2i + 1 are pair i; image i is named `%06d.jpg`.

    Equal bytes are the same image, which is how pairs of one identity find together.
    """
    images, mated = images_of_bin(path)
    seen: dict[bytes, int] = {}
    same = np.array([seen.setdefault(image, row) for row, image in enumerate(images)])
    nodes = np.arange(len(images))
    edges = np.concatenate([np.stack([nodes, same], 1), nodes.reshape(-1, 2)[mated]])
    identities = components(edges, len(images))
    names = Names.from_strings([f"{row:06d}.jpg" for row in nodes])
    return PairSet(names, nodes[0::2], nodes[1::2], mated, even_folds(mated), identities, images)


READERS: dict[str, Callable[[Path], PairSet]] = {
    "list": read_list,
    "lfw": read_lfw,
    "cfp_fp": read_cfp_fp,
    "cfp_ff": read_cfp_ff,
    "bin": read_bin,
}


def read_adience_images(path: Path, root: str | Path | None) -> tuple[list[str], list[str]]:
    """Read Adience's fold_*_data.txt (a folder of them, or one): image names and identities (face_id).

    The names are those of the set's aligned copy, `user/landmark_aligned_face.FACE.IMAGE`, unless only the
    other copy, `user/coarse_tilt_aligned_face.FACE.IMAGE`, is found below root.
    """
    files = sorted(path.glob("fold_*_data.txt")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: no fold_*_data.txt in this folder")
    rows = []
    for file in files:
        lines = _lines(file)
        header = next(lines, (0, ""))[1].split("\t")
        wanted = ("user_id", "original_image", "face_id")
        if not set(wanted) <= set(header):
            raise DataError(
                f"{file}: the header lacks one of {', '.join(wanted)}; expected Adience's tab-separated folds"
            )
        columns = [header.index(name) for name in wanted]
        for number, line in lines:
            cells = line.split("\t")
            if len(cells) < len(header):
                raise DataError(f"{file}, line {number}: {len(cells)} cells where the header has {len(header)}")
            rows.append([cells[column] for column in columns])
    prefix = "landmark_aligned_face"
    if root is not None and rows:
        user, image, face = rows[0]
        other = "coarse_tilt_aligned_face"
        first = {kind: f"**/{glob.escape(f'{user}/{kind}.{face}.{image}')}" for kind in (prefix, other)}
        if any(Path(root).glob(first[other])) and not any(Path(root).glob(first[prefix])):
            prefix = other
    return [f"{user}/{prefix}.{face}.{image}" for user, image, face in rows], [row[2] for row in rows]


class _Row(NamedTuple):
    first: str
    second: str
    mated: bool
    fold: int  # -1: not stated


class _Columns(NamedTuple):
    first: np.ndarray
    second: np.ndarray
    mated: np.ndarray
    fold: np.ndarray | None  # None: not stated


def _collect(rows: Iterator[_Row], path: Path, identity_of: Callable[[str], str] = posixpath.dirname) -> PairSet:
    """Number the names in the order of their appearance."""
    index: dict[str, int] = {}
    listed = [(index.setdefault(a, len(index)), index.setdefault(b, len(index)), m, f) for a, b, m, f in rows]
    if not listed:
        raise DataError(f"{path}: holds no pair")
    first, second, mated, fold = np.array(listed, dtype=np.int64).T
    stated = None if (fold < 0).any() else fold.astype(np.int32)
    return _pair_set(Names.from_strings(list(index)), _Columns(first, second, mated.astype(bool), stated), identity_of)


def _pair_set(names: Names, columns: _Columns, identity_of: Callable[[str], str]) -> PairSet:
    """Add the identities, where they agree with what is called mated, and the folds."""
    first, second, mated, fold = columns
    fold = even_folds(mated) if fold is None else fold
    for told_by in (identity_of, _last_folder):
        numbers: dict[str, int] = {}
        people = (numbers.setdefault(told_by(name), len(numbers)) for name in names)
        identities = np.fromiter(people, dtype=np.int64, count=len(names))
        if ((identities[first] == identities[second]) == mated).all():
            return PairSet(names, first, second, mated, fold, identities)
    return PairSet(names, first, second, mated, fold)


def _last_folder(name: str) -> str:
    """Return ID of reference/ID/1.jpg: the same person may lie in several folders."""
    return posixpath.basename(posixpath.dirname(name))


def _read_list_fast(path: Path) -> PairSet | None:
    """Read a plain list of millions of pairs without a Python object per line; None: let the careful reader look."""
    binary = pa.large_binary()
    read = pa.csv.ReadOptions(column_names=["first", "second", "mated"])
    convert = pa.csv.ConvertOptions(column_types=dict.fromkeys(read.column_names, binary))
    for delimiter in ("\t", ",", " "):
        parse = pa.csv.ParseOptions(delimiter=delimiter, quote_char=False)
        try:
            table = pa.csv.read_csv(path, read, parse, convert)
            flags = pc.index_in(table["mated"].combine_chunks(), pa.array([b"0", b"1"], binary))
            both = pa.concat_arrays([*table["first"].chunks, *table["second"].chunks]).dictionary_encode()
            text = both.dictionary.cast(pa.large_string())
        except (pa.ArrowInvalid, OSError):
            continue
        tidy = pc.and_(pc.equal(text, pc.utf8_trim_whitespace(text)), pc.greater(pc.binary_length(text), 0))
        if flags.null_count or not len(flags) or not pc.all(tidy).as_py():
            return None
        mated = flags.to_numpy().astype(bool)
        first, second = np.split(both.indices.to_numpy().astype(np.int64), 2)
        return _pair_set(Names.from_arrow(both.dictionary), _Columns(first, second, mated, None), posixpath.dirname)
    return None


def _list_rows(path: Path) -> Iterator[_Row]:
    for number, line in _lines(path):
        for separator in ("\t", ",", None):
            cells = line.split(separator)
            if len(cells) == 3 and cells[2].strip() in ("0", "1"):
                yield _Row(cells[0].strip(), cells[1].strip(), cells[2].strip() == "1", -1)
                break
        else:
            raise DataError(
                f"{path}, line {number}: expected `imgA imgB 1` or `imgA imgB 0`, found {line[:80]!r}; "
                "part names that contain blanks by tabs"
            )


def _lfw_rows(path: Path) -> Iterator[_Row]:
    block = None
    row = 0
    for number, line in _lines(path):
        cells = line.split("\t") if "\t" in line else line.split()
        cells = [cell.strip() for cell in cells]
        if number == 1 and len(cells) in (1, 2) and all(_is_count(cell) for cell in cells):
            block = 2 * int(cells[1]) if len(cells) == 2 else None
            continue
        if len(cells) == 3:
            cells.insert(2, cells[0])
        if len(cells) != 4 or not (_is_count(cells[1]) and _is_count(cells[3])):
            raise DataError(f"{path}, line {number}: expected `name n1 n2` or `name1 n1 name2 n2`, found {line[:80]!r}")
        first, second = (f"{name}/{name}_{int(n):04d}.jpg" for name, n in (cells[:2], cells[2:]))
        yield _Row(first, second, cells[0] == cells[2], row // block if block else -1)
        row += 1


def _cfp_rows(path: Path, protocol: str) -> Iterator[_Row]:
    base = next((p for p in (path, path / "Protocol", path.parent) if (p / "Pair_list_F.txt").is_file()), None)
    folds = sorted((base / "Split" / protocol).glob("*/same.txt")) if base else []
    if base is None or not folds:
        raise DataError(f"{path}: expected CFP's Protocol folder with Pair_list_F.txt and Split/{protocol}/NN/same.txt")
    frontal = _cfp_images(base / "Pair_list_F.txt")
    other = frontal if protocol == "FF" else _cfp_images(base / "Pair_list_P.txt")
    for fold, same in enumerate(folds):
        for file, mated in ((same, True), (same.with_name("diff.txt"), False)):
            for number, line in _lines(file):
                try:
                    i, j = (int(cell) for cell in line.split(","))
                    yield _Row(frontal[i], other[j], mated, fold)
                except (ValueError, KeyError) as error:
                    raise DataError(f"{file}, line {number}: {line[:40]!r} is not `i,j` with known images") from error


def _cfp_images(path: Path) -> dict[int, str]:
    images = {}
    for number, line in _lines(path):
        cells = line.split(maxsplit=1)
        name = re.sub(r"^(\.\./|\./|/)+", "", posixpath.normpath(cells[-1].replace("\\", "/")))
        if len(cells) != 2 or not _is_count(cells[0]) or name.count("/") < 2:
            raise DataError(f"{path}, line {number}: expected `number path`, found {line[:80]!r}")
        images[int(cells[0])] = name
    return images


def _is_count(text: str) -> bool:
    """Tell plain numbers of a sane length; int() takes other scripts' digits, isdigit superscripts."""
    return text.isascii() and text.isdecimal() and len(text) < 10


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number, text) of the lines that are not blank."""
    try:
        with open(path, encoding="utf-8-sig") as stream:
            for number, line in zip(itertools.count(1), stream, strict=False):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a pairs file ({error})") from error
