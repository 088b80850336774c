"""Draw what surrounds a head: the room, neck, shoulders and long hair behind it, glasses in front of it."""

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np

from synthetic.canvas import SUBPIXEL, ellipse, rounded, scaled
from synthetic.geometry import Camera, Surface, head_axes
from synthetic.identity import RGB, Glasses, Identity

SHOULDERS = np.array(
    [(-1.9, 2.2), (-1.75, 0.85), (-1.25, 0.42), (-0.45, 0.12), (0.45, 0.12), (1.25, 0.42), (1.75, 0.85), (1.9, 2.2)]
)
"""Outline of the shoulders about the base of the neck, head units."""


@lru_cache(maxsize=1)
def _shoulders() -> np.ndarray:
    return rounded(SHOULDERS, 2)


def fill_px(image: np.ndarray, points_N2: np.ndarray, colour: RGB | float) -> None:
    """Fill a polygon given in pixels, in place."""
    cv2.fillPoly(image, [np.round(points_N2 * 2**SUBPIXEL).astype(np.int32)], colour, cv2.LINE_AA, shift=SUBPIXEL)


def backdrop(rng: np.random.Generator, size_px: int) -> np.ndarray:
    """Return a blurred room or a plain wall, (S, S, 3) uint8."""
    half, cells = size_px // 2, int(rng.integers(2, 7))
    colour = rng.uniform(40, 215) + rng.normal(0, 13, 3)
    spots = colour + rng.normal(0, rng.uniform(2, 16), (cells, cells, 3)) + rng.normal(0, 22, (cells, cells, 1))
    image = cv2.resize(np.clip(spots, 0, 255).astype(np.uint8), (half, half), interpolation=cv2.INTER_CUBIC)
    for _ in range(int(rng.integers(0, 4))):
        corner, extent = rng.integers(-10, half, 2), rng.integers(5, half, 2)
        tone = np.clip(colour + rng.normal(0, 40) + rng.normal(0, 15, 3), 0, 255)
        cv2.rectangle(image, tuple(map(int, corner)), tuple(map(int, corner + extent)), tuple(map(float, tone)), -1)
    image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.6, 2)))
    return cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_LINEAR)


def draw_body(image: np.ndarray, who: Identity, camera: Camera, brightness: float, cloth: RGB) -> None:
    """Draw long hair, neck and shoulders behind the head, in place."""
    unit, hair = camera.scale_px, who.hair
    nape, low = camera.project(np.array([[0, 0.35, -0.25], [0, 0.95, -0.25]]))[:, :2]
    tilt = (low - nape) / max(float(np.linalg.norm(low - nape)), 1e-6)
    down = 0.4 * tilt + (0, 0.6)
    base = nape + down * unit * 0.72
    half = 0.44 * who.head.width / 0.7 * unit

    def fill(points_N2: np.ndarray, colour: RGB) -> None:
        fill_px(image, points_N2, scaled(colour, brightness))

    if hair.style in ("long", "bob"):
        _draw_back_hair(who, camera, fill)
    top = np.array([(-half, 0), (half, 0)])
    foot = np.array(
        [(1.1 * half, 0.1 * unit), (1.3 * half, 0.5 * unit), (-1.3 * half, 0.5 * unit), (-1.1 * half, 0.1 * unit)]
    )
    neck = np.concatenate([nape + top, base + foot])
    fill(neck, scaled(who.skin.colour, 0.84))
    fill(ellipse(tuple(nape + down * unit * 0.34), (half * 0.98, 0.26 * unit)), scaled(who.skin.colour, 0.72))
    collar = np.array([(-0.42, 0.06), (0.0, 0.42), (0.42, 0.06)])
    fill(_shoulders() * unit * 0.95 + base, cloth)
    fill(rounded(collar * unit + base, 2), scaled(who.skin.colour, 0.84))
    if hair.style == "long":
        for side in (-1, 1):
            lock = np.array(
                [(0.72, -1.2), (1.22, -0.9), (1.32, 0.4), (1.12, 1.1), (0.80, 1.1), (0.76, 0.2), (0.66, -0.5)]
            )
            lock = lock * (side * who.head.width * (0.9 + 0.12 * hair.volume), 1) * unit + nape * 0.7 + base * 0.3
            fill(rounded(lock, 2), scaled(hair.colour, 0.88))


