"""Scores and labels: one number per image, read in any form users have, written as pkl, csv, txt and parquet.

Text is UTF-8; a file name that is no UTF-8 keeps its bytes (surrogateescape), so names can be joined again.
"""

import itertools
import logging
import os
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from data.tables.forms.arrow_scores import feather_scores, parquet_scores
from data.tables.forms.rows import RowRules, complete_rows
from data.tables.forms.score_values import QUALITY, ScoreRows, json_scores, npy_scores, npz_scores, pickled_scores
from data.tables.names import Chosen, Names
from data.tables.text_tables import read_text_table, write_csv
from utils.config.sections import ScoreForm
from utils.errors import DataError
from utils.files import atomic_write
from utils.outside.reading import reading

logger = logging.getLogger(__name__)

SCORES = "quality-scores"
LABELS = ("labels.csv", "labels.pkl")
FAILURES = "failures.csv"
PAGE = "scores.html"
FORMATS = ("pkl", "csv", "txt", "parquet")
_PROTOCOL = 3
_ENTRIES_AT_ONCE = 1 << 16
_RANKED_AT_ONCE = 1 << 20


class ScoreTable(NamedTuple):
    """Names and their scores, as the file gives them."""

    names: Names
    values: np.ndarray
    """(N,) float64, finite."""
    remarks: tuple[str, ...] = ()
    """Words on how the file was read: the column taken, rows without a score."""


def read_scores(path: str | Path, form: ScoreForm | None = None) -> ScoreTable:
    """Read scores in any form of docs/formats.md: text, pickle, parquet, feather, JSON, .npz, .npy.

    Rows without a score (NaN, an empty cell, None, form.missing_value) are left out, and a remark says how many.
    Raises DataError naming file, row and content of what cannot be used; infinity is an error.
    """
    path, form = Path(path), form or ScoreForm()
    read = _READERS.get(path.suffix.lower())
    if read is not None:
        with reading(path, way_out="see docs/formats.md for the forms"):
            return _finished(path, read(path, form), form)
    names, values, remarks, _ = read_text_table(path, QUALITY, form, RowRules.of_scores(form))
    return ScoreTable(names, np.ascontiguousarray(values[:, 0]), remarks)


_READERS: dict[str, Callable[[Path, ScoreForm], ScoreRows]] = {
    **dict.fromkeys((".pkl", ".pickle", ".p"), pickled_scores),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), json_scores),
    ".parquet": parquet_scores,
    ".feather": feather_scores,
    ".npz": npz_scores,
    ".npy": npy_scores,
}
"""What reads a file by its suffix; any other one is text."""


def _finished(path: Path, rows: ScoreRows, form: ScoreForm) -> ScoreTable:
    """Return the scores that are there, each name once."""
    names, values, remarks, unit = rows
    if not len(names):
        raise DataError(f"{path}: holds no rows; expected a name and a quality in each")
    bad = np.flatnonzero(np.isinf(values))
    if len(bad):
        raise DataError(f"{path}: the score of {names[bad[0]]!r} ({unit} {bad[0]}) is not finite; mend or remove it")
    table = complete_rows(path, names, values, RowRules.of_scores(form), lambda row: f", {unit} {row}")
    return ScoreTable(table.names, table.values, (*remarks, *table.remarks))


class Scored(NamedTuple):
    """The scored images of a folder."""

    root: str
    """The folder, as the user wrote it."""
    names: Names | Chosen
    """Relative POSIX paths."""
    quality: np.ndarray
    """(N,) float32, finite."""


def percentiles(quality_N: np.ndarray) -> np.ndarray:
    """Return each score's rank among them all, in (0, 100]: the best has 100, equal scores share their mean rank."""
    order, result = np.argsort(quality_N), np.empty(len(quality_N))
    ranked = quality_N[order]
    for start in range(0, len(ranked), _RANKED_AT_ONCE):
        these = slice(start, start + _RANKED_AT_ONCE)
        result[order[these]] = percentiles_among(ranked, ranked[these])
    return result


