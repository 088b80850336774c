"""Score files: one number per image, in any form users have, as one checked table."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from data.tables.names import Names
from data.tables.table_layout import Columns
from data.tables.text_tables import drop_repeats, one_line, read_text_table
from utils.errors import DataError
from utils.files import atomic_write
from utils.pickles import load_restricted_pickle

_PICKLES = {".pkl", ".pickle", ".p"}
_NAMES = ("path", "name", "name_id", "file", "filename", "image", "img", "image_path", "image_id")
_SCORES = ("quality", "score", "label", "quality_score", "value")


class ScoreTable(NamedTuple):
    """Names and their scores, as the file gives them."""

    names: Names
    values: np.ndarray
    """(N,) float64, finite."""


def read_scores(path: str | Path) -> ScoreTable:
    """Read scores: pickled dict or pairs, CSV, parquet, or `path score` text with blank, tab or semicolon.

    Raises DataError naming file, row and content of what cannot be used; NaN and infinity are errors.
    """
    path = Path(path)
    if path.suffix.lower() in _PICKLES:
        return _read_pickle(path)
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    keys, values = read_text_table(path, Columns("a quality", 1, _pick))
    return ScoreTable(keys, np.ascontiguousarray(values[:, 0]))


def _pick(names: list[str]) -> tuple[int | None, tuple[int, ...]] | None:
    """Choose the columns; of several scores the first known one, but only beside a known name."""
    scores = [names.index(column) for column in _SCORES if column in names]
    name = next((names.index(column) for column in _NAMES if column in names), None)
    return None if not scores or (name is None and len(scores) > 1) else (name, (scores[0],))


def _read_pickle(path: Path) -> ScoreTable:
    table = load_restricted_pickle(path, encoding="bytes")
    table = table.tolist() if isinstance(table, np.ndarray) else table
    if not isinstance(table, dict | list | tuple):
        raise DataError(f"{path}: expected a dict or (name, score) pairs, found {type(table).__name__}; see README")
    pairs = table.items() if isinstance(table, dict) else table
    names, values = [], np.empty(len(table), np.float64)
    for row, pair in enumerate(pairs):
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str | bytes):
            raise DataError(f"{path}: entry {row} is {one_line(pair)}, no (name, score) pair; mend or remove it")
        names.append(pair[0])
        values[row] = _number(path, *pair)
    keys = Names.from_strings(names)
    return _without_repeats(path, keys, values, lambda row: f", entry {row}")


def _number(path: Path, name: str | bytes, value: object) -> float:
    try:
        array = np.asarray(value, np.float64)
        number = float(array.reshape(())) if array.size == 1 else float("nan")
    except (TypeError, ValueError):
        array, number = np.zeros(0), float("nan")
    if not np.isfinite(number):
        shown = name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name
        raise DataError(f"{path}: the score of {shown!r} is {one_line(value, 40)}, no finite number; mend or remove it")
    return number


def _read_parquet(path: Path) -> ScoreTable:
    try:
        columns = pa.parquet.read_schema(path).names
        picked = _pick([name.lower() for name in columns])
        if picked is None or picked[0] is None:
            raise DataError(f"{path}: has columns {', '.join(columns)}; expected path and quality")
        table = pa.parquet.read_table(path, columns=[columns[picked[0]], columns[picked[1][0]]])
        names = pa.concat_arrays([pa.array([], pa.large_binary()), *table.column(0).cast(pa.large_binary()).chunks])
        values = np.array(table.column(1).cast(pa.float64()).to_numpy())
    except (OSError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        reason = " ".join(str(error).split())[:100]
        raise DataError(f"{path}: cannot be read as parquet of names and numbers ({reason}); mend it") from error
    if names.null_count:
        raise DataError(f"{path}: a name is missing; remove the row")
    keys = Names.from_arrow(names)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise DataError(f"{path}: the score of {keys[bad[0]]!r} (row {bad[0]}) is not finite; mend or remove it")
    return _without_repeats(path, keys, values, lambda row: f", row {row}")


def _without_repeats(path: Path, keys: Names, values: np.ndarray, place) -> ScoreTable:
    if not len(keys):
        raise DataError(f"{path}: holds no rows; expected a name and a quality in each")
    kept = drop_repeats(path, keys, values, place)
    return ScoreTable(keys, values) if kept is None else ScoreTable(keys.take(kept), values[kept])


def write_scores_csv(path: str | Path, names: Iterable[str], values: np.ndarray) -> None:
    """Write labels.csv: a header, then path and quality per row, in the shortest exact form."""
    with atomic_write(path, "w", errors="surrogateescape") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("path", "quality"))
        writer.writerows((name, repr(float(value))) for name, value in zip(names, values, strict=True))
