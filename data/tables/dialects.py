"""The forms of text file that hold names and numbers, and which of them a file has.

CSV     `name,number,...`. Cells may be quoted, with commas, quotes and line breaks inside. The first row may be a
        header: any row without a number. One number may be followed by its percentile, as inference.py writes it.
table   Columns separated by commas, tabs or semicolons, more than are wanted or in another order; the header says
        which is which.
list    A name and numbers, separated by tabs, semicolons or blanks (FaceQnet, SDD-FIQA, CR-FIQA, GraFIQs). Lines are
        cut from the right, so that names may contain the separator. A header is any row without a number, or one that
        names the columns; behind blanks, it may name more numbers than are wanted.

Content have a decimal point, or, where the first ones do, a decimal comma; they may stand in square brackets.
"""

import csv
import re
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np

from data.images.decode import IMAGE_SUFFIXES
from utils.errors import DataError
from utils.present import present

BLANKS = " \t\r\n"
BRACKETS = "[] \t"
"""What may stand around a number."""
_NAME_COLUMNS = ("path", "name", "name_id", "file", "filename", "image", "img", "image_path", "image_id")
_LIST_SEPARATORS = "\t; "


class Content(NamedTuple):
    """What a kind of file holds beside each name."""

    what: str
    """Words for an error: `a quality` or `5 landmarks`."""
    headers: tuple[tuple[str, ...], ...]
    """What the columns of the numbers may be called, in lower case; the first that a file has counts."""
    dtype: type = np.float64
    """Content are parsed as float64 and kept as this."""

    @property
    def count(self) -> int:
        """Return how many numbers stand in a row."""
        return len(self.headers[0])


class Dialect(NamedTuple):
    """One form of text file, with all that a reader must know of it."""

    separator: str
    """One of comma, tab, semicolon, blank."""
    skip: int
    """Lines in front of the first row of data."""
    width: int
    """Columns of a row."""
    values: tuple[int, ...]
    """Columns of the numbers."""
    name: int = 0
    """Column of the name."""
    pattern: str = ""
    """Expression for a line, with a group for each column, c0, c1, ...; empty: cells are separated as in CSV."""
    decimal: str = "."
    """Decimal mark, point or comma."""
    brackets: bool = False
    """Whether numbers stand in brackets."""
    ends_in_percentile: bool = False
    """Whether the last of the values must be the percentile of the first, and goes."""

    def __str__(self) -> str:
        names = {"\t": "tabs", ",": "commas", ";": "semicolons", " ": "blanks"}
        return f"a table with {names[self.separator]}"


def open_text(path: Path) -> TextIO:
    """Open a text file; names that are no UTF-8 keep their bytes."""
    return open(path, encoding="utf-8-sig", errors="surrogateescape", newline="")


def find_columns(titles: list[str], content: Content) -> tuple[int | None, tuple[int, ...]]:
    """Find the columns of name and numbers by lower-case titles; of several numbers the first, if there is a name."""
    name = next((titles.index(title) for title in _NAME_COLUMNS if title in titles), None)
    found = [header for header in content.headers if set(header) <= set(titles)]
    if not found or (name is None and len(found) > 1):
        return None, ()
    return name, tuple(titles.index(title) for title in found[0])


def _list_pattern(separator: str, count: int) -> str:
    """Return the expression for a name and `count` cells behind it, in what Python and RE2 have in common."""
    if separator == " ":
        name, gap, cell = r".*[^ \t]", r"[ \t]+", r"[^ \t]+"
    else:  # tabs at the end of a line are no cells
        name, gap, cell = r"[^ \t].*", separator, "[^;]*" if separator == ";" else r"[^\t]*[^\t ]"
    cells = "".join(f"{gap}(?P<c{column}>{cell})" for column in range(1, count + 1))
    return rf"(?s)^[ \t]*(?P<c0>{name}){cells}[ \t]*$"


def _blank_table_pattern(width: int) -> str:
    cells = r"[ \t]+".join(rf"(?P<c{column}>[^ \t]+)" for column in range(width))
    return rf"^[ \t]*{cells}[ \t]*$"


def find_dialect(path: Path, content: Content) -> Dialect:
    """Tell from the first two rows which dialect a file is; DataError where they leave it open or it is none."""
    head = _Head(path, content)
    if not head.lines:
        raise no_rows(path, content)
    for separator in "\t,; ":
        plain = head.as_csv if separator == "," else head.as_list
        dialect = head.as_table(separator) or plain(separator)
        if dialect is not None:
            return dialect
    return head.neither()


def no_rows(path: Path, content: Content) -> DataError:
    """Return the error for a file without data."""
    return DataError(f"{path}: holds no rows; expected a name and {content.what} in each")


class _Row(NamedTuple):
    end: int
    """Number of its last line."""
    cells: list[str]


