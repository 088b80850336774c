"""What is known of the images of a data set beforehand: a CSV with `path` and one column per nuisance."""

import csv
from pathlib import Path

import numpy as np

from data.tables.names import Names
from evaluation.measure.nuisance import Metadata
from evaluation.protocol.face_set import FaceSet
from utils.errors import DataError
from utils.outside.reading import reading, shown

_SKIPPED = ("path", "identity", "kind")


def read_metadata(path: str | Path, faces: FaceSet, names: Names) -> Metadata:
    """Read the CSV and join it to `names`; columns that are no finite numbers are left out."""
    with reading(path, "cannot be read as a CSV of metadata", "name the metadata of these images"):
        with open(path, encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        if not rows or "path" not in rows[0]:
            raise DataError(f"{path}: expected a column 'path' and one per nuisance; name the metadata of these images")
        if ragged := [row for row in rows if None in row or None in (row["path"], row.get("kind", ""))]:
            raise DataError(f"{path}: the row of {shown(ragged[0]['path'])} has not the columns of the first; mend it")
        return _joined(rows, faces, names)


def _joined(rows: list[dict[str, str]], faces: FaceSet, names: Names) -> Metadata:
    listed = Names.from_strings([row["path"] for row in rows])
    columns = {}
    for name in rows[0]:
        if name in _SKIPPED:
            continue
        try:
            values = np.array([float(row[name]) for row in rows])
        except (TypeError, ValueError):
            continue
        if np.isfinite(values).all() and np.ptp(values) > 0:
            columns[name] = faces.column(listed, values)
    kind = None
    if "kind" in rows[0]:
        codes, places = np.unique([row["kind"] for row in rows], return_inverse=True)
        joined = faces.column(listed, places.astype(np.float64))
        kind = np.where(np.isfinite(joined), codes[np.nan_to_num(joined).astype(int)], "")
        columns = {name: one for name, one in columns.items() if name in codes} or columns
    return Metadata(columns, kind)
