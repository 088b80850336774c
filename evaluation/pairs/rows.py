"""Rows of text that become a set of pairs."""

import itertools
import posixpath
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.tables.names import Names
from evaluation.pairs.sets import PairSet, even_folds
from utils.errors import DataError


class Row(NamedTuple):
    """One pair as text."""

    first: str
    second: str
    mated: bool
    fold: int  # -1: not stated


class PairColumns(NamedTuple):
    """Many pairs as rows of a table of names."""

    first: np.ndarray
    second: np.ndarray
    mated: np.ndarray
    fold: np.ndarray | None  # None: not stated


def collect(rows: Iterator[Row], path: Path, identity_of: Callable[[str], str] = posixpath.dirname) -> PairSet:
    """Number the names in the order of their appearance."""
    index: dict[str, int] = {}
    listed = [(index.setdefault(a, len(index)), index.setdefault(b, len(index)), m, f) for a, b, m, f in rows]
    if not listed:
        raise DataError(f"{path}: holds no pair")
    first, second, mated, fold = np.array(listed, dtype=np.int64).T
    stated = None if (fold < 0).any() else fold.astype(np.int32)
    return pair_set(
        Names.from_strings(list(index)), PairColumns(first, second, mated.astype(bool), stated), identity_of
    )


def pair_set(names: Names, columns: PairColumns, identity_of: Callable[[str], str]) -> PairSet:
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


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number, text) of the lines that are not blank."""
    try:
        with open(path, encoding="utf-8-sig") as stream:
            for number, line in zip(itertools.count(1), stream, strict=False):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a pairs file ({error})") from error