class _Head:
    """The first two rows of a file, under each separator."""

    def __init__(self, path: Path, content: Content):
        self.path, self.content, self.count = path, content, content.count
        with open_text(path) as stream:
            lines = ((number, line.strip(BLANKS)) for number, line in enumerate(stream, 1))
            self.lines = list(islice((_Row(number, [line]) for number, line in lines if line), 2))
        self.comma_rows = self.rows(",") or self.lines[:1]

    def rows(self, separator: str) -> list[_Row]:
        """Return them cut at each separator; none where the text is no CSV at all."""
        with open_text(self.path) as stream:
            reader = csv.reader(stream, delimiter=separator, skipinitialspace=separator == " ")
            try:
                return list(islice((_Row(reader.line_num, row) for row in reader if row), 2))
            except csv.Error:
                return []

    def as_table(self, separator: str) -> Dialect | None:
        """Return the dialect of a table whose first row names its columns."""
        rows = self.rows(separator)
        if not rows or any(map(_may_be_number, rows[0].cells)) or (separator == "," and self._is_list_with_commas()):
            return None
        titles = [cell.strip().lower() for cell in rows[0].cells]
        second = rows[1].cells if len(rows) > 1 else []
        wide = len(titles) == len(second) > self.count + 1 and _may_be_header(rows[0].cells)
        name, values = find_columns(titles, self.content)
        if separator == " ":  # there, names with blanks look like columns
            texts = [column for column, cell in enumerate(second) if not _may_be_number(cell)]
            wide = wide and texts in ([], [0], [name])
        known = values and (name is not None or values != self._plain())
        if not wide and not (known and separator == ","):
            return None
        if name is None and (not values or 0 in values or (wide and _may_be_number(second[0]))):
            raise DataError(
                f"{self.path}: cannot tell the columns of the name and {self.content.what} among "
                f"{', '.join(titles)[:80]}; see README for what to call them"
            )
        number_cells = [second[column : column + 1] for column in present(values)]
        dialect = self._dialect(separator, rows[0].end, len(titles), number_cells)
        pattern = _blank_table_pattern(len(titles)) if separator == " " else ""
        return dialect._replace(name=name or 0, values=present(values), pattern=pattern)

    def as_csv(self, separator: str) -> Dialect | None:
        """Return the dialect of comma-separated names and numbers; one number may be followed by its percentile."""
        widths = (self.count + 1, self.count + 1 + (self.count == 1))
        split = [row.cells if len(row.cells) in widths and row.cells[0] else None for row in self.comma_rows]
        found = _first_of_data(split)
        if found is None or any(_ends_in_number(found[1][0], other, split[0] is None) for other in _LIST_SEPARATORS):
            return None  # `a.jpg;0,53`
        skip, width = self.comma_rows[0].end if found[0] else 0, len(found[1])
        dialect = self._dialect(separator, skip, width, [row[1:] for row in split if row])
        return dialect._replace(values=tuple(range(1, width)), ends_in_percentile=width > self.count + 1)

    def as_list(self, separator: str) -> Dialect | None:
        """Return the dialect of lines that end in numbers."""
        pattern = _list_pattern(separator, self.count)
        split = [list(found.groups()) if (found := re.match(pattern, row.cells[0])) else None for row in self.lines]
        if (first := _first_of_data(split)) is None:
            return None
        data, (name, *cells) = first
        if _ends_in_number(name, separator):
            raise self._wrong_width(self.lines[data].end, [*name.split(separator), *cells])
        skip = self.lines[0].end if data else 0
        dialect = self._dialect(separator, skip, self.count + 1, [row[1:] for row in split if row])
        return dialect._replace(pattern=pattern)

    def neither(self) -> Dialect:
        """Return the dialect of a CSV whose first row is damaged, so that the reader names it; else refuse the file."""
        rows = self.comma_rows
        data = int(len(rows) > 1 and _may_be_header(rows[0].cells))
        if len(rows[0].cells) == self.count + 1:
            return self._dialect(",", rows[0].end if data else 0, self.count + 1, [])
        raise self._wrong_width(rows[data].end, rows[data].cells)

    def _dialect(self, separator: str, skip: int, width: int, number_cells: list[list[str]]) -> Dialect:
        texts = [text for cells in number_cells for text in cells]
        decimal = "," if any("," in text for text in texts) else "."
        return Dialect(separator, skip, width, self._plain(), decimal=decimal, brackets="[" in "".join(texts))

    def _plain(self) -> tuple[int, ...]:
        return tuple(range(1, self.count + 1))

    def _wrong_width(self, line: int, cells: list[str]) -> DataError:
        return DataError(
            f"{self.path}, line {line}: found {len(cells)} columns, a name with {self.content.what} takes "
            f"{self.count + 1}: {','.join(cells)[:80]!r}; see README for the formats"
        )

    def _is_list_with_commas(self) -> bool:
        """Tell whether each row ends in a number behind another separator: `a,b;0.5`."""
        ends = [row.cells[-1] for row in self.comma_rows]
        return any(all(_ends_in_number(end, other, sure=True) for end in ends) for other in _LIST_SEPARATORS)


def _first_of_data(split: list[list[str] | None]) -> tuple[int, list[str]] | None:
    """Return the first of two rows with a name and numbers, and its place, 1 behind a header; None: another form."""
    numeric = [row is not None and all(map(_may_be_number, row[1:])) for row in split]
    data = int(not numeric[0] and (split[0] is None or _may_be_header(split[0])))
    row = split[data] if numeric[data : data + 1] == [True] else None
    return None if row is None else (data, row)


def _ends_in_number(name: str, separator: str, sure: bool = False) -> bool:
    """Tell whether the end of a name is rather a column of its own; after a blank it is only behind an image's name."""
    first, _, last = name.rpartition(separator)
    named = sure or separator != " " or Path(first.lower()).suffix in IMAGE_SUFFIXES
    return bool(first) and named and _may_be_number(last)


def _may_be_header(row: list[str]) -> bool:
    """Tell whether a row holds neither a number nor the name of an image."""
    named = "/" in row[0] or Path(row[0].lower()).suffix in IMAGE_SUFFIXES
    return not named and not any(is_number(cell.strip(BRACKETS)) for cell in row[1:])


def is_number(text: str) -> bool:
    """Tell whether a text is a number with a decimal point."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text and text.isascii()


def _may_be_number(text: str) -> bool:
    text = text.strip(BRACKETS)
    return is_number(text) or is_number(with_point(text, ","))


def with_point(text: str, decimal: str) -> str:
    """Return a number with a decimal point; where the comma is the mark, a point is none."""
    return text if decimal == "." else text.translate({ord(","): ".", ord("."): ","})
