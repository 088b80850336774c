"""Text files of names and numbers, one row per image: read fast by blocks, or slowly to name the bad line.

Comma-separated rows may quote the name (commas, quotes and line breaks inside); rows separated by
tabs, semicolons or blanks hold the numbers at their end, so that names may contain the separator,
unless a header names more columns than these. Except after a comma, numbers may have a decimal comma.
Both readers give the same table; the slow one is the definition, the fast one stops at anything odd.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from data.tables.join import duplicates
from data.tables.names import Names
from data.tables.table_layout import (
    TEXT,
    Columns,
    Layout,
    bare,
    cells_from_right,
    csv_rows,
    find_layout,
    is_number,
    text_lines,
    with_point,
)
from utils.errors import DataError
from utils.files import atomic_write

_QUOTED = re.compile(r'[,"\r\n]|^\s|\s$')
_BLOCK_BYTES = 1 << 20


def read_text_table(path: str | Path, columns: Columns) -> tuple[Names, np.ndarray]:
    """Read names and numbers (N, count); equal rows are kept once.

    Raises DataError naming file, line and content of a row with the wrong number of columns, of a value that
    is no finite number, and of a name that occurs twice with different values.
    """
    path = Path(path)
    try:
        layout = find_layout(path, columns)
        keys, values = _read(path, layout, columns)
        if not layout.header and layout.width == columns.count + 2:
            _require_percentiles(path, values[:, 0], _read(path, layout._replace(values=(2,)), columns)[1][:, 0])
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); name an existing file") from error
    if not len(keys):
        raise DataError(f"{path}: holds no rows; expected a name and {columns.what} in each")
    kept = drop_repeats(path, keys, values, lambda row: _line_of(path, layout, columns, row))
    return (keys, values) if kept is None else (keys.take(kept), values[kept])


def drop_repeats(path: str | Path, keys: Names, values: np.ndarray, place: Callable[[int], str]) -> np.ndarray | None:
    """Return the rows left after dropping equal ones, None when all stay; DataError when their values differ."""
    pairs = duplicates(keys)
    if not len(pairs):
        return None
    differing = (values[pairs[:, 0]] != values[pairs[:, 1]]).reshape(len(pairs), -1).any(axis=1)
    if differing.any():
        first, later = pairs[np.argmax(differing)]
        raise DataError(
            f"{path}{place(later)}: {keys[later]!r} has {_shown(values[later])} but {_shown(values[first])} before"
            f"{place(first).replace(', ', ' (') + ')' if place(first) else ''}; keep one of the two rows"
        )
    return np.delete(np.arange(len(keys)), pairs[:, 1])


def _shown(values: np.ndarray) -> str:
    return " ".join(f"{value:g}" for value in np.ravel(values)[:4])


def one_line(value: object, limit: int = 80) -> str:
    """Return a value as an error shows it."""
    return " ".join(repr(value).split())[:limit]


def _require_percentiles(path: Path, quality: np.ndarray, percentile: np.ndarray) -> None:
    """Refuse a third column without a name unless it ranks as the second does, in [0, 100]: inference.py's own."""
    order = np.lexsort((percentile, quality))
    up, step = np.diff(quality[order]) > 0, np.diff(percentile[order])
    if (step < 0).any() or (step[~up] > 0).any() or not ((percentile >= 0) & (percentile <= 100)).all():
        raise DataError(
            f"{path}: has no header, and the third column is not the percentile of the second; "
            "name the columns in a first row, path,quality and so on"
        )


