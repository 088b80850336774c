"""Where a text table keeps its names and numbers: separator, header, columns and decimal mark, from its first rows."""

import csv
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from data.images.decode import IMAGE_SUFFIXES
from utils.errors import DataError

TEXT = {"encoding": "utf-8-sig", "errors": "surrogateescape", "newline": ""}
"""How text files are opened; names that are no UTF-8 keep their bytes."""


class Layout(NamedTuple):
    """Where a file keeps its names and numbers."""

    separator: str
    """One of comma, tab, semicolon, blank."""
    header: bool
    """Whether the first row holds column names."""
    name: int
    """Column of the name, where all rows have `width` columns."""
    values: tuple[int, ...]
    """Columns of the numbers; counted from the end of the row, -1 last, without `width`."""
    width: int | None
    """Columns every row has; None: the name may contain the separator."""
    decimal: str = "."
    """Decimal mark, point or comma."""


class Columns(NamedTuple):
    """What a kind of file must hold."""

    what: str
    """Words for an error: `a quality` or `5 landmarks`."""
    count: int
    """Numbers per row."""
    pick: Callable[[list[str]], tuple[int | None, tuple[int, ...]] | None]
    """From lower-case column names: column of the name, None where no known one is there, and those of the numbers."""
    dtype: type = np.float64
    """Numbers are parsed as float64 and kept as this."""


def find_layout(path: Path, columns: Columns) -> Layout:
    """Find the separator, the header and the decimal mark from the first two rows."""
    with open(path, **TEXT) as stream:
        lines = [line.strip() for line in islice((line for line in text_lines(stream) if line.strip()), 2)]
    if not lines:
        raise DataError(f"{path}: holds no rows; expected a name and {columns.what} in each")
    rows = _first_rows(path, ",") or [lines[:1]]
    for separator in "\t,; ":
        split = rows if separator == "," else [cells_from_right(line, separator, columns.count) for line in lines]
        layout = _by_header(path, separator, columns) or _by_place(path, separator, columns, split)
        if layout is not None:
            return layout
    header = len(rows) > 1 and _may_be_header(rows[0])
    if len(rows[0]) == columns.count + 1:  # a damaged first row of an ordinary CSV: let the reader name it
        return Layout(",", header, *_plain(columns), columns.count + 1)
    raise _wrong_width(path, 1 + header, rows[header], columns)


def _by_header(path: Path, separator: str, columns: Columns) -> Layout | None:
    """Return the layout of a table whose first row names its columns; DataError where the names leave it open."""
    rows = _first_rows(path, separator)
    if not rows or any(map(_may_be_number, rows[0])):
        return None
    if separator == "," and any(all(_ends_in_number(row[-1], other, sure=True) for row in rows) for other in "\t; "):
        return None  # `a,b;0.5`
    names, second = [cell.strip().lower() for cell in rows[0]], rows[1] if len(rows) > 1 else []
    picked = columns.pick(names)
    wide = len(names) == len(second) > columns.count + 1 and _may_be_header(rows[0])
    if separator == " ":  # there, names with blanks look like columns
        wide = wide and all(map(_may_be_number, second[1:]))
    known = picked is not None and (picked[0] is not None or picked[1] != _plain(columns)[1])
    if not wide and not (known and separator == ","):
        return None
    name, values = picked or (None, (0,))
    if name is None and (0 in values or (wide and _may_be_number(second[0]))):
        raise DataError(
            f"{path}: cannot tell the columns of the name and {columns.what} among {', '.join(names)[:80]}; "
            "see README for what to call them"
        )
    return Layout(separator, True, name or 0, values, len(names), _decimal_mark([second[i : i + 1] for i in values]))


def _by_place(path: Path, separator: str, columns: Columns, split: list[list[str] | None]) -> Layout | None:
    """Return the layout of a table that holds a name, then numbers; an own CSV may end in a percentile."""
    if separator == ",":
        widths = (columns.count + 1, columns.count + 1 + (columns.count == 1))
        split = [row if len(row) in widths and row[0] else None for row in split]
    numeric = [row is not None and all(map(_may_be_number, row[1:])) for row in split]
    header = not numeric[0] and (split[0] is None or _may_be_header(split[0]))
    if not numeric[header : header + 1] == [True]:
        return None
    name, decimal = split[header][0], _decimal_mark([row[1:] for row in split if row])
    if separator == ",":
        if any(_ends_in_number(name, other, split[0] is None) for other in "\t; "):
            return None  # `a.jpg;0,53`
        return Layout(",", header, *_plain(columns), len(split[header]), decimal)
    if _ends_in_number(name, separator):
        raise _wrong_width(path, 1 + header, [*name.split(separator), *split[header][1:]], columns)
    return Layout(separator, header, 0, tuple(range(-columns.count, 0)), None, decimal)


def _plain(columns: Columns) -> tuple[int, tuple[int, ...]]:
    return 0, tuple(range(1, columns.count + 1))


def _wrong_width(path: Path, line: int, row: list[str], columns: Columns) -> DataError:
    return DataError(
        f"{path}, line {line}: found {len(row)} columns, a name with {columns.what} takes {columns.count + 1}: "
        f"{','.join(row)[:80]!r}; see README for the formats"
    )


def _ends_in_number(name: str, separator: str, sure: bool = False) -> bool:
    """Tell whether the end of a name is rather a column of its own; after a blank it is only behind an image's name."""
    first, _, last = name.rpartition(separator)
    named = sure or separator != " " or Path(first.lower()).suffix in IMAGE_SUFFIXES
    return bool(first) and named and _may_be_number(last)


def _first_rows(path: Path, separator: str) -> list[list[str]]:
    """Return the first two rows of a CSV; none where the text is no CSV at all."""
    with open(path, **TEXT) as stream:
        try:
            return list(islice((row for row in csv_rows(stream, separator) if row), 2))
        except csv.Error:
            return []


def csv_rows(stream: IO[str], separator: str):
    """Return a reader of separated rows, which counts lines."""
    return csv.reader(stream, delimiter=separator, skipinitialspace=separator == " ")


def _may_be_header(row: list[str]) -> bool:
    """Tell whether a row holds neither a number nor the name of an image."""
    named = "/" in row[0] or Path(row[0].lower()).suffix in IMAGE_SUFFIXES
    return not named and not any(map(is_number, row[1:]))


def is_number(text: str) -> bool:
    """Tell whether a text is a number with a decimal point, perhaps in brackets."""
    try:
        float(bare(text))
    except ValueError:
        return False
    return "_" not in text


def _may_be_number(text: str) -> bool:
    return is_number(text) or is_number(with_point(text, ","))


def _decimal_mark(rows: list[list[str]]) -> str:
    return "," if any("," in cell for row in rows for cell in row) else "."


def with_point(text: str, decimal: str) -> str:
    """Return a number with a decimal point; where the comma is the mark, a point is none."""
    return text if decimal == "." else text.translate({ord(","): ".", ord("."): ","})


def bare(text: str) -> str:
    """Return a cell without blanks and brackets around it."""
    return text.strip("[] \t")


def cells_from_right(line: str, separator: str, count: int) -> list[str] | None:
    """Cut `count` cells off the end of a line; None where there is no name before them."""
    cells = line.rsplit(None if separator == " " else separator, count)
    return cells if len(cells) == count + 1 and cells[0] else None


def text_lines(stream: IO[str]) -> Iterator[str]:
    """Yield the lines of a text, whatever ends them."""
    for line in stream:
        yield from re.split("\r\n|\r|\n", line.rstrip("\r\n")) if "\r" in line else (line,)
