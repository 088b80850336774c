"""Names and numbers in text: read by Arrow, block by block; read again, row by row, only to name a bad one; written."""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from data.tables.columns import Content, taken
from data.tables.dialects import BLANKS, BRACKETS, MISSING, Dialect, find_dialect, is_number, no_rows, with_point
from data.tables.encoding import open_bytes, open_text
from data.tables.forms.rows import RowRules, complete_rows
from data.tables.names import Names
from utils.config.sections import ScoreForm
from utils.errors import DataError
from utils.files import atomic_write
from utils.outside.reading import reading, reason
from utils.present import present

_BLOCK_BYTES = 1 << 20
_LARGEST_BLOCK_BYTES = (1 << 31) - 1
_LOOK_FOR_MARK = 10_000
_NOT_IN_TEXT = "\x01"
_QUOTED = re.compile(r'[,"\r\n]|^\s|\s$')


class TextTable(NamedTuple):
    """What a text file says: names and finite numbers, and words on how it was read."""

    names: Names
    values: np.ndarray
    """(N, count)."""
    remarks: tuple[str, ...]
    titles: tuple[str, ...] = ()
    """What the file calls its columns, in lower case; empty where it does not say."""


def read_text_table(
    path: str | Path, content: Content, form: ScoreForm | None = None, rules: RowRules | None = None
) -> TextTable:
    """Read names and numbers; equal rows are kept once, rows without a value are left out and counted.

    Raises DataError naming file, line and content of a row with the wrong number of columns, of a value that
    is no number, and of a name that occurs twice with different values unless `rules` say what becomes of them.
    """
    with reading(path, way_out="name an existing file of names and numbers"):
        return _text_table(Path(path), content, form or ScoreForm(), rules or RowRules())


def _text_table(path: Path, content: Content, form: ScoreForm, rules: RowRules) -> TextTable:
    dialect = _with_decimal(path, find_dialect(path, content, form), form)
    names, values = _read(path, dialect, content)
    if dialect.ends_in_percentile:
        _require_percentiles(path, *values.T)
        values = values[:, :-1]

    def place(row: int) -> str:
        return f", line {next(islice(_lines_of_rows(path, dialect, content), row, None))}"

    how = taken(dialect.values, dialect.titles, dialect.width)
    table = complete_rows(path, names, values, rules, place)
    titles = tuple(title.strip().lower() for title in dialect.titles)
    return TextTable(*table[:2], (how, *table.remarks), titles)


def _with_decimal(path: Path, dialect: Dialect, form: ScoreForm) -> Dialect:
    """Return the dialect with the mark of the first number that has one: whole numbers may stand in front of it."""
    if form.decimal is not None or dialect.decimal == ",":
        return dialect
    for line, cells in islice((_line_rows if dialect.pattern else _table_rows)(path, dialect), _LOOK_FOR_MARK):
        if line > dialect.skip and len(cells) == dialect.width:
            texts = [cells[column] for column in dialect.values]
            if any("." in text or "," in text for text in texts):
                return dialect._replace(decimal="," if any("," in text for text in texts) else ".")
    return dialect


def _require_percentiles(path: Path, quality: np.ndarray, percentile: np.ndarray) -> None:
    """Refuse a third column without a name unless it ranks as the second does, in [0, 100]: inference.py's own."""
    order = np.lexsort((percentile, quality))
    up, step = np.diff(quality[order]) > 0, np.diff(percentile[order])
    if (step < 0).any() or (step[~up] > 0).any() or not ((percentile >= 0) & (percentile <= 100)).all():
        raise DataError(
            f"{path}: no first row names its three columns, and the third column is not the percentile of the second; "
            "name them, path,quality and so on"
        )


