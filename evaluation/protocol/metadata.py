"""What is known of the images of a data set beforehand: a CSV with `path` and one column per nuisance."""

import csv
from pathlib import Path

import numpy as np

from data.tables.names import Names
from evaluation.measure.nuisance import Metadata
from evaluation.protocol.face_set import FaceSet
from utils.errors import DataError

_SKIPPED = ("path", "identity", "kind")


def read_metadata(path: str | Path, faces: FaceSet, names: Names) -> Metadata:
    """Read the CSV and join it to `names`; columns that are no numbers are left out."""
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a CSV of metadata ({error}); name another file") from error
    if not rows or "path" not in rows[0]:
        raise DataError(f"{path}: expected a column 'path' and one per nuisance; name the metadata of these images")
    listed = Names.from_strings([row["path"] for row in rows])
    columns = {}
    for name in rows[0]:
        if name in _SKIPPED or name is None:
            continue
        try:
            values = np.array([float(row[name]) for row in rows])
        except (TypeError, ValueError):
            continue
        if np.ptp(values) > 0:
            columns[name] = faces.column(listed, values)
    kind = None
    if "kind" in rows[0]:
        codes, places = np.unique([row["kind"] for row in rows], return_inverse=True)
        joined = faces.column(listed, places.astype(np.float64))
        kind = np.where(np.isfinite(joined), codes[np.nan_to_num(joined).astype(int)], "")
        columns = {name: one for name, one in columns.items() if name in codes} or columns
    return Metadata(columns, kind)
