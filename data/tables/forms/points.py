"""Points of a face in the layouts that are in use, reduced to the five of the template.

Convention: (x, y) in pixels, points counted from 0; left and right as seen in the image.
"""

from typing import NamedTuple

import numpy as np

from data.tables.names import Names
from utils.config.sections import LandmarkForm
from utils.errors import DataError

Five = tuple[tuple[int, ...], ...]
LAYOUTS: dict[int, Five] = {
    5: ((0,), (1,), (2,), (3,), (4,)),
    68: ((36, 37, 38, 39, 40, 41), (42, 43, 44, 45, 46, 47), (30,), (48,), (54,)),
    98: ((96,), (97,), (54,), (76,), (82,)),
}
"""Number of points -> which of them are the eyes (the mean of their outline with 68), nose tip and mouth corners.

68 as iBUG and dlib order them, 98 as WFLW does.
"""
NAMED: dict[str, Five] = {
    "insightface_106": ((38,), (88,), (86,), (52,), (61,)),
    "jd_106": ((104,), (105,), (54,), (84,), (90,)),
    "sensetime_106": ((74,), (77,), (46,), (84,), (90,)),
}
"""106 points stand in three orders: InsightFace's 2d106det, JD's challenge and FaceX-Zoo, SenseTime and Face++."""
COUNTS = (5, 68, 98, 106)
"""Numbers of points that are known."""


class Faces(NamedTuple):
    """Faces as a file gives them: an image may have several."""

    names: Names
    """The image of each face."""
    points: np.ndarray
    """(F, 5, 2) float64 px; NaN where a face has none."""
    scores: np.ndarray
    """(F,) float64 score of the detector; NaN where there is none."""


def as_points(value: object) -> np.ndarray | None:
    """Return (K, 2) or, of several faces, (F, K, 2) float64 of nested lists or numbers in a row; None: no points."""
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    if array.ndim and array.shape[-1] // 2 in COUNTS and array.shape[-1] % 2 == 0 and array.ndim <= 2:
        array = array.reshape(*array.shape[:-1], -1, 2)
    if array.ndim not in (2, 3) or array.shape[-1] != 2 or array.shape[-2] not in COUNTS:
        return None
    return array


def five_points(points: np.ndarray, form: LandmarkForm, place: str) -> np.ndarray:
    """Reduce (..., K, 2) to (..., 5, 2); DataError where the order of K points is not known."""
    count = points.shape[-2]
    layout = LAYOUTS.get(count) or NAMED.get(form.landmark_points or "")
    if layout is None:
        raise DataError(
            f"{place}: holds 106 points, which programs order in {len(NAMED)} ways; say which with landmark_points: "
            f"{', '.join(NAMED)}"
        )
    return np.stack([points[..., list(part), :].mean(axis=-2) for part in layout], axis=-2)
