"""Scores in files that are no tables of text: pickles, JSON, numpy."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.tables.columns import Columns, Content, Header, taken
from data.tables.forms.plain import load_array, load_arrays, load_json, names_beside, names_of
from data.tables.names import Names
from utils.config.sections import ScoreForm
from utils.errors import DataError
from utils.outside.reading import reading, shown
from utils.pickles import load_restricted_pickle

QUALITY = Content("a quality", (("quality",), ("score",), ("label",), ("quality_score",), ("value",)))


class ScoreRows(NamedTuple):
    """Names and scores as a file gives them: NaN where there is none, names perhaps twice."""

    names: Names
    values: np.ndarray
    """(N,) float64."""
    remarks: tuple[str, ...] = ()
    """Words on which column was taken."""
    unit: str = "entry"
    """What errors count."""


def pickled_scores(path: Path, form: ScoreForm) -> ScoreRows:
    """Read a pickled dict of name -> score, or pairs."""
    return _of_value(path, load_restricted_pickle(path, encoding="bytes"))


def json_scores(path: Path, form: ScoreForm) -> ScoreRows:
    """Read name -> score, pairs, a list of records, or lists of names and scores by their titles."""
    value = load_json(path)
    with reading(path):
        if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            return _of_records(path, value, form)
        if (
            isinstance(value, dict)
            and value
            and all(isinstance(one, list) for one in value.values())
            and _has_text(value)
        ):
            return _of_columns(path, value, form)
        return _of_value(path, value)


def npz_scores(path: Path, form: ScoreForm) -> ScoreRows:
    """Read arrays of names and scores, called as columns are; their titles may stand in the plural."""
    arrays = {title: array for title, array in load_arrays(path).items() if array.ndim == 1}
    with reading(path):
        return _of_columns(path, arrays, form)


def npy_scores(path: Path, form: ScoreForm) -> ScoreRows:
    """Read an array (N,) with a list of names beside it, or a pickled dict of names."""
    value = load_array(path)
    with reading(path):
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
            return _of_value(path, value.tolist() if isinstance(value, np.ndarray) else value)
        if value.ndim != 1 and value.shape[1:] != (1,):
            raise DataError(f"{path}: holds an array {value.shape}, no list of scores; expected one number a name")
        return ScoreRows(names_beside(path, len(value)), value.reshape(-1).astype(np.float64))


def choose(header: Header, form: ScoreForm, stated: Header | None = None) -> Columns:
    """Return the columns of name and score; `stated`: the titles as the file has them, for those the user names."""
    found = header.find(QUALITY) if form.columns is None else (stated or header).stated(form.columns)
    if found.name is None or not found.values:
        raise DataError(
            f"{header.place}: has columns {', '.join((stated or header).titles)[:120]}; expected path and quality, or "
            "name them with columns: {name: TITLE, score: TITLE}"
        )
    if form.columns is None:
        header.require_clear(found, (stated or header).titles)
    return found


def _of_value(path: Path, table: Any) -> ScoreRows:
    table = table.tolist() if isinstance(table, np.ndarray) else table
    if not isinstance(table, dict | list | tuple):
        raise DataError(
            f"{path}: expected a dict or (name, score) pairs, found {type(table).__name__}; see docs/formats.md"
        )
    pairs = table.items() if isinstance(table, dict) else table
    names, values = [], np.empty(len(table), np.float64)
    for row, pair in enumerate(pairs):
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str | bytes):
            raise DataError(f"{path}: entry {row} is {shown(pair)}, no (name, score) pair; mend or remove it")
        names.append(pair[0])
        values[row] = _number(path, *pair)
    return ScoreRows(Names.from_strings(names), values)


def _number(path: Path, name: str | bytes, value: object) -> float:
    """Return a score, NaN for None; DataError where it is no number."""
    if value is None:
        return float("nan")
    try:
        array = np.asarray(value, np.float64)
        number = float(array.reshape(())) if array.size == 1 else float("inf")
    except (TypeError, ValueError, OverflowError):
        number = float("inf")
    if np.isinf(number):
        found = f"{shown(value, 40)}, no finite number"
        raise DataError(f"{path}: the score of {shown(name)} is {found}; mend or remove it")
    return number


def _of_records(path: Path, records: Sequence[dict], form: ScoreForm) -> ScoreRows:
    titles = list(records[0])
    for row, record in enumerate(records):
        if record.keys() != records[0].keys():
            raise DataError(
                f"{path}: entry {row} has {', '.join(map(str, record))[:80]}, the first {', '.join(titles)[:80]}; give "
                "all records the same keys"
            )
    return _of_columns(path, {title: [record[title] for record in records] for title in titles}, form)


def _of_columns(path: Path, columns: dict[str, Any], form: ScoreForm) -> ScoreRows:
    titles = tuple(columns)
    plain = tuple(title[:-1] if len(title) > 1 and title.endswith("s") else title for title in titles)
    numeric = tuple(_is_numeric(column) for column in columns.values())
    found = choose(Header(str(path), plain, numeric), form, Header(str(path), titles, numeric))
    names, values = (columns[titles[place]] for place in (found.name or 0, found.values[0]))
    if len(names) != len(values):
        raise DataError(f"{path}: {len(names)} names but {len(values)} scores; one score a name")
    remarks = (taken(found.values, titles, len(titles)),)
    if isinstance(names, np.ndarray):
        if values.dtype.kind not in "fiu":
            raise DataError(f"{path}: {titles[found.values[0]]!r} holds {values.dtype}, no numbers; name others")
        return ScoreRows(names_of(path, names), values.astype(np.float64), remarks)
    return _of_value(path, list(zip(names, values, strict=True)))._replace(remarks=remarks)


def _has_text(columns: dict[str, list]) -> bool:
    return any(column and isinstance(column[0], str) for column in columns.values())


def _is_numeric(column: Iterable | np.ndarray) -> bool:
    if isinstance(column, np.ndarray):
        return column.dtype.kind in "fiu"
    return all(value is None or isinstance(value, int | float) for value in column)