def write_csv(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a comma-separated table, quoted where needed; the file is whole or absent."""
    with atomic_write(path, "w", errors="surrogateescape") as stream:
        stream.write(",".join(header) + "\n")
        stream.writelines(",".join(map(_csv_cell, row)) + "\n" for row in rows)


def _csv_cell(text: str) -> str:
    """Quote a cell where needed; unlike csv.writer of Python before 3.13, a lone carriage return too."""
    return '"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text


def _read(path: Path, dialect: Dialect, content: Content) -> tuple[Names, np.ndarray]:
    names, values = [pa.array([], pa.large_binary())], [np.zeros((0, len(dialect.values)), content.dtype)]
    try:
        for array, columns in (_line_blocks if dialect.pattern else _table_blocks)(path, dialect):
            names.append(array)
            with np.errstate(over="ignore"):
                values.append(np.stack(columns, axis=1).astype(content.dtype))
            if np.isinf(values[-1]).any() or pc.any(pc.equal(pc.binary_length(array), 0)).as_py():
                raise ValueError("a name is empty or a number not finite")
    except (pa.ArrowInvalid, ValueError) as error:
        raise _refusal(path, dialect, content, error) from error
    table = Names.from_arrow(pa.concat_arrays(names)), np.concatenate(values)
    if not len(table[0]):
        raise no_rows(path, content)
    del names, values
    pa.default_memory_pool().release_unused()
    return table


_Block = tuple[pa.Array, list[np.ndarray]]


def _table_blocks(path: Path, dialect: Dialect) -> Iterator[_Block]:
    titles = [f"c{column}" for column in range(dialect.width)]
    chosen = [titles[column] for column in (dialect.name, *dialect.values)]
    types = dict.fromkeys(chosen[1:], pa.string() if dialect.brackets else pa.float64()) | {
        chosen[0]: pa.large_binary()
    }
    reader = pyarrow.csv.open_csv(
        open_bytes(path),
        _read_options(dialect, titles, _block_bytes(path)),
        pyarrow.csv.ParseOptions(delimiter=dialect.separator, newlines_in_values=True),
        pyarrow.csv.ConvertOptions(
            column_types=types, include_columns=chosen, null_values=list(MISSING), decimal_point=dialect.decimal
        ),
    )
    for batch in reader:
        name, *columns = batch.columns
        if dialect.padded:
            name = pc.ascii_trim_whitespace(name.view(pa.large_string())).view(pa.large_binary())
        parsed = (_parsed(column, dialect.decimal) for column in columns) if dialect.brackets else columns
        yield name, [column.to_numpy(zero_copy_only=False) for column in parsed]


def _line_blocks(path: Path, dialect: Dialect) -> Iterator[_Block]:
    reader = pyarrow.csv.open_csv(
        open_bytes(path),
        _read_options(dialect, ["line"], _BLOCK_BYTES),
        pyarrow.csv.ParseOptions(delimiter=_NOT_IN_TEXT, quote_char=False),
        pyarrow.csv.ConvertOptions(column_types={"line": pa.large_binary()}, null_values=[]),
    )
    for batch in reader:
        lines = batch.column(0)
        rows = pc.extract_regex(lines, pattern=dialect.pattern)
        if rows.null_count:
            lines = lines.filter(pc.match_substring_regex(lines, pattern=r"[^ \t]"))
            rows = pc.extract_regex(lines, pattern=dialect.pattern)
        if rows.null_count:
            raise ValueError("a row has another form")
        cells = (rows.field(f"c{column}").view(pa.large_string()) for column in dialect.values)
        parsed = (_parsed(cell, dialect.decimal) for cell in cells)
        yield rows.field(f"c{dialect.name}"), [column.to_numpy(zero_copy_only=False) for column in parsed]


def _read_options(dialect: Dialect, titles: list[str], block_bytes: int) -> pyarrow.csv.ReadOptions:
    return pyarrow.csv.ReadOptions(
        use_threads=False, block_size=block_bytes, skip_rows=dialect.skip, column_names=titles
    )


def _block_bytes(path: Path) -> int:
    """Return how much to read at once: all, where quotes meet carriage returns.

    Arrow loses the line feed of a quoted name when a block ends between the two characters of a line break.
    """
    found, size = set(), 0
    with open_bytes(path) as stream:
        while block := stream.read(_BLOCK_BYTES):
            found |= {mark for mark in (b'"', b"\r") if mark in block}
            size += len(block)
    return max(_BLOCK_BYTES, min(size, _LARGEST_BLOCK_BYTES)) if len(found) == 2 else _BLOCK_BYTES


def _parsed(texts: pa.Array, decimal: str) -> pa.Array:
    texts = pc.ascii_trim(texts, BRACKETS)
    if decimal == ",":  # where the comma is the mark, a point is none
        texts = pc.replace_substring(pc.replace_substring(texts, ".", ";"), ",", ".")
    empty = pc.is_in(texts, value_set=pa.array(MISSING, texts.type))
    return pc.cast(pc.if_else(empty, None, texts), pa.float64())


def _refusal(path: Path, dialect: Dialect, content: Content, error: Exception) -> DataError:
    """Return the error that names the first bad row, or, where each row can be read, what Arrow says."""
    try:
        count = sum(1 for _ in _lines_of_rows(path, dialect, content))
    except DataError as found:
        return found
    if not count:
        return no_rows(path, content)
    return DataError(f"{path}: cannot be read as {dialect} ({reason(error)}); see README for the formats")


def _lines_of_rows(path: Path, dialect: Dialect, content: Content) -> Iterator[int]:
    """Yield the line number of every row; DataError at the first bad one."""
    for line, cells in (_line_rows if dialect.pattern else _table_rows)(path, dialect):
        if line <= dialect.skip:
            continue
        place = f"{path}, line {line}"
        if len(cells) != dialect.width:
            raise DataError(
                f"{place}: expected {dialect.width} columns (a name and {content.what}), "
                f"found {len(cells)} in {','.join(cells)[:80]!r}; mend or remove the row"
            )
        name = cells[dialect.name]
        if not name:
            raise DataError(f"{place}: the name is empty; mend or remove the row")
        for column in dialect.values:
            text = cells[column].strip(BRACKETS if dialect.brackets or dialect.pattern else BLANKS)
            _check_number(f"{place}, {name[:80]!r}", text, dialect.decimal, content.dtype)
        yield line


def _table_rows(path: Path, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    with open_text(path) as stream:
        reader = csv.reader(stream, delimiter=dialect.separator)
        try:
            yield from ((reader.line_num, row) for row in reader if row)
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: not a CSV row ({error}); mend it") from error


def _line_rows(path: Path, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    pattern = re.compile(present(dialect.pattern))
    with open_text(path) as stream:
        for number, line in enumerate(stream, 1):
            if line := line.strip(BLANKS):
                found = pattern.match(line)
                yield number, list(found.groups()) if found else line.split(dialect.separator.strip(" ") or None)


def _check_number(place: str, text: str, decimal: str, dtype: type) -> None:
    if text in MISSING:
        return
    pointed = with_point(text, decimal)
    if not is_number(pointed):
        raise DataError(f"{place}: {text[:40]!r} is no number; mend or remove the row")
    with np.errstate(over="ignore"):
        if np.isinf(dtype(float(pointed))):
            raise DataError(f"{place}: {text[:40]!r} is not finite; mend or remove the row")
