"""Lists of faces in text, a block for each image (RetinaFace, WIDER FACE), or a line that ends in the name (WFLW)."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from data.tables.encoding import open_text, require_text
from data.tables.forms.points import Faces, five_points
from data.tables.names import Names
from utils.config.sections import LandmarkForm
from utils.errors import DataError
from utils.outside.reading import shown

_COLUMNS = {
    14: ([4, 6, 8, 10, 12], None),  # x y w h, five times x y
    15: ([5, 7, 9, 11, 13], 4),  # x y w h, score, five times x y
    20: ([4, 7, 10, 13, 16], None),  # x y w h, five times x y flag, blur: RetinaFace's own labels
}
"""How many numbers a line of a face has -> where its points begin, and its score."""
_WFLW_WIDTH = 2 * 98 + 4 + 6 + 1


def list_faces(path: Path, form: LandmarkForm) -> Faces | None:
    """Read RetinaFace's label.txt, results in WIDER FACE's form with points, or WFLW's list; None: another form."""
    require_text(path)
    with open_text(path) as stream:
        head = [cells for line in islice(stream, 3) if (cells := line.split())]
    if len(head) > 1 and head[0][0] == "#" and len(head[0]) > 1 and _numbers(head[1]) is not None:
        return _faces(path, _retinaface(path), form)
    if len(head) > 2 and _numbers(head[0]) is None and len(head[1]) == 1 and head[1][0].isdigit():
        if _numbers(head[2]) is not None:
            return _faces(path, _wider(path), form)
    if head and len(head[0]) == _WFLW_WIDTH and _numbers(head[0][:-1]) is not None:
        return _faces(path, _wflw(path), form)
    return None


_Face = tuple[str, np.ndarray, float]


def _faces(path: Path, found: Iterator[_Face], form: LandmarkForm) -> Faces:
    names, points, scores = [], [], []
    for name, face, score in found:
        names.append(name)
        points.append(five_points(face, form, str(path)))
        scores.append(score)
    if not names:
        raise DataError(f"{path}: no image has a face; name a file with some")
    return Faces(Names.from_strings(names), np.stack(points), np.array(scores, np.float64))


def _retinaface(path: Path) -> Iterator[_Face]:
    """Yield the faces below each `# name`."""
    name = ""
    for number, line in _lines(path):
        if line.startswith("#"):
            name = line[1:].strip()
        else:
            yield name, *_face(f"{path}, line {number}", line)


def _wider(path: Path) -> Iterator[_Face]:
    """Yield the faces behind each name and their count."""
    lines = _lines(path)
    for number, name in lines:
        count = next(lines, (number, ""))[1]
        if not count.isdigit():
            raise DataError(f"{path}, line {number}: {shown(name)} is followed by no count of faces; mend it")
        for _ in range(int(count)):
            place, line = next(lines, (number, ""))
            yield name, *_face(f"{path}, line {place}", line)


def _wflw(path: Path) -> Iterator[_Face]:
    """Yield 98 points of each line; a box and six attributes stand between them and the name."""
    for number, line in _lines(path):
        *cells, name = line.split()
        numbers = _numbers(cells)
        if numbers is None or len(cells) != _WFLW_WIDTH - 1:
            raise DataError(f"{path}, line {number}: expected {_WFLW_WIDTH - 1} numbers and a name; mend it")
        yield name, numbers[: 2 * 98].reshape(98, 2), np.nan


def _face(place: str, line: str) -> tuple[np.ndarray, float]:
    numbers = _numbers(line.split())
    if numbers is None or len(numbers) not in _COLUMNS:
        raise DataError(
            f"{place}: {shown(line)} is no face; a box x y w h, a score or none, and five points make 14, 15 or, with "
            "RetinaFace's flags, 20 numbers"
        )
    begins, score = _COLUMNS[len(numbers)]
    points = np.stack([numbers[begin : begin + 2] for begin in begins])
    if (points == -1).all():  # a face without points
        points = np.full((5, 2), np.nan)
    return points, np.nan if score is None else float(numbers[score])


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with open_text(path) as stream:
        yield from ((number, line) for number, raw in enumerate(stream, 1) if (line := raw.strip()))


def _numbers(cells: list[str]) -> np.ndarray | None:
    try:
        return np.array(cells, np.float64) if cells else None
    except ValueError:
        return None
