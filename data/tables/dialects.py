"""The forms of text file that hold names and numbers, and which of them a file has.

CSV     `name,number,...`. Cells may be quoted, with commas, quotes and line breaks inside. The first row may be a
        header: any row without a number. One number may be followed by its percentile, as inference.py writes it.
table   Columns separated by commas, tabs or semicolons, more than are wanted or in another order; the header says
        which is which.
list    A name and numbers, separated by tabs, semicolons or blanks (FaceQnet, SDD-FIQA, CR-FIQA, GraFIQs). Lines are
        cut from the right, so that names may contain the separator. A header is any row without a number, or one that
        names the columns; behind blanks, it may name more numbers than are wanted.

Numbers have a decimal point, or, where the first with a mark does, a decimal comma; they may stand in square brackets.
A first line `sep=;`, as Excel writes it, names the separator; one with a whole number alone counts the rows.
Blanks around commas do not count.
"""

import csv
import re
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from data.images.decode import IMAGE_SUFFIXES
from data.tables.columns import Columns, Content, Header
from data.tables.encoding import open_text, require_text
from utils.config.sections import ScoreForm
from utils.errors import DataError

BLANKS = " \t\r\n"
BRACKETS = "[] \t"
"""What may stand around a number."""
MISSING = ("", "nan", "NaN", "NAN", "na", "NA", "n/a", "N/A", "none", "None", "NONE", "null", "NULL", "-nan", "#N/A")
"""What stands where a number is missing."""
_LIST_SEPARATORS = "\t; "
_STATED_SEPARATOR = re.compile(r"sep=([,;\t])\s*$", re.IGNORECASE)
_COUNT = re.compile(r"[0-9]+\s*\n")
"""The first line of CelebA's lists: how many rows follow."""
_FEATURES = 8
"""So many numbers in a row behind a name are features, no part of the name."""


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
    padded: bool = False
    """Whether blanks stand around the separators."""
    titles: tuple[str, ...] = ()
    """What the file calls its columns; empty where it does not say."""

    def __str__(self) -> str:
        names = {"\t": "tabs", ",": "commas", ";": "semicolons", " ": "blanks"}
        return f"a table with {names[self.separator]}"


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


def find_dialect(path: Path, content: Content, form: ScoreForm) -> Dialect:
    """Tell from the first two rows which dialect a file is; DataError where they leave it open or it is none."""
    require_text(path)
    head = _Head(path, content, form)
    if not head.lines:
        raise no_rows(path, content)
    dialect = head.stated() if form.columns else head.found()
    return dialect if form.decimal is None else dialect._replace(decimal=form.decimal)


def no_rows(path: Path, content: Content) -> DataError:
    """Return the error for a file without data."""
    return DataError(f"{path}: holds no rows; expected a name and {content.what} in each")


class _Row(NamedTuple):
    end: int
    """Number of its last line."""
    cells: list[str]


