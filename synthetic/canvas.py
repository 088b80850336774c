"""Draw shapes on the colour map of a head by their outline as seen from the front."""

from typing import Any

import cv2
import numpy as np

from synthetic.geometry import EXTENT, plane_to_st
from synthetic.identity import RGB

MAP_PX = 352
"""Side of the colour maps over (s, t) in [-EXTENT, EXTENT]."""
SUBPIXEL = 4
"""Bits of the fixed-point coordinates of OpenCV's drawing calls."""
UNIT_PX = MAP_PX / (2 * EXTENT) / 2
"""Map pixels per head unit near the nose, times the half width of the head."""


def st_to_px(st_N2: np.ndarray) -> np.ndarray:
    """Return positions on a colour map of stereographic coordinates."""
    st = np.asarray(st_N2)
    return (st + st.dtype.type(EXTENT)) * st.dtype.type((MAP_PX - 1) / (2 * EXTENT))


def rounded(points_N2: np.ndarray, times: int = 3) -> np.ndarray:
    """Cut the corners of a closed polygon `times` times (Chaikin 1974)."""
    for _ in range(times):
        after = np.concatenate([points_N2[1:], points_N2[:1]])
        points_N2 = np.stack([0.75 * points_N2 + 0.25 * after, 0.25 * points_N2 + 0.75 * after], 1).reshape(-1, 2)
    return points_N2


def look_up(picture: np.ndarray, position_HW2: np.ndarray, border: int = cv2.BORDER_CONSTANT) -> np.ndarray:
    """Return what a picture shows at each position (x, y), bilinear; `border` says what lies outside it."""
    # as keywords: the stub of OpenCV does not know that map2 may be missing
    how: dict[str, Any] = {"map2": None, "interpolation": cv2.INTER_LINEAR, "borderMode": border}
    return cv2.remap(picture, position_HW2, **how)


class Canvas:
    """Colour map of one head on which shapes are drawn by their outline as seen from the front."""

    def __init__(self, pixels: np.ndarray, axes: np.ndarray):
        self.pixels = pixels
        self.axes = axes

    def place(self, points_N2: np.ndarray) -> np.ndarray:
        """Return fixed-point map positions (N, 2) int32 of points of the frontal view."""
        return np.round(st_to_px(plane_to_st(points_N2, self.axes)) * 2**SUBPIXEL).astype(np.int32)

    def fill(self, points_N2: np.ndarray, colour: RGB) -> None:
        """Fill a polygon."""
        cv2.fillPoly(self.pixels, [self.place(points_N2)], colour, cv2.LINE_AA, shift=SUBPIXEL)

    def line(self, points_N2: np.ndarray, colour: RGB, width: float) -> None:
        """Draw an open line; width in head units."""
        thickness = max(1, round(width * UNIT_PX / self.axes[0]))
        cv2.polylines(self.pixels, [self.place(points_N2)], False, colour, thickness, cv2.LINE_AA, shift=SUBPIXEL)

    def soften(self, points_N2: np.ndarray, colour: RGB, strength: float, blur_px: float) -> None:
        """Blend a colour into a polygon with soft edges; blur in map pixels."""
        if strength <= 0.01:
            return
        placed = self.place(points_N2)
        margin = int(3 * blur_px) + 2
        low = np.maximum((placed.min(0) >> SUBPIXEL) - margin, 0)
        high = np.minimum((placed.max(0) >> SUBPIXEL) + margin, MAP_PX)
        if (high <= low).any():
            return
        mask = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
        cv2.fillPoly(mask, [placed - (low << SUBPIXEL)], 255, cv2.LINE_AA, shift=SUBPIXEL)
        if blur_px > 0:
            mask = cv2.GaussianBlur(mask, (0, 0), blur_px)
        view = self.pixels[low[1] : high[1], low[0] : high[0]]
        blend(view, colour, mask.astype(np.float32) * np.float32(strength / 255))


def blend(view: np.ndarray, colour: RGB | np.ndarray, weight: np.ndarray) -> None:
    """Move the pixels (h, w, 3) of a view towards a colour by a weight (h, w) in [0, 1], in place."""
    view[:] = view + (np.asarray(colour, np.float32) - view) * weight[..., None] + np.float32(0.5)


def ellipse(at: tuple[float, float], size: tuple[float, float], count: int = 20) -> np.ndarray:
    """Return the outline (count, 2) of an upright ellipse."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([at[0] + size[0] * np.cos(angle), at[1] + size[1] * np.sin(angle)], -1)


def scaled(colour: RGB, factor: float) -> RGB:
    """Return a colour made darker or lighter."""
    red, green, blue = (float(min(max(c * factor, 0), 255)) for c in colour)
    return red, green, blue


def toward(colour: RGB, other: RGB, weight: float) -> RGB:
    """Return a colour moved towards another."""
    red, green, blue = (float(a + (b - a) * weight) for a, b in zip(colour, other, strict=True))
    return red, green, blue


def mirrored(points_N2: np.ndarray) -> np.ndarray:
    """Return the same points on the other side of the face."""
    return points_N2 * (-1, 1)


def tinted(level: np.ndarray, colour: RGB) -> np.ndarray:
    """Return a colour times a brightness (h, w), as (h, w, 3) uint8 RGB."""
    return cv2.merge([cv2.convertScaleAbs(np.maximum(level, 0), alpha=channel, beta=4) for channel in colour])
