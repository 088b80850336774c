"""What the columns of landmark tables are called, and how many points a table holds."""

import re
from itertools import islice
from pathlib import Path

import numpy as np

from data.tables.columns import Content
from data.tables.dialects import is_number
from data.tables.encoding import open_text, require_text
from data.tables.forms.points import COUNTS

_SCORES = ("detector_score", "score", "confidence")
_VGGFACE2 = tuple(f"p{n}{axis}" for n in range(1, 6) for axis in "xy")
_CELEBA = tuple(
    f"{part}_{axis}" for part in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth") for axis in "xy"
)


def landmark_content(path: Path, scored: bool = False) -> Content:
    """Tell from the first rows of a table how many points it holds; `scored`: with the score of its detector."""
    require_text(path)
    with open_text(path) as stream:
        rows = [re.split(r"[,;\t ]+", line.strip()) for line in islice(stream, 3) if line.strip()]
    named = {title.strip('" ').lower() for title in rows[0]} if rows else set()
    numbers = _numbers_at_end(rows[-1]) if rows else 0
    for count in reversed(COUNTS):
        if numbers == 2 * count or any(named.issuperset(titles) for titles in _titles(count)):
            return _content(count, scored)
    return _content(5, scored)


def _content(count: int, scored: bool) -> Content:
    what, headers = f"{count} landmarks (x1,y1,...,x{count},y{count})", _titles(count)
    if scored:
        what = f"{what} and a score ({', '.join(_SCORES)})"
        headers = tuple((*titles, score) for score in _SCORES for titles in headers)
    return Content(what, headers, np.float32)


def _titles(count: int) -> tuple[tuple[str, ...], ...]:
    """Return the titles of points: counted from 1, from 0, or, of five, as VGGFace2 and CelebA name them."""
    counted = [
        tuple(f"{axis}{gap}{n}" for n in range(first, first + count) for axis in "xy")
        for first, gap in ((1, ""), (0, ""), (0, "_"), (1, "_"))
    ]
    return (*counted, *((_VGGFACE2, _CELEBA) if count == 5 else ()))


def _numbers_at_end(cells: list[str]) -> int:
    count = 0
    for cell in reversed(cells):
        if not is_number(cell.strip("[]")):
            break
        count += 1
    return count