class _Head:
    """The first two rows of a file, under each separator."""

    def __init__(self, path: Path, content: Content, form: ScoreForm):
        self.path, self.content, self.count, self.form = path, content, content.count, form
        with open_text(path) as stream:
            first = stream.readline(16)
        hint = _STATED_SEPARATOR.match(first)
        self.begin = int(hint is not None or _COUNT.fullmatch(first) is not None)
        self.separators = form.separator or (hint[1] if hint else "\t,; ")
        with open_text(path) as stream:
            lines = ((number, line.strip(BLANKS)) for number, line in enumerate(stream, 1) if number > self.begin)
            self.lines = list(islice((_Row(number, [line]) for number, line in lines if line), 2))
        self.comma_rows = self.rows(",") or self.lines[:1]

    def rows(self, separator: str) -> list[_Row]:
        """Return them cut at each separator; none where the text is no CSV at all."""
        with open_text(self.path) as stream:
            reader = csv.reader(stream, delimiter=separator, skipinitialspace=separator == " ")
            rows = (_Row(reader.line_num, row) for row in reader if row and reader.line_num > self.begin)
            try:
                return list(islice(rows, 2))
            except csv.Error:
                return []

    def found(self) -> Dialect:
        """Return the first dialect that fits."""
        for separator in self.separators:
            plain = self.as_csv if separator == "," else self.as_list
            dialect = self.as_table(separator) or plain(separator)
            if dialect is not None:
                return dialect
        return self.neither()

    def stated(self) -> Dialect:
        """Return the dialect whose columns the user names, under the first separator that cuts the first row."""
        columns = self.form.columns
        for separator in self.separators:
            rows = self.rows(separator)
            if columns is None or not rows or len(rows[0].cells) < 2:
                continue
            found = Header(str(self.path), tuple(rows[0].cells)).stated(columns)
            titled = isinstance(columns.score, str) or not _may_be_value(rows[0].cells[found.values[0]])
            return self._table(separator, rows, found, titled)
        raise self._wrong_width(self.lines[0].end, self.lines[0].cells)

    def as_table(self, separator: str) -> Dialect | None:
        """Return the dialect of a table whose first row names its columns."""
        rows = self.rows(separator)
        if not rows or any(map(_may_be_number, rows[0].cells)) or (separator == "," and self._is_list_with_commas()):
            return None
        second = rows[1].cells if len(rows) > 1 else []
        header = Header(str(self.path), tuple(rows[0].cells), tuple(map(_may_be_value, second)))
        wide = len(rows[0].cells) == len(second) > self.count + 1 and _may_be_header(rows[0].cells)
        name, values = header.find(self.content)
        if separator == " ":  # there, names with blanks look like columns
            texts = [column for column, cell in enumerate(second) if not _may_be_value(cell)]
            wide = wide and texts in ([], [0], [name])
        known = values and (name is not None or values != self._plain())
        if not wide and not (known and separator == ","):
            return None
        if name is None and (not values or 0 in values or (wide and _may_be_number(second[0]))):
            raise DataError(
                f"{self.path}: cannot tell the columns of the name and {self.content.what} among "
                f"{', '.join(header.lower)[:80]}; {self._way_out()}"
            )
        if wide:
            header.require_clear(Columns(name, values))
        return self._table(separator, rows, Columns(name, values), titled=True)

    def _table(self, separator: str, rows: list[_Row], found: Columns, titled: bool) -> Dialect:
        data = rows[1:] if titled else rows
        cells = [row.cells[column : column + 1] for row in data for column in found.values]
        dialect = self._dialect(separator, rows[0] if titled else None, len(rows[0].cells), cells)
        pattern = _blank_table_pattern(dialect.width) if separator == " " else ""
        return dialect._replace(name=found.name or 0, values=found.values, pattern=pattern)

    def as_csv(self, separator: str) -> Dialect | None:
        """Return the dialect of comma-separated names and numbers; one number may be followed by its percentile."""
        widths = (self.count + 1, self.count + 1 + (self.count == 1))
        split = [row.cells if len(row.cells) in widths and row.cells[0] else None for row in self.comma_rows]
        found = _first_of_data(split)
        if found is None or any(_ends_in_number(found[1][0], other, split[0] is None) for other in _LIST_SEPARATORS):
            return None  # `a.jpg;0,53`
        header, width = self.comma_rows[0] if found[0] else None, len(found[1])
        dialect = self._dialect(separator, header, width, [row[1:] for row in split[found[0] :] if row])
        return dialect._replace(values=tuple(range(1, width)), ends_in_percentile=width > self.count + 1)

    def as_list(self, separator: str) -> Dialect | None:
        """Return the dialect of lines that end in numbers."""
        pattern = _list_pattern(separator, self.count)
        split = [list(found.groups()) if (found := re.match(pattern, row.cells[0])) else None for row in self.lines]
        if (first := _first_of_data(split)) is None:
            return None
        data, (name, *cells) = first
        if _ends_in_number(name, separator) or _ends_in_features(name, separator):
            raise self._wrong_width(self.lines[data].end, [*name.split(separator), *cells])
        header = _Row(self.lines[0].end, split[0] or []) if data else None
        dialect = self._dialect(separator, header, self.count + 1, [row[1:] for row in split[data:] if row])
        return dialect._replace(pattern=pattern)

    def neither(self) -> Dialect:
        """Return the dialect of a CSV whose first row is damaged, so that the reader names it; else refuse the file."""
        rows = self.comma_rows
        data = int(len(rows) > 1 and _may_be_header(rows[0].cells))
        if len(rows[0].cells) == self.count + 1 and "," in self.separators:
            return self._dialect(",", rows[0] if data else None, self.count + 1, [])
        raise self._wrong_width(rows[data].end, rows[data].cells)

    def _dialect(self, separator: str, header: _Row | None, width: int, number_cells: list[list[str]]) -> Dialect:
        texts = [text for cells in number_cells for text in cells]
        titles = tuple(header.cells) if header else ()
        padded = separator == "," and any(text != text.strip() for text in (*texts, *titles))
        return Dialect(
            separator, header.end if header else self.begin, width, self._plain(), titles=titles, padded=padded,
            decimal="," if any("," in text for text in texts) else ".", brackets="[" in "".join(texts),
        )  # fmt: skip

    def _plain(self) -> tuple[int, ...]:
        return tuple(range(1, self.count + 1))

    def _wrong_width(self, line: int, cells: list[str]) -> DataError:
        return DataError(
            f"{self.path}, line {line}: found {len(cells)} columns, a name with {self.content.what} takes "
            f"{self.count + 1}: {','.join(cells)[:80]!r}; {self._way_out()}"
        )

    def _way_out(self) -> str:
        if self.count > 1:
            return "see docs/formats.md for the forms of landmark files"
        return "say which with columns: {name: TITLE, score: TITLE}, see docs/formats.md"

    def _is_list_with_commas(self) -> bool:
        """Tell whether each row ends in a number behind another separator: `a,b;0.5`."""
        ends = [row.cells[-1] for row in self.comma_rows]
        return any(all(_ends_in_number(end, other, sure=True) for end in ends) for other in _LIST_SEPARATORS)