def _draw_back_hair(who: Identity, camera: Camera, fill: Callable[[np.ndarray, RGB], None]) -> None:
    """Draw the hair that hangs behind the head."""
    end = 0.9 if who.hair.style == "bob" else 1.35
    crown, tips = camera.project(np.array([[0, -0.3, -0.3], [0, end, -0.3]]))[:, :2]
    flat = np.array([(1.05 + 0.13 * who.hair.volume) * who.head.width * camera.scale_px, 0])
    middle = (crown + tips) / 2
    fill(
        rounded(
            np.stack(
                [
                    crown - flat * 0.7,
                    crown + flat * 0.7,
                    middle + flat * 1.06,
                    tips + flat,
                    tips - flat,
                    middle - flat * 1.06,
                ]
            ),
            3,
        ),
        scaled(who.hair.colour, 0.78),
    )


def superellipse(width: float, height: float, power: float) -> np.ndarray:
    """Return the outline (28, 2) of a rounded rectangle about the origin."""
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    c, s = np.cos(angle), np.sin(angle)
    return np.stack(
        [np.sign(c) * np.abs(c) ** (2 / power) * width / 2, np.sign(s) * np.abs(s) ** (2 / power) * height / 2], -1
    )


def frame_lines(who: Identity, glasses: Glasses) -> list[np.ndarray]:
    """Return the lines of the frame in the head frame: two closed rims, the bridge and two temples."""
    axes = head_axes(who)
    front = axes[2] * 0.93 + 0.10 + who.nose.root * 0.6
    y = who.eyes.y + 0.02 + glasses.drop
    apart = max(who.eyes.distance / 2, glasses.width / 2 + 0.04)
    lines = []
    for side in (-1, 1):
        rim = superellipse(glasses.width, glasses.height, glasses.roundness) + np.array([side * apart, y])
        rim = np.concatenate([rim, rim[:1]])
        lines.append(np.column_stack([rim, front - 0.28 * rim[:, 0] ** 2]))
    inner, outer = apart - glasses.width / 2, apart + glasses.width / 2
    lines.append(np.array([(-inner, y - 0.03, front), (0, y - 0.05, front + 0.02), (inner, y - 0.03, front)]))
    for side in (-1, 1):
        start = np.array([side * outer, y - 0.03, front - 0.28 * outer**2])
        lines.append(np.linspace(start, (side * axes[0] * 1.06, y, 0.05), 8))
    return lines


def draw_glasses(
    canvas: np.ndarray, lines: list[np.ndarray], camera: Camera, surface: Surface, ink: tuple[RGB, float]
) -> None:
    """Draw the frame where it is in front of the head, in place; ink is its colour and its thickness in head units."""
    colour, thickness = ink
    mask = np.zeros(canvas.shape[:2], np.uint8)
    cells = surface.depth.shape[0]
    width_px = max(1, round(thickness * camera.scale_px))
    for line in lines:
        points = camera.project(line)
        cell = np.clip((points[:, :2] * cells / camera.size_px).astype(int), 0, cells - 1)
        depth, inside = surface.depth[cell[:, 1], cell[:, 0]], surface.inside[cell[:, 1], cell[:, 0]]
        seen = (points[:, 2] > depth - 0.06) | (inside < 0)
        placed = np.round(points[:, :2] * 2**SUBPIXEL).astype(int).tolist()
        for i in np.flatnonzero(seen[:-1] & seen[1:]):
            cv2.line(mask, placed[i], placed[i + 1], 255, width_px, cv2.LINE_AA, SUBPIXEL)
    weight = mask.astype(np.float32)[..., None] / 255
    canvas += (np.asarray(colour, np.float32) - canvas) * weight
