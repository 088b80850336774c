"""Readers for the pair lists people have: plain lists, LFW, XQLFW, CFP, Adience and InsightFace .bin."""

import glob
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from data.sources.bins import images_of_bin
from data.tables.names import Names
from evaluation.pairs.comparison_files import read_dasec
from evaluation.pairs.lists import read_list, read_two_line_list
from evaluation.pairs.rows import Row, collect, lines_of
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
            raise DataError(f"{path}: no such pairs file; check the key pairs, in training dataset.val_pairs")
        if form == "adience":
            names, identities = read_adience_images(path, root)
            return pairs_from_identities(names, identities, draw or Generation())
        return READERS[form](path)


def read_lfw(path: Path) -> PairSet:
    """Read LFW's or XQLFW's pairs.txt: `name n1 n2` is mated, `name1 n1 name2 n2` is not."""
    return collect(_lfw_rows(path), path)


def read_cfp_fp(path: Path) -> PairSet:
    """Read CFP's frontal-profile protocol from its Protocol folder, or the folder that holds it."""
    return collect(_cfp_rows(path, "FP"), path, lambda name: name.split("/")[-3])


def read_cfp_ff(path: Path) -> PairSet:
    """Read CFP's frontal-frontal protocol from its Protocol folder, or the folder that holds it."""
    return collect(_cfp_rows(path, "FF"), path, lambda name: name.split("/")[-3])


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
    "cplfw": read_two_line_list,
    "calfw": read_two_line_list,
    "dasec": read_dasec,
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
        lines = lines_of(file)
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


def _lfw_rows(path: Path) -> Iterator[Row]:
    block = None
    row = 0
    for number, line in lines_of(path):
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
        yield Row(first, second, cells[0] == cells[2], row // block if block else -1)
        row += 1


def _cfp_rows(path: Path, protocol: str) -> Iterator[Row]:
    base = next((p for p in (path, path / "Protocol", path.parent) if (p / "Pair_list_F.txt").is_file()), None)
    folds = sorted((base / "Split" / protocol).glob("*/same.txt")) if base else []
    if base is None or not folds:
        raise DataError(f"{path}: expected CFP's Protocol folder with Pair_list_F.txt and Split/{protocol}/NN/same.txt")
    frontal = _cfp_images(base / "Pair_list_F.txt")
    other = frontal if protocol == "FF" else _cfp_images(base / "Pair_list_P.txt")
    for fold, same in enumerate(folds):
        for file, mated in ((same, True), (same.with_name("diff.txt"), False)):
            for number, line in lines_of(file):
                try:
                    i, j = (int(cell) for cell in line.split(","))
                    yield Row(frontal[i], other[j], mated, fold)
                except (ValueError, KeyError) as error:
                    raise DataError(f"{file}, line {number}: {line[:40]!r} is not `i,j` with known images") from error


def _cfp_images(path: Path) -> dict[int, str]:
    images = {}
    for number, line in lines_of(path):
        cells = line.split(maxsplit=1)
        name = re.sub(r"^(\.\./|\./|/)+", "", posixpath.normpath(cells[-1].replace("\\", "/")))
        if len(cells) != 2 or not _is_count(cells[0]) or name.count("/") < 2:
            raise DataError(f"{path}, line {number}: expected `number path`, found {line[:80]!r}")
        images[int(cells[0])] = name
    return images


def _is_count(text: str) -> bool:
    """Tell plain numbers of a sane length; int() takes other scripts' digits, isdigit superscripts."""
    return text.isascii() and text.isdecimal() and len(text) < 10
