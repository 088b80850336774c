"""Rows of a table, made complete: those without a value go, and each name stays once."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.tables.join import duplicates
from data.tables.names import Names
from utils.config.sections import ScoreForm
from utils.errors import DataError


class CompleteRows(NamedTuple):
    """Names, each once, and their values."""

    names: Names
    values: np.ndarray
    """(N,) or (N, count), finite."""
    remarks: tuple[str, ...]
    """Words on rows without a value."""


class RowRules(NamedTuple):
    """What becomes of rows without a value, and of rows that share a name and differ."""

    missing_value: float | None = None
    """A number that means no value."""
    merge: str = "error"
    """error, mean, min or max of such rows."""
    rank: Callable[[np.ndarray], np.ndarray] | None = None
    """Instead of merging: (N, D) values -> (N,), the highest of which is the row to keep."""
    ways: str = ""
    """What else than keeping one of the rows an error advises."""

    @classmethod
    def of_scores(cls, form: ScoreForm) -> "RowRules":
        """Return the rules of a file of labels or scores."""
        return cls(form.missing_value, form.repeats, ways=", or set repeats: mean, min or max")


def complete_rows(
    path: str | Path, names: Names, values: np.ndarray, rules: RowRules, place: Callable[[int], str]
) -> CompleteRows:
    """Return the rows with a value, each name once; `place` says where a row stands in the file."""
    missing = np.isnan(values.reshape(len(values), -1)).any(axis=1)
    if rules.missing_value is not None:
        missing |= values.reshape(len(values), -1)[:, 0] == rules.missing_value
    remarks, rows = (), np.arange(len(names))
    if missing.any():
        first = int(np.argmax(missing))
        remarks = (f"{missing.sum():,} of {len(names):,} rows hold no value, first {names[first]!r}{place(first)}",)
        rows = np.flatnonzero(~missing)
        names, values = names.take(rows), values[rows]
    if not len(names):
        raise DataError(f"{path}: no row holds a value; name another file")
    kept = drop_repeats(path, names, values, lambda row: place(int(rows[row])), rules)
    return CompleteRows(names, values, remarks) if kept is None else CompleteRows(names.take(kept[0]), kept[1], remarks)


_MERGE = {"mean": np.add, "min": np.minimum, "max": np.maximum}


def drop_repeats(
    path: str | Path, names: Names, values: np.ndarray, place: Callable[[int], str], rules: RowRules
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the rows left after dropping repeated names, and their values; None when all stay.

    DataError when values of a name differ and the rules say so.
    """
    pairs = duplicates(names)
    if not len(pairs):
        return None
    kept = np.delete(np.arange(len(names)), pairs[:, 1])
    differing = (values[pairs[:, 0]] != values[pairs[:, 1]]).reshape(len(pairs), -1).any(axis=1)
    if differing.any() and rules.rank is not None:
        return kept, values[_highest(pairs, rules.rank(values))[kept]]
    if differing.any() and rules.merge == "error":
        first, later = pairs[np.argmax(differing)]
        raise DataError(
            f"{path}{place(later)}: {names[later]!r} has {_shown(values[later])} but {_shown(values[first])} before"
            f"{place(first).replace(', ', ' (') + ')' if place(first) else ''}; keep one of the two rows"
            f"{rules.ways}"
        )
    if not differing.any():
        return kept, values[kept]
    merged = values.copy()
    _MERGE[rules.merge].at(merged, pairs[:, 0], values[pairs[:, 1]])
    if rules.merge == "mean":
        count = 1 + np.bincount(pairs[:, 0], minlength=len(values))
        merged = merged / count.reshape(-1, *[1] * (values.ndim - 1))
    return kept, merged[kept]


def _highest(pairs: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Return, at the first row of each name, the row of that name that ranks highest; the first of equal ones."""
    chosen = np.arange(len(ranks))
    for first, later in pairs:
        if ranks[later] > ranks[chosen[first]]:
            chosen[first] = later
    return chosen


def _shown(values: np.ndarray) -> str:
    return " ".join(f"{value:g}" for value in np.ravel(values)[:4])
