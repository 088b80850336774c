"""Face boxes: the file a detector wrote, and the square crops about them.

Convention: x and y of the upper left corner, width and height, in pixels of the image, whose first pixel reaches from
0 to 1 here.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.tables.dialects import Content
from data.tables.encoding import open_text
from data.tables.names import Names
from data.tables.text_tables import read_text_table
from utils.outside.reading import reading

_BOX = Content("a face box (x,y,w,h)", (("box_x", "box_y", "box_w", "box_h"), ("x", "y", "w", "h")), np.float32)


_LANDMARKS = {"x3", "y3"}
"""Titles that only a table of landmarks has."""
_CORNERS = Content(
    "the corners of a face box (x1,y1,x2,y2)",
    (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"), ("left", "top", "right", "bottom")),
    np.float32,
)


class BoxTable(NamedTuple):
    """Names and their boxes."""

    names: Names
    boxes: np.ndarray
    """(N, 4) float32: x, y, width, height, px."""


def read_boxes(path: str | Path) -> BoxTable:
    """Read what landmark detection wrote, or a CSV `path,x,y,w,h` (VGGFace2's loose_bb files are one).

    Corners are understood by their titles, as `path,x1,y1,x2,y2`.
    Raises DataError naming file, row and content of what cannot be used.
    """
    titles = _first_row(Path(path))
    if not any(titles.issuperset(corners) for corners in _CORNERS.headers) or titles.issuperset(_LANDMARKS):
        names, boxes, *_ = read_text_table(path, _BOX)
        return BoxTable(names, boxes)
    names, corners, *_ = read_text_table(path, _CORNERS)
    return BoxTable(names, np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1))


def _first_row(path: Path) -> set[str]:
    with reading(path, way_out="name an existing file of names and boxes"), open_text(path) as stream:
        return {title.strip('" ').lower() for title in re.split(r"[,;\t ]+", stream.readline().strip())}
