"""Face boxes: the file a detector wrote, and the square crops about them.

Convention: x and y of the upper left corner, width and height, in pixels of the image, whose first pixel reaches from
0 to 1 here.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.tables.dialects import Content
from data.tables.names import Names
from data.tables.text_tables import read_text_table
from utils.errors import DataError

_SIZES = (("box_x", "box_y", "box_w", "box_h"), ("x", "y", "w", "h"))
_CORNERS = (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"), ("left", "top", "right", "bottom"))
_BOX = Content("a face box (x,y,w,h)", (*_SIZES, *_CORNERS), np.float32)
_LANDMARKS = {"x3", "y3"}
"""Titles that only a table of landmarks has."""


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
    names, boxes, _, titles = read_text_table(path, _BOX)
    if any(set(sizes) <= set(titles) for sizes in _SIZES):
        return BoxTable(names, boxes)
    if set(titles) >= _LANDMARKS:
        raise DataError(f"{path}: holds landmarks; expected a name and {_BOX.what} in each row")
    if any(set(corners) <= set(titles) for corners in _CORNERS):
        boxes[:, 2:] -= boxes[:, :2]
    return BoxTable(names, boxes)