def percentiles_among(ranked_N: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Return the percentiles of some of the ascending scores."""
    before, through = (np.searchsorted(ranked_N, some, side) for side in ("left", "right"))
    return (before + through + 1) / 2 * (100 / max(1, len(ranked_N)))


def write_scores(folder: Path, scored: Scored, formats: Sequence[str] = ("pkl", "csv")) -> list[Path]:
    """Write quality-scores.FORMAT for each format and return the paths; each file is whole or absent."""
    writers = {"pkl": _write_pickle, "csv": _write_csv, "txt": _write_txt, "parquet": _write_parquet}
    paths = []
    for kind in FORMATS:
        if kind in formats:
            paths.append(folder / f"{SCORES}.{kind}")
            writers[kind](paths[-1], scored)
    return paths


def write_labels(folder: Path, names: Names | Chosen, labels: np.ndarray) -> None:
    """Write labels.csv and labels.pkl (dict of name to float): the shortest decimals that mean the labels, in both."""
    write_scores_csv(folder / LABELS[0], names, labels)
    with atomic_write(folder / LABELS[1]) as stream:
        dump_dict(((name, float(str(label))) for name, label in zip(names, labels, strict=True)), stream)


def write_scores_csv(path: str | Path, names: Iterable[str], values: np.ndarray) -> None:
    """Write `path,quality` rows, the numbers in the shortest form that reads back as the same one of their type."""
    write_csv(path, ("path", "quality"), ((name, str(value)) for name, value in zip(names, values, strict=True)))


def write_failures(folder: Path, names: Names, reasons: Mapping[int, str]) -> Path:
    """Write failures.csv: path and reason of each row that got no number, in the order of the rows."""
    path = folder / FAILURES
    write_csv(path, ("path", "reason"), ((names[row], reasons[row]) for row in sorted(reasons)))
    return path


def dump_dict(items: Iterable[tuple[str, Any]], stream: IO[bytes]) -> None:
    """Pickle a dict of these items without ever holding it whole: 100 M entries would take 43 GB.

    Protocol 3 has no frames: a pickled dict is a head, its items and a stop, and items of further dicts, with memo
    numbers that begin anew, may follow those of the first.
    """
    items, head = iter(items), pickle.dumps({}, _PROTOCOL)[:-1]
    stream.write(head)
    while part := dict(itertools.islice(items, _ENTRIES_AT_ONCE)):
        stream.write(pickle.dumps(part, _PROTOCOL)[len(head) : -1])
    stream.write(pickle.STOP)


def _write_csv(path: Path, scored: Scored) -> None:
    columns = zip(scored.names, scored.quality, percentiles(scored.quality), strict=True)
    rows = ((name, str(quality), f"{percentile:.4f}") for name, quality, percentile in columns)
    write_csv(path, ("path", "quality", "percentile"), rows)


def _write_pickle(path: Path, scored: Scored) -> None:
    """Write the official form: dict of full path, as os.walk gives it, to np.float32."""
    paths = (os.path.join(scored.root, name) for name in scored.names)
    with atomic_write(path) as stream:
        dump_dict(zip(paths, scored.quality, strict=True), stream)


def _write_txt(path: Path, scored: Scored) -> None:
    """Write `path score` lines; a name with a line break has no place in such a file and is left out."""
    left_out = 0
    with atomic_write(path, "w", errors="surrogateescape") as stream:
        for name, quality in zip(scored.names, scored.quality, strict=True):
            if "\n" in name or "\r" in name:
                left_out += 1
            else:
                stream.write(f"{name} {quality!s}\n")
    if left_out:
        logger.warning("%s: left out %d names with a line break; the CSV has them", path, left_out)


def _write_parquet(path: Path, scored: Scored) -> None:
    """Write path, quality, percentile; Parquet text is UTF-8, so the odd byte of a name stands as \\xNN."""
    names = (name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for name in scored.names)
    columns = {
        "path": pa.array(names, pa.large_string(), size=len(scored.names)),
        "quality": pa.array(scored.quality, pa.float32()),
        "percentile": pa.array(percentiles(scored.quality), pa.float64()),
    }
    with atomic_write(path) as stream:
        pyarrow.parquet.write_table(pa.table(columns), stream)