def write_csv(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a comma-separated table, quoted where needed; the file is whole or absent."""
    with atomic_write(path, "w", errors="surrogateescape") as stream:
        stream.write(",".join(header) + "\n")
        stream.writelines(",".join(map(_csv_cell, row)) + "\n" for row in rows)


def _csv_cell(text: str) -> str:
    """Quote a cell where needed; unlike csv.writer of Python before 3.13, a lone carriage return too."""
    return '"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text


def iterate_rows(path: Path, layout: Layout, columns: Columns) -> Iterator[tuple[int, str, list[float]]]:
    """Yield (line number, name, numbers) of every row; DataError at the first bad one."""
    cut = layout.separator, columns.count
    rows = _tail_rows(path, *cut) if layout.width is None else _column_rows(path, layout.separator)
    width = layout.width or columns.count + 1
    for number, cells in islice(rows, int(layout.header), None):
        place = f"{path}, line {number}"
        if len(cells) != width:
            raise DataError(
                f"{place}: expected {width} columns (a name and {columns.what}), "
                f"found {len(cells)} in {','.join(cells)[:80]!r}; mend or remove the row"
            )
        name = cells[layout.name]
        if not name:
            raise DataError(f"{place}: the name is empty; mend or remove the row")
        texts = [bare(cells[column]) for column in layout.values]
        yield number, name, [_number(f"{place}, {name[:80]!r}", text, layout.decimal) for text in texts]


def _column_rows(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    with open(path, **TEXT) as stream:
        reader = csv_rows(stream, separator)
        try:
            yield from ((reader.line_num, row) for row in reader if row)
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: not a CSV row ({error}); mend it") from error


def _tail_rows(path: Path, separator: str, count: int) -> Iterator[tuple[int, list[str]]]:
    with open(path, **TEXT) as stream:
        for number, line in enumerate(map(str.strip, text_lines(stream)), 1):
            if line:
                yield number, cells_from_right(line, separator, count) or [line]


def _number(place: str, text: str, decimal: str) -> float:
    pointed = with_point(text, decimal)
    if not is_number(pointed):
        raise DataError(f"{place}: {text[:40]!r} is no number; mend or remove the row")
    if not np.isfinite(value := float(pointed)):
        raise DataError(f"{place}: {text!r} is not finite; mend or remove the row")
    return value


def _line_of(path: Path, layout: Layout, columns: Columns, row: int) -> str:
    number, _, _ = next(islice(iterate_rows(path, layout, columns), int(row), None))
    return f", line {number}"


def _read(path: Path, layout: Layout, columns: Columns) -> tuple[Names, np.ndarray]:
    table = _read_fast(path, layout, columns.dtype) if layout.decimal == "." else None
    return _read_slow(path, layout, columns) if table is None else table


def _read_slow(path: Path, layout: Layout, columns: Columns) -> tuple[Names, np.ndarray]:
    names, values = [], []
    for _, name, numbers in iterate_rows(path, layout, columns):
        names.append(name)
        values.append(numbers)
    return Names.from_strings(names), np.array(values, columns.dtype).reshape(-1, columns.count)


def _read_fast(path: Path, layout: Layout, dtype: type) -> tuple[Names, np.ndarray] | None:
    """Read by blocks into arrays sized beforehand; None where anything needs the slow reader."""
    extent = _extent(path)
    if extent is None:
        return None
    text_bytes, rows = extent
    data, offsets = np.empty(text_bytes, np.uint8), np.zeros(rows + 1, np.int64)
    values = np.empty((rows, len(layout.values)), dtype)
    used = filled = 0
    try:
        for names, numbers in (_tail_blocks if layout.width is None else _column_blocks)(path, layout):
            keys = Names.from_arrow(names)
            size = keys.offsets[-1] - keys.offsets[0]
            stop = filled + len(keys)
            data[used : used + size] = keys.data[keys.offsets[0] : keys.offsets[-1]]
            offsets[filled + 1 : stop + 1] = keys.offsets[1:] - keys.offsets[0] + used
            for column, array in enumerate(numbers):
                values[filled:stop, column] = array.to_numpy()
            empty = (np.diff(keys.offsets) == 0).any()
            if empty or not np.isfinite(values[filled:stop]).all():
                return None
            used, filled = used + size, stop
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError):
        return None
    pa.default_memory_pool().release_unused()
    return Names(data[:used], offsets[: filled + 1]), values[:filled]


def _extent(path: Path) -> tuple[int, int] | None:
    """Return the size of a file and a bound on its rows; None where quotes meet carriage returns.

    Arrow loses the line feed of a quoted name when a block ends between the two characters of a line break.
    """
    size = lines = 0
    quoted = returns = False
    with open(path, "rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            size += len(block)
            found = block.count(b"\r")
            lines += block.count(b"\n") + found
            quoted, returns = quoted or b'"' in block, returns or found > 0
            if quoted and returns:
                return None
    return size, lines + 1


def _read_options(layout: Layout, names: list[str]) -> pyarrow.csv.ReadOptions:
    return pyarrow.csv.ReadOptions(
        use_threads=False, block_size=_BLOCK_BYTES, skip_rows=int(layout.header), column_names=names
    )


def _column_blocks(path: Path, layout: Layout) -> Iterator[tuple[pa.Array, list[pa.Array]]]:
    columns = [f"c{i}" for i in range(layout.width)]
    name, values = columns[layout.name], [columns[i] for i in layout.values]
    reader = pyarrow.csv.open_csv(
        path,
        _read_options(layout, columns),
        pyarrow.csv.ParseOptions(delimiter=layout.separator, newlines_in_values=True),
        pyarrow.csv.ConvertOptions(
            column_types={name: pa.large_binary(), **dict.fromkeys(values, pa.float64())},
            include_columns=[name, *values],
            null_values=[],
        ),
    )
    for batch in reader:
        yield batch.column(0), batch.columns[1:]


_TAILS = {
    "\t": r"^(?P<name>.*[^\t])\t(?P<value>[^\t]*)$",
    ";": r"^(?P<name>.*[^;]);(?P<value>[^;]*)$",
    " ": r"^(?P<name>.*[^ ]) +(?P<value>[^ ]+)$",
}


def _tail_blocks(path: Path, layout: Layout) -> Iterator[tuple[pa.Array, list[pa.Array]]]:
    if len(layout.values) != 1:
        raise ValueError("several numbers at the end of a row are read slowly")
    reader = pyarrow.csv.open_csv(
        path,
        _read_options(layout, ["line"]),
        pyarrow.csv.ParseOptions(delimiter="\x01", quote_char=False),
        pyarrow.csv.ConvertOptions(column_types={"line": pa.string()}, null_values=[]),
    )
    for batch in reader:
        lines = pc.ascii_trim_whitespace(batch.column(0))
        parts = pc.extract_regex(lines, pattern=_TAILS[layout.separator])
        if parts.null_count:
            raise ValueError("a row of another form")
        yield parts.field("name"), [pc.cast(pc.ascii_trim(parts.field("value"), "[] \t"), pa.float64())]
