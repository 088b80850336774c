"""Landmark files: five points per image, in any form users have, as one checked table.

Convention: points (x, y) in pixels of the source image, pixel centres at integers, in template order:
eye on the image's left, eye on its right, nose tip, mouth corner left, mouth corner right.
"""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.tables.columns import Content
from data.tables.names import Names
from data.tables.text_tables import read_text_table, write_csv
from utils.errors import DataError
from utils.outside.reading import reading, shown
from utils.pickles import load_restricted_pickle

HEADER = ("path", "x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4", "x5", "y5")
_BLOCK = 4096
_PICKLES = {".pkl", ".pickle", ".p"}
_VGGFACE2 = tuple(f"p{n}{axis}" for n in range(1, 6) for axis in "xy")
_POINTS = Content("5 landmarks (x1,y1,...,x5,y5)", (HEADER[1:], _VGGFACE2), np.float32)


class LandmarkTable(NamedTuple):
    """Names and their points."""

    names: Names
    points: np.ndarray
    """(N, 5, 2) float32, px."""
    remarks: tuple[str, ...] = ()
    """Words on how the file was read: rows without landmarks."""


def read_landmarks(path: str | Path) -> LandmarkTable:
    """Read landmarks_data.pkl, a VGGFace2 CSV, or a CSV `path,x1,y1,...,x5,y5` with or without header.

    Raises DataError naming file, row and content of what cannot be used.
    """
    path = Path(path)
    if path.suffix.lower() in _PICKLES:
        with reading(path, way_out="see README for the formats"):
            return _read_pickle(path)
    names, values, remarks = read_text_table(path, _POINTS)
    return LandmarkTable(names, values.reshape(-1, 5, 2), remarks[1:])


def _read_pickle(path: Path) -> LandmarkTable:
    table = load_restricted_pickle(path, encoding="bytes")
    if not isinstance(table, dict):
        raise DataError(f"{path}: expected a dict of names, found {type(table).__name__}; see README")
    if not table:
        raise DataError(f"{path}: holds no rows; expected names with 5x2 landmarks")
    for name in table:
        if not isinstance(name, str | bytes):
            raise DataError(f"{path}: {shown(name)} is no image name; the dict must map names to landmarks")
    points = np.empty((len(table), 5, 2), np.float32)
    items = iter(table.items())
    for start in range(0, len(table), _BLOCK):
        block = list(islice(items, _BLOCK))
        values = _usual_form(block)
        points[start : start + _BLOCK] = [_points(path, *item) for item in block] if values is None else values
    return LandmarkTable(Names.from_strings(table), points)


def _usual_form(block: list[tuple]) -> np.ndarray | None:
    """Take all v[1] at once, for speed; None where any of them needs a closer look."""
    try:
        values = np.asarray([value[1] for _, value in block], np.float64)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        return None
    return values if values.shape[1:] == (5, 2) and np.isfinite(values).all() else None


def _points(path: Path, name: str | bytes, value: object) -> np.ndarray:
    """Take v[1] of (box, points), or v itself when it is 5x2 or ten numbers."""
    found = _five_by_two(value)
    if found is None and isinstance(value, list | tuple | np.ndarray) and len(value) >= 2:
        found = _five_by_two(value[1])
    if found is None:
        raise DataError(f"{path}: {shown(name)} has no 5x2 landmarks but {shown(value)}; mend or remove it")
    if not np.isfinite(found).all():
        raise DataError(f"{path}: {shown(name)} has a landmark that is not finite: {found.tolist()}; mend it")
    return found


def _five_by_two(value: object) -> np.ndarray | None:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    return array.reshape(5, 2) if array.shape in ((5, 2), (10,), (1, 5, 2), (1, 10)) else None


def write_landmarks_csv(path: str | Path, names: Iterable[str], points_NK2: np.ndarray) -> None:
    """Write a header, then path and ten pixels per row, in the shortest form that reads back as the same float32."""
    numbers = np.asarray(points_NK2, np.float32).reshape(-1, len(HEADER) - 1)
    write_csv(path, HEADER, ((name, *map(str, row)) for name, row in zip(names, numbers, strict=True)))
