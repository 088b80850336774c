"""Faces in plain values: what a JSON file, a pickle, an .npz or an .npy says of named images."""

from collections.abc import Iterator
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from data.tables.columns import NAME_TITLES
from data.tables.forms.plain import load_array, load_arrays, load_json, names_beside, names_of
from data.tables.forms.points import Faces, as_points, five_points
from data.tables.names import Names
from utils.config.sections import LandmarkForm
from utils.errors import DataError
from utils.outside.reading import reading, shown

_POINT_TITLES = ("landmarks", "landmark", "keypoints", "points", "kps", "face_kpts")
_SCORE_TITLES = ("score", "scores", "confidence", "det_score", "detector_score")
_NAME_TITLES = (*NAME_TITLES, "file_name", "names", "paths")


def json_faces(path: Path, form: LandmarkForm) -> Faces:
    """Read name -> face, name -> faces, a list of records with a name and points, or COCO keypoints."""
    value = load_json(path)
    with reading(path):
        if isinstance(value, dict) and {"images", "annotations"} <= value.keys():
            entries = _coco(path, value)
        elif isinstance(value, dict):
            entries = iter(value.items())
        elif isinstance(value, list):
            entries = _records(path, value)
        else:
            raise DataError(f"{path}: holds a {type(value).__name__}; expected names with points, see docs/formats.md")
        return collected(path, entries, form)


def npz_faces(path: Path, form: LandmarkForm) -> Faces:
    """Read arrays `names` (N,), `landmarks` (N, K, 2) or (N, 2 K), and `scores` (N,) where there are some."""
    arrays = load_arrays(path)
    keys = [next((title for title in titles if title in arrays), None) for titles in (_NAME_TITLES, _POINT_TITLES)]
    if keys[0] is None or keys[1] is None:
        raise DataError(f"{path}: holds {', '.join(arrays)[:120] or 'nothing'}; expected arrays names and landmarks")
    score = next((title for title in _SCORE_TITLES if title in arrays), None)
    with reading(path):
        return _of_arrays(path, names_of(path, arrays[keys[0]]), arrays[keys[1]], arrays.get(score or ""), form)


def npy_faces(path: Path, form: LandmarkForm) -> Faces:
    """Read an array (N, K, 2) or (N, 2 K) with a list of names beside it, or a pickled dict of names."""
    value = load_array(path)
    with reading(path):
        if isinstance(value, dict):
            return collected(path, iter(value.items()), form)
        if not isinstance(value, np.ndarray) or not value.ndim:
            raise DataError(
                f"{path}: holds a {type(value).__name__}; expected an array of landmarks or a dict of names"
            )
        return _of_arrays(path, names_beside(path, len(value)), value, None, form)


def _of_arrays(path: Path, names: Names, values: np.ndarray, scores: np.ndarray | None, form: LandmarkForm) -> Faces:
    points = as_points(values)
    if points is None or points.ndim != 3 or len(points) != len(names):
        raise DataError(
            f"{path}: {len(names)} names but landmarks {values.shape}; expected (N, K, 2), K 5, 68, 98 or 106"
        )
    if scores is not None and (scores.shape != (len(names),) or scores.dtype.kind not in "fiu"):
        raise DataError(f"{path}: {len(names)} names but scores {scores.shape} of {scores.dtype}; expected one a face")
    found = np.full(len(names), np.nan) if scores is None else scores.astype(np.float64)
    return Faces(names, five_points(points, form, str(path)), found)


def collected(path: Path, entries: Iterator[tuple[Any, Any]], form: LandmarkForm) -> Faces:
    """Return the faces of (name, face or faces); DataError naming an entry that holds no points."""
    names, points, scores = [], [], []
    for name, value in entries:
        if not isinstance(name, str | bytes) or not name:
            raise DataError(f"{path}: {shown(name)} is no image name; give names with points")
        for face, score in _faces(path, name, value):
            names.append(name)
            points.append(five_points(face, form, f"{path}, {shown(name)}"))
            scores.append(score)
    table = np.stack(points) if points else np.zeros((0, 5, 2))
    return Faces(Names.from_strings(names), table, np.array(scores, np.float64))


def _faces(path: Path, name: Any, value: Any) -> Iterator[tuple[np.ndarray, float]]:
    """Yield points (K, 2) and score of one face, or of each in a list."""
    if value is None or (isinstance(value, list | tuple) and not len(value)):  # no face was found
        yield np.full((5, 2), np.nan), np.nan
        return
    if isinstance(value, dict):
        title = next((title for title in _POINT_TITLES if title in value), None)
        held = None if title is None else value[title]
        if isinstance(held, dict):
            raise DataError(
                f"{path}: {shown(name)} has points by name, whose left and right differ between programs; give five "
                "[x, y] in the order of docs/formats.md"
            )
        score = next((value[title] for title in _SCORE_TITLES if title in value), None)
        for face, _ in _faces(path, name, held) if title is not None else ():
            yield face, _score(path, name, score)
        if title is not None:
            return
    points = as_points(value)
    if points is None and isinstance(value, list | tuple):  # box and points, or boxes, scores and points of all faces
        points = next((found for part in value[1:] if (found := as_points(part)) is not None), None)
    if points is not None:
        yield from ((face, np.nan) for face in (points[None] if points.ndim == 2 else points))
    elif isinstance(value, list | tuple) and value and all(isinstance(one, dict) for one in value):
        for one in value:
            yield from _faces(path, name, one)
    else:
        raise DataError(
            f"{path}: {shown(name)} has no landmarks but {shown(value)}; give 5, 68, 98 or 106 points (docs/formats.md)"
        )


def _score(path: Path, name: Any, value: Any) -> float:
    value = value[0] if isinstance(value, list | np.ndarray) and np.shape(value) == (1,) else value
    if value is None:
        return float("nan")
    if isinstance(value, bool) or not isinstance(value, Real):
        raise DataError(f"{path}: {shown(name)} has a score {shown(value)}, no number; mend or remove it")
    return float(value)


def _records(path: Path, records: list) -> Iterator[tuple[Any, Any]]:
    for number, record in enumerate(records):
        title = isinstance(record, dict) and next((title for title in _NAME_TITLES if title in record), None)
        if not title:
            raise DataError(
                f"{path}: entry {number} is {shown(record)}, without a name; give each a path and landmarks"
            )
        yield record[title], record.get("faces", record)


def _coco(path: Path, value: dict) -> Iterator[tuple[Any, Any]]:
    """Yield file name and face of each annotation; a point of visibility 0 is missing."""
    try:
        files = {image["id"]: image["file_name"] for image in value["images"]}
        for number, one in enumerate(value["annotations"]):
            flat = one.get("face_kpts", one.get("keypoints"))
            if one["image_id"] not in files or not isinstance(flat, list) or len(flat) % 3:
                raise DataError(f"{path}: annotation {number} names no image, or no keypoints of x, y, v; mend it")
            points = np.asarray(flat, np.float64).reshape(-1, 3)
            points[points[:, 2] == 0] = np.nan
            yield files[one["image_id"]], {"points": points[:, :2], "score": one.get("score")}
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: no COCO keypoints ({type(error).__name__} {shown(error.args[:1])}); mend it"
        ) from None
