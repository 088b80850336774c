"""Landmark files: five points per image, in any form users have, as one checked table.

Convention: points (x, y) in pixels of the source image, pixel centres at integers, in template order:
eye on the image's left, eye on its right, nose tip, mouth corner left, mouth corner right.
"""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from data.tables.forms.face_lists import list_faces
from data.tables.forms.points import Faces, five_points
from data.tables.forms.records import collected, json_faces, npy_faces, npz_faces
from data.tables.forms.rows import RowRules, complete_rows
from data.tables.forms.titles import landmark_content
from data.tables.names import Names
from data.tables.text_tables import read_text_table, write_csv
from utils.config.sections import LandmarkForm
from utils.errors import DataError
from utils.outside.reading import reading, shown
from utils.pickles import load_restricted_pickle

HEADER = ("path", "x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4", "x5", "y5")
_BLOCK = 4096


class LandmarkTable(NamedTuple):
    """Names and their points."""

    names: Names
    points: np.ndarray
    """(N, 5, 2) float32, px."""
    remarks: tuple[str, ...] = ()
    """Words on how the file was read: rows without landmarks."""


def read_landmarks(path: str | Path, form: LandmarkForm | None = None) -> LandmarkTable:
    """Read five points a face, or 68, 98 or 106 that are reduced to five, in any form of docs/formats.md.

    Raises DataError naming file, row and content of what cannot be used, and an image with several faces unless `form`
    says which of them counts.
    """
    path, form = Path(path), form or LandmarkForm()
    with reading(path, way_out="see docs/formats.md for the forms of landmark files"):
        faces = _READERS.get(path.suffix.lower(), list_faces)(path, form)
        if faces is not None:
            return _finished(path, faces, form)
    content = landmark_content(path, scored=form.landmark_faces == "best")
    names, values, remarks, _ = read_text_table(path, content, rules=_rules(form))
    points = values[:, : 2 * (content.count // 2)].reshape(len(values), -1, 2)
    return LandmarkTable(names, five_points(points, form, str(path)).astype(np.float32, copy=False), remarks[1:])


def _finished(path: Path, faces: Faces, form: LandmarkForm) -> LandmarkTable:
    if not len(faces.names):
        raise DataError(f"{path}: holds no rows; expected names with landmarks")
    values = faces.points.reshape(-1, 10)
    bad = np.flatnonzero(np.isinf(values).any(axis=1))
    if len(bad):
        points = faces.points[bad[0]].tolist()
        raise DataError(f"{path}: {faces.names[bad[0]]!r} has a landmark that is not finite: {points}; mend it")
    if form.landmark_faces == "best":
        if np.isnan(faces.scores).all():
            raise DataError(f"{path}: holds no scores of faces; choose them by landmark_faces: largest")
        values = np.concatenate([values, np.nan_to_num(faces.scores, nan=-np.inf)[:, None]], axis=1)
    names, values, remarks = complete_rows(path, faces.names, values, _rules(form), lambda row: f", face {row}")
    return LandmarkTable(names, values[:, :10].reshape(-1, 5, 2).astype(np.float32), remarks)


def _rules(form: LandmarkForm) -> RowRules:
    ranks = {"largest": _areas, "best": lambda values: values[:, -1]}
    return RowRules(rank=ranks.get(form.landmark_faces), ways=", or set landmark_faces: largest or best")


def _areas(values: np.ndarray) -> np.ndarray:
    """Return the area that the points of each row span, (N,) px^2."""
    return np.ptp(values.reshape(len(values), -1, 2), axis=1).prod(axis=1)


def _read_pickle(path: Path, form: LandmarkForm) -> Faces:
    table = load_restricted_pickle(path, encoding="bytes")
    if not isinstance(table, dict):
        raise DataError(f"{path}: expected a dict of names, found {type(table).__name__}; see README")
    if not table:
        raise DataError(f"{path}: holds no rows; expected names with 5x2 landmarks")
    for name in table:
        if not isinstance(name, str | bytes):
            raise DataError(f"{path}: {shown(name)} is no image name; the dict must map names to landmarks")
    parts = []
    items = iter(table.items())
    while block := list(islice(items, _BLOCK)):
        parts.append(_usual_form(block) or collected(path, iter(block), form))
    names = Names.from_arrow(pa.concat_arrays([part.names.to_arrow() for part in parts]))
    points, scores = (np.concatenate([part[at] for part in parts]) for at in (1, 2))
    return Faces(names, points, scores)


def _usual_form(block: list[tuple]) -> Faces | None:
    """Take all v[1] of (box, points) at once, for speed; None where any of them needs a closer look.

    Where v[0] holds points as well, v are several faces and not one with its box.
    """
    try:
        boxes = np.asarray([value[0] for _, value in block], np.float64)
        points = np.asarray([value[1] for _, value in block], np.float64)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        return None
    if boxes.ndim > 2 or points.shape[1:] != (5, 2):
        return None
    return Faces(Names.from_strings(name for name, _ in block), points, np.full(len(block), np.nan))


_READERS = {
    **dict.fromkeys((".pkl", ".pickle", ".p"), _read_pickle),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), json_faces),
    ".npz": npz_faces,
    ".npy": npy_faces,
}
"""What reads a file by its suffix; any other one is text."""


def write_landmarks_csv(path: str | Path, names: Iterable[str], points_NK2: np.ndarray) -> None:
    """Write a header, then path and ten pixels per row, in the shortest form that reads back as the same float32."""
    numbers = np.asarray(points_NK2, np.float32).reshape(-1, len(HEADER) - 1)
    write_csv(path, HEADER, ((name, *map(str, row)) for name, row in zip(names, numbers, strict=True)))
