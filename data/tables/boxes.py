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

_BOX = Content("a face box (x,y,w,h)", (("box_x", "box_y", "box_w", "box_h"), ("x", "y", "w", "h")), np.float32)


class BoxTable(NamedTuple):
    """Names and their boxes."""

    names: Names
    boxes: np.ndarray
    """(N, 4) float32: x, y, width, height, px."""


def read_boxes(path: str | Path) -> BoxTable:
    """Read what landmark detection wrote, or a CSV `path,x,y,w,h` (VGGFace2's loose_bb files are one).

    Raises DataError naming file, row and content of what cannot be used.
    """
    names, boxes, *_ = read_text_table(path, _BOX)
    return BoxTable(names, boxes)
