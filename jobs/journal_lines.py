"""The lines of a journal, one for each finished batch, and what they together say about each row.

Each line ends with a checksum; one that a kill cut off or that was damaged counts as not written.
"""

import contextlib
import itertools
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, model_validator

_LARGEST = float(np.finfo(np.float32).max)
_Number = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST)]


class JournalLine(BaseModel):
    """Say what became of one batch, the rows from `first` on; one line of the journal."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    first: NonNegativeInt
    values: list[list[_Number] | None]
    """The float32 numbers of each row, None where it has none; several records one after the other."""
    failures: dict[NonNegativeInt, str]
    """Place in the batch -> why that row has none."""
    counts: dict[str, NonNegativeInt] = Field(default_factory=dict)
    """What is added up over all batches, by name."""

    @model_validator(mode="after")
    def _has_a_reason_for_each_row_without_numbers(self) -> "JournalLine":
        if self.failures.keys() != {place for place, numbers in enumerate(self.values) if numbers is None}:
            raise ValueError("rows without numbers and reasons do not go together")
        return self

    @classmethod
    def of(cls, first: int, values_BK: np.ndarray, failures: dict[int, str], counts: dict[str, int]) -> "JournalLine":
        """Take the values of a batch; those of the rows in `failures` do not matter."""
        return cls.records(first, values_BK.tolist(), failures, counts)

    @classmethod
    def records(
        cls, first: int, values: Sequence[list[float]], failures: dict[int, str], counts: dict[str, int]
    ) -> "JournalLine":
        """Take one record of numbers or more for each row of a batch; those of the rows in `failures` do not matter."""
        kept = [None if place in failures else numbers for place, numbers in enumerate(values)]
        reasons = {place: reason.encode(errors="backslashreplace").decode() for place, reason in failures.items()}
        return cls(first=first, values=kept, failures=reasons, counts=counts)


class Progress:
    """Hold what is known about each row."""

    def __init__(self, count: int, width: int, several: bool = False):
        """Know nothing about `count` rows of `width` numbers each, or, where `several`, of any number of records."""
        self.several = several
        self.values = np.full((count, width), np.nan, np.float32)
        self.further: dict[int, list[float]] = {}
        """Row -> its numbers behind the first `width`, where it has more than one record."""
        self.done = np.zeros(count, bool)
        self.reasons: dict[int, str] = {}
        self.counts: Counter[str] = Counter()

    def add(self, line: JournalLine) -> None:
        """Take over a batch; one that does not fit the rows is passed over."""
        rows = slice(line.first, line.first + len(line.values))
        count, width = self.values.shape
        lengths = {len(numbers) for numbers in line.values if numbers is not None}
        if rows.stop > count or not all(
            length == width or (self.several and _holds(length, width)) for length in lengths
        ):
            return
        if self.done[rows].any():  # recorded before in other batches, then again as part of an unfinished one
            self.reasons = {row: reason for row, reason in self.reasons.items() if not rows.start <= row < rows.stop}
            self.further = {row: more for row, more in self.further.items() if not rows.start <= row < rows.stop}
        unknown = [np.nan] * width
        self.values[rows] = [unknown if numbers is None else numbers[:width] for numbers in line.values]
        if lengths - {width}:
            further = {line.first + place: numbers[width:] for place, numbers in enumerate(line.values) if numbers}
            self.further.update({row: numbers for row, numbers in further.items() if numbers})
        self.done[rows] = True
        self.reasons.update({line.first + place: reason for place, reason in line.failures.items()})
        self.counts.update(line.counts)

    def rows(self) -> np.ndarray:
        """Return the rows that have numbers."""
        return np.flatnonzero(np.isfinite(self.values).all(axis=1))

    def records(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the row (R,) of each record, ascending, and its numbers (R, width)."""
        rows, width = self.rows(), self.values.shape[1]
        if not self.further:
            return rows, self.values if len(rows) == len(self.values) else self.values[rows]
        more = [np.array(self.further[row], np.float32).reshape(-1, width) for row in sorted(self.further)]
        repeated = np.repeat(np.array(sorted(self.further), np.int64), [len(block) for block in more])
        every = np.concatenate([rows, repeated])
        order = np.argsort(every, kind="stable")
        return every[order], np.concatenate([self.values[rows], *more])[order]

    def arranged(self, rows: np.ndarray) -> "Progress":
        """Return the same with the rows in another order: the new row i is what row `rows[i]` was."""
        other = Progress(0, self.values.shape[1], self.several)
        other.values, other.done, other.counts = self.values[rows], self.done[rows], self.counts
        places = np.empty(len(rows), np.int64)
        places[rows] = np.arange(len(rows))
        other.reasons = {int(places[row]): reason for row, reason in self.reasons.items()}
        other.further = {int(places[row]): numbers for row, numbers in self.further.items()}
        return other

    def left(self, size: int, begins: np.ndarray | None = None) -> np.ndarray:
        """Return the first rows of those batches of `size` rows that hold a row still to be done.

        begins: the first row of each part of the work that no batch reaches beyond, and the number of rows.
        """
        ends = np.array([0, len(self.done)]) if begins is None else begins
        parts = [np.arange(first, end, size) for first, end in itertools.pairwise(ends.tolist())]
        firsts = np.concatenate([np.zeros(0, np.int64), *parts])
        return firsts[~np.logical_and.reduceat(self.done, firsts)] if len(firsts) else firsts


def _holds(length: int, width: int) -> bool:
    return length > 0 and length % width == 0


def sealed(text: bytes) -> bytes:
    """Return a line of the journal: its JSON, a tab, the checksum of the JSON."""
    return b"%b\t%08x\n" % (text, zlib.crc32(text))


def lines_of(path: Path) -> Iterator[JournalLine]:
    """Yield the whole and sensible lines of a partial file."""
    with open(path, "rb") as stream:
        for line in stream:
            text = line.rpartition(b"\t")[0]
            with contextlib.suppress(ValidationError):
                if line == sealed(text):
                    yield JournalLine.model_validate_json(text)
