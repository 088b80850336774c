"""Put things in front of a face and measure how much of it they cover."""

from typing import Protocol

import cv2
import numpy as np

from synthetic.canvas import SUBPIXEL, look_up
from synthetic.geometry import EXTENT, plane_to_st
from synthetic.identity import RGB
from synthetic.props import fill_px
from synthetic.render import Rendered

ON_AREA = ("edge", "bar", "blob")
"""Occluders that need to know no more of a face than its pixels."""
OCCLUDERS = ("edge", "bar", "hand", "blob", "sunglasses", "mask")
CLOTH: tuple[RGB, ...] = ((196, 214, 226), (30, 32, 38), (86, 120, 160), (150, 60, 60), (222, 222, 216), (70, 92, 70))
HANDS: tuple[RGB, ...] = ((92, 60, 45), (150, 104, 78), (196, 148, 118), (232, 190, 164))


class FaceArea(Protocol):
    """Where a face is in its image, be it rendered or photographed."""

    @property
    def face(self) -> np.ndarray:
        """Return the share (H, W) float32 of each pixel that shows the face."""
        ...

    @property
    def landmarks(self) -> np.ndarray:
        """Return five points (5, 2) px, template order."""
        ...


def cover(
    image: np.ndarray, rendered: FaceArea, what: tuple[str, float], rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Return the image with an occluder of about the wanted share in front of the face, and the share it covers.

    `what` is (kind, share); a photographed face takes the kinds ON_AREA. Sunglasses and mask have the size they have;
    their share is only measured.
    """
    kind, share = what
    mask = np.zeros(image.shape[:2], np.uint8)
    colour = CLOTH[int(rng.integers(len(CLOTH)))]
    if kind in ON_AREA:
        {"edge": _draw_edge, "bar": _draw_bar, "blob": _draw_blob}[kind](mask, rendered, share, rng)
    elif isinstance(rendered, Rendered):
        colour = _draw_shaped(mask, rendered, what, rng) or colour
    else:
        raise ValueError(f"{kind} needs the surface of a rendered head")
    weight = mask.astype(np.float32) / 255
    across = rng.random() < 0.5
    ramp = np.linspace(0.80, 1.08, image.shape[1 if across else 0], dtype=np.float32)
    shading = ramp[None, :, None] if across else ramp[::-1, None, None]
    covered = image + (np.asarray(colour, np.float32) * shading - image) * weight[..., None]
    return covered, float((weight * rendered.face).sum() / max(float(rendered.face.sum()), 1e-6))


def _draw_shaped(mask: np.ndarray, rendered: Rendered, what: tuple[str, float], rng: np.random.Generator) -> RGB | None:
    """Draw a hand, sunglasses or a mask; return its colour, None for that of cloth."""
    kind, share = what
    if kind == "sunglasses":
        _draw_sunglasses(mask, rendered, rng)
        return 18, 18, 22
    if kind == "mask":
        _draw_mask(mask, rendered)
        return None
    colour = HANDS[int(rng.integers(len(HANDS)))]
    _draw_hand(mask, rendered, share, rng)
    return colour


def _face_px(rendered: FaceArea) -> np.ndarray:
    """Return positions (N, 2) of the pixels that show bare face."""
    rows, columns = np.nonzero(rendered.face > 0.5)
    if len(rows) == 0:
        return rendered.landmarks
    return np.stack([columns, rows], -1).astype(np.float64)


def _strip(along: np.ndarray, low: float, high: float, size: int) -> np.ndarray:
    """Return the corners (4, 2) of the strip low <= along . p <= high across the image."""
    across, far = np.array([-along[1], along[0]]), 2.0 * size
    return np.array(
        [
            along * low - across * far,
            along * low + across * far,
            along * high + across * far,
            along * high - across * far,
        ]
    )


def _direction(rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([np.cos(angle), np.sin(angle)])


def _draw_edge(mask: np.ndarray, rendered: FaceArea, share: float, rng: np.random.Generator) -> None:
    """Cover the wanted share from one side, as a door or a shoulder does."""
    along = _direction(rng)
    reach = np.quantile(_face_px(rendered) @ along, share)
    size = max(mask.shape)
    fill_px(mask, _strip(along, -4.0 * size, reach, size), 255)


def _draw_bar(mask: np.ndarray, rendered: FaceArea, share: float, rng: np.random.Generator) -> None:
    """Cover the wanted share by a strip across the face."""
    along = _direction(rng)
    start = rng.uniform(0, 1 - share)
    low, high = np.quantile(_face_px(rendered) @ along, [start, start + share])
    fill_px(mask, _strip(along, low, high, max(mask.shape)), 255)


def _draw_blob(mask: np.ndarray, rendered: FaceArea, share: float, rng: np.random.Generator) -> None:
    """Cover about the wanted share by a round thing."""
    points = _face_px(rendered)
    at = points[int(rng.integers(len(points)))]
    radius = np.quantile(np.linalg.norm(points - at, axis=1), share)
    angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    wave = 1 + 0.08 * np.sin(3 * angle + rng.uniform(0, 6))
    fill_px(mask, at + radius * wave[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1), 255)


def _draw_hand(mask: np.ndarray, rendered: Rendered, share: float, rng: np.random.Generator) -> None:
    """Lay a hand with four fingers over the face from one side, as far as the share asks."""
    along = _direction(rng)
    points = _face_px(rendered)
    middle = float(np.quantile(points @ np.array([-along[1], along[0]]), rng.uniform(0.35, 0.65)))
    reaches = points @ along
    low, high = float(reaches.min()) - 0.5 * len(mask), float(reaches.max())
    total = max(float(rendered.face.sum()), 1e-6)
    for _ in range(7):
        reach = (low + high) / 2
        mask[:] = 0
        _hand_at(mask, along, reach, middle)
        covered = float((mask * rendered.face).sum()) / 255 / total
        low, high = (reach, high) if covered < share else (low, reach)


def _hand_at(mask: np.ndarray, along: np.ndarray, reach: float, middle: float) -> None:
    """Draw a hand whose knuckles are at `reach` in a direction, and at `middle` across it; pixels."""
    across = np.array([-along[1], along[0]])
    width = 0.30 * len(mask)
    palm, wrist = along * reach + across * middle, along * 2.0 * len(mask)
    wide = across * width
    fill_px(mask, np.array([palm - wide, palm + wide, palm + 0.8 * wide - wrist, palm - 0.8 * wide - wrist]), 255)
    for finger, length in zip((-0.78, -0.26, 0.26, 0.78), (0.8, 1.0, 0.97, 0.72), strict=True):
        root = palm + wide * finger - along * 0.1 * width
        tip = root + along * width * 0.85 * length + 0.12 * finger * wide
        start, end = (np.round(point * 2**SUBPIXEL).astype(int).tolist() for point in (root, tip))
        cv2.line(mask, start, end, 255, max(2, round(0.40 * width)), cv2.LINE_AA, SUBPIXEL)


def _surface_mask(mask: np.ndarray, rendered: Rendered, outlines: list[np.ndarray]) -> None:
    """Draw outlines given on the map of the surface where the image shows that surface, in place."""
    cells = 176
    drawn = np.zeros((cells, cells), np.uint8)
    for outline in outlines:
        fill_px(drawn, (outline + EXTENT) * (cells - 1) / (2 * EXTENT), 255)
    size = (mask.shape[1], mask.shape[0])
    st = cv2.resize(rendered.surface.st, size, interpolation=cv2.INTER_LINEAR)
    position = (st + np.float32(EXTENT)) * np.float32((cells - 1) / (2 * EXTENT))
    seen = look_up(drawn, position)
    share = np.clip(cv2.resize(rendered.surface.inside, size) + np.float32(0.5), 0, 1)
    mask[:] = np.maximum(mask, (seen * share).astype(np.uint8))


def _draw_sunglasses(mask: np.ndarray, rendered: Rendered, rng: np.random.Generator) -> None:
    """Put dark glasses over the eyes."""
    wide, high, power = rng.uniform(0.21, 0.28), rng.uniform(0.13, 0.20), rng.uniform(2, 5)
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    c, s = np.cos(angle), np.sin(angle)
    lens = np.stack([np.sign(c) * np.abs(c) ** (2 / power) * wide, np.sign(s) * np.abs(s) ** (2 / power) * high], -1)
    axes, eyes = rendered.axes, rendered.eyes
    outlines = [plane_to_st(lens + eye + (0, 0.03), axes) for eye in eyes]
    y = eyes[0, 1]
    bridge = np.array([(-0.62, y - 0.06), (0.62, y - 0.06), (0.62, y - 0.02), (-0.62, y - 0.02)])
    _surface_mask(mask, rendered, [*outlines, plane_to_st(bridge, axes)])


def _draw_mask(mask: np.ndarray, rendered: Rendered) -> None:
    """Put a surgical mask over nose, mouth and chin."""
    y = rendered.eyes[0, 1]
    outline = np.array(
        [
            (0, y + 0.18),
            (0.20, y + 0.20),
            (0.45, y + 0.30),
            (0.64, y + 0.28),
            (0.60, y + 0.62),
            (0.40, 0.95),
            (0, 1.2),
            (-0.40, 0.95),
            (-0.60, y + 0.62),
            (-0.64, y + 0.28),
            (-0.45, y + 0.30),
            (-0.20, y + 0.20),
        ]
    )
    _surface_mask(mask, rendered, [plane_to_st(outline, rendered.axes)])