def _first_of_data(split: list[list[str] | None]) -> tuple[int, list[str]] | None:
    """Return the first of two rows with a name and numbers, and its place, 1 behind a header; None: another form."""
    numeric = [row is not None and all(map(_may_be_value, row[1:])) for row in split]
    if split[0] is not None and not any(map(_may_be_number, split[0][1:])):
        numeric[0] = numeric[0] and _names_image(split[0][0])  # `path,` is a header
    data = int(not numeric[0] and (split[0] is None or _may_be_header(split[0])))
    if numeric[1:] == [True] and _counts_columns(split[0]) and not _may_be_number(str(split[1] and split[1][0])):
        data = 1
    row = split[data] if numeric[data : data + 1] == [True] else None
    return None if row is None else (data, row)


def _counts_columns(row: list[str] | None) -> bool:
    """Tell whether a row is 0, 1, ...: what pandas writes where columns have no names."""
    return row is not None and row == [str(column) for column in range(len(row))]


def _ends_in_features(name: str, separator: str) -> bool:
    """Tell whether a name behind blanks ends in many numbers, as in a list of embeddings."""
    cells = name.split(separator)[1:]
    return separator == " " and len(cells) >= _FEATURES and all(map(is_number, cells[-_FEATURES:]))


def _ends_in_number(name: str, separator: str, sure: bool = False) -> bool:
    """Tell whether the end of a name is rather a column of its own; after a blank it is only behind an image's name."""
    first, _, last = name.rpartition(separator)
    named = sure or separator != " " or Path(first.lower()).suffix in IMAGE_SUFFIXES
    return bool(first) and named and _may_be_number(last)


def _may_be_header(row: list[str]) -> bool:
    """Tell whether a row holds neither a number nor the name of an image."""
    return not _names_image(row[0]) and not any(is_number(cell.strip(BRACKETS)) for cell in row[1:])


def _names_image(text: str) -> bool:
    return "/" in text or Path(text.lower()).suffix in IMAGE_SUFFIXES


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


def _may_be_value(text: str) -> bool:
    """Tell whether a text may stand where a number is wanted."""
    return text.strip(BRACKETS) in MISSING or _may_be_number(text)


def with_point(text: str, decimal: str) -> str:
    """Return a number with a decimal point; where the comma is the mark, a point is none."""
    return text if decimal == "." else text.translate({ord(","): ".", ord("."): ","})
