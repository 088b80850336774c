"""Which columns of a table are the name and the numbers: by what their titles say, or by what the user states."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from utils.config.sections import ScoreColumns
from utils.errors import DataError

NAME_TITLES = ("path", "name", "name_id", "file", "filename", "image", "img", "image_path", "image_id")
_GENERIC_TITLES = ("score", "label", "value")
"""Titles that other numbers bear as well: a detector's score, a person's label."""
_HARMLESS_TITLES = ("", "percentile", "rank", "index", "identity", "class", "fold", "unnamed: 0")
"""Columns nobody takes for a quality."""


class Content(NamedTuple):
    """What a kind of file holds beside each name."""

    what: str
    """Words for an error: `a quality` or `5 landmarks`."""
    headers: tuple[tuple[str, ...], ...]
    """What the columns of the numbers may be called, in lower case; the first that a file has counts."""
    dtype: type = np.float64
    """Numbers are parsed as float64 and kept as this."""

    @property
    def count(self) -> int:
        """Return how many numbers stand in a row."""
        return len(self.headers[0])


class Columns(NamedTuple):
    """The places of the columns: None and () where the titles do not tell."""

    name: int | None
    values: tuple[int, ...]


class Header(NamedTuple):
    """The titles of a table, with what tells columns apart that share a meaning."""

    place: str
    """File, for errors."""
    titles: tuple[str, ...]
    """As they stand in the file."""
    numeric: tuple[bool, ...] = ()
    """Whether a column holds numbers; empty: not known."""

    @property
    def lower(self) -> list[str]:
        """Return the titles for comparison."""
        return [title.strip().lower() for title in self.titles]

    def find(self, content: Content) -> Columns:
        """Find name and numbers; of several numbers the first, if there is a name."""
        titles = self.lower
        name = next((titles.index(title) for title in NAME_TITLES if title in titles), None)
        found = [header for header in content.headers if set(header) <= set(titles)]
        if not found or (name is None and len(found) > 1):
            return Columns(None, ())
        return Columns(name, tuple(titles.index(title) for title in found[0]))

    def require_clear(self, found: Columns, titles: Sequence[str] | None = None) -> None:
        """Raise DataError where a column with a generic title is one of several that may be the quality.

        titles: as the file has them, where those here are their singulars.
        """
        written = self.titles if titles is None else titles
        if len(found.values) != 1 or self.lower[found.values[0]] not in _GENERIC_TITLES:
            return
        others = [
            written[column]
            for column, title in enumerate(self.titles)
            if column not in (found.name, *found.values)
            and title.strip().lower() not in _HARMLESS_TITLES
            and ((self.numeric[column] if self.numeric else True) or (found.name is None and column > 0))
        ]
        if others:
            chosen = written[found.values[0]].strip()
            raise DataError(
                f"{self.place}: {chosen!r} may be the quality, or {', '.join(map(repr, others))[:80]}; say which with "
                "columns: {name: TITLE, score: TITLE}"
            )

    def stated(self, columns: ScoreColumns) -> Columns:
        """Return the columns the user names, by title or by number from 1; DataError where there is none."""
        return Columns(self._place_of(columns.name), (self._place_of(columns.score),))

    def _place_of(self, column: str | int) -> int:
        if isinstance(column, int) and 0 < column <= len(self.titles):
            return column - 1
        if isinstance(column, str) and column.strip().lower() in self.lower:
            return self.lower.index(column.strip().lower())
        raise DataError(
            f"{self.place}: has no column {column!r} but {', '.join(map(repr, self.titles))[:120]}; columns names them "
            "as they are called, or by number from 1"
        )


def taken(columns: Sequence[int], titles: Sequence[str], width: int) -> str:
    """Say which column became the number: `took column 'quality' of path, quality`."""
    if not titles:
        return f"took column {columns[0] + 1} of {width}"
    return f"took column {titles[columns[0]].strip()!r} of {', '.join(title.strip() for title in titles)[:120]}"
