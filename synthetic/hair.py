"""Lay hair on the head: where it grows, how far it stands off, and its colour."""

from functools import lru_cache

import cv2
import numpy as np

from synthetic.canvas import MAP_PX, SUBPIXEL, rounded, st_to_px, tinted
from synthetic.geometry import EXTENT, RELIEF_PX, head_axes, plane_to_st, smoothstep
from synthetic.identity import Identity

STANDS_OFF = {
    "bald": 0.0,
    "buzz": 0.022,
    "short": 0.075,
    "swept": 0.105,
    "fringe": 0.085,
    "long": 0.085,
    "bob": 0.11,
    "afro": 0.26,
    "cap": 0.10,
}
COVERS_EARS = ("long", "bob", "afro")


@lru_cache(maxsize=1)
def _map_grid() -> tuple[np.ndarray, np.ndarray]:
    """Return s and t of every cell of a colour map."""
    line = np.linspace(-EXTENT, EXTENT, MAP_PX, dtype=np.float32)
    s, t = np.meshgrid(line, line)
    return s, t


def noise(rng: np.random.Generator, cells: tuple[int, int], size_px: int) -> np.ndarray:
    """Return smooth noise (size, size) float32 with mean 0 and about unit spread."""
    coarse = rng.standard_normal(cells).astype(np.float32)
    return cv2.resize(coarse, (size_px, size_px), interpolation=cv2.INTER_CUBIC)


@lru_cache(maxsize=1)
def grain_map() -> np.ndarray:
    """Return fine noise (MAP_PX, MAP_PX) float32, the same for everybody."""
    rng = np.random.default_rng(0)
    return cv2.GaussianBlur(noise(rng, (MAP_PX, MAP_PX), MAP_PX), (0, 0), 1.0) * 2.2 + 0.6 * noise(
        rng, (44, 44), MAP_PX
    )


@lru_cache(maxsize=1)
def strand_map() -> np.ndarray:
    """Return streaks (MAP_PX, MAP_PX) float32 that run away from the crown."""
    s, t = _map_grid()
    table = np.convolve(np.random.default_rng(1).standard_normal(1024), [0.25, 0.5, 0.25], "same").astype(np.float32)
    angle = (np.arctan2(s, t + 1.15) / np.pi + 1) * 300 + 3 * np.sin(5 * t)
    low = np.floor(angle).astype(np.int32)
    part = angle - low
    streaks = table[low % 1024] * (1 - part) + table[(low + 1) % 1024] * part
    return streaks * (1 - 0.75 * smoothstep(np.hypot(s, t), 0.95, 1.25))


@lru_cache(maxsize=1)
def _relief_maps() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return s, t, grain and strands at the cells of a relief."""
    line = np.linspace(-EXTENT, EXTENT, RELIEF_PX, dtype=np.float32)
    s, t = np.meshgrid(line, line)
    size = (RELIEF_PX, RELIEF_PX)
    return s, t, cv2.resize(grain_map(), size), cv2.resize(strand_map(), size)


def face_opening(who: Identity) -> np.ndarray:
    """Return the closed line (N, 2), stereographic, inside which the head is bare."""
    hair, axes = who.hair, head_axes(who)
    top = hair.fringe if hair.style == "fringe" else hair.line
    if hair.style == "cap":
        top = hair.fringe + 0.06
    slant = 0.16 * hair.side if hair.style in ("swept", "bob") else 0.03 * hair.side
    top_t = plane_to_st(np.array([[0, -top]]), axes)[0, 1]
    corner = hair.corner + (0.18 if hair.style in ("fringe", "cap") else 0.0)
    middle = [
        (-corner, top_t + 0.03 - slant),
        (-0.5 * corner, top_t - 0.5 * slant),
        (0.0, top_t + (0 if hair.style in ("fringe", "cap") else hair.peak)),
        (0.5 * corner, top_t + 0.5 * slant),
        (corner, top_t + 0.03 + slant),
    ]
    if hair.style == "fringe":
        s = np.linspace(-corner, corner, 15)
        middle = list(zip(s, top_t + 0.022 * np.cos(np.arange(15) * np.pi) + slant * s, strict=True))
    if hair.style in COVERS_EARS:
        inner = hair.opening + (0.12 if hair.style == "afro" else 0.0)
        side = [
            (inner - 0.02, -0.20),
            (inner, 0.05),
            (inner, 0.30),
            (inner - 0.03, 0.52),
            (inner + 0.02, 0.75),
            (inner + 0.12, 0.95),
            (inner + 0.2, 1.5),
        ]
    else:
        side = [
            (corner + 0.16, -0.20),
            (0.74, -0.08),
            (0.81, 0.08),
            (0.85, 0.20),
            (0.93, 0.18),
            (0.94, -0.06),
            (1.08, -0.12),
            (1.17, 0.05),
            (1.17, 0.40),
            (1.60, 0.52),
            (1.60, 1.60),
        ]
    right = [(max(s, corner), t) for s, t in side]
    left = [(-s, t) for s, t in right[::-1]]
    return rounded(np.array(left + middle + right), 2)


def hair_mask(who: Identity) -> np.ndarray:
    """Return how much of each cell is hair, (MAP_PX, MAP_PX) uint8."""
    if who.hair.style == "bald":
        return np.zeros((MAP_PX, MAP_PX), np.uint8)
    mask = np.full((MAP_PX, MAP_PX), 255, np.uint8)
    line = np.round(st_to_px(face_opening(who)) * 2**SUBPIXEL).astype(np.int32)
    cv2.fillPoly(mask, [line], 0, cv2.LINE_AA, shift=SUBPIXEL)
    return cv2.GaussianBlur(mask, (0, 0), 2.5 if who.hair.style in ("buzz", "short") else 1.2)


def hair_colours(who: Identity) -> np.ndarray:
    """Return the colour of the hair, (MAP_PX, MAP_PX, 3) uint8 RGB."""
    hair = who.hair
    fine = 1.3 * grain_map() if hair.style in ("buzz", "afro") else strand_map() + 0.25 * grain_map()
    level = 1 + hair.streaks * fine * {"afro": 0.6, "cap": 0.15}.get(hair.style, 1.0)
    if hair.style in ("swept", "long", "bob"):
        s, t = _map_grid()
        parting = s - 0.35 * hair.side - 0.25 * hair.side * (t + 0.6)
        level = level * (1 - 0.45 * np.exp(-((parting / 0.022) ** 2)) * (t < -0.2))
    return tinted(level, hair.colour)


def add_hair(relief: np.ndarray, who: Identity, mask: np.ndarray) -> np.ndarray:
    """Return the relief with the hair standing off the skull."""
    hair = who.hair
    thickness = STANDS_OFF[hair.style] * hair.volume
    if thickness == 0:
        return relief
    s, t, grain, strands = _relief_maps()
    cover = cv2.resize(mask, (RELIEF_PX, RELIEF_PX), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    rise = 0.55 + 0.55 * smoothstep(-t, -0.1, 0.6)
    if hair.style not in COVERS_EARS:
        rise = rise * (1 - 0.8 * smoothstep(t, 0.05, 0.5))
    if hair.style == "swept":
        rise = rise * (1 + 0.6 * hair.side * np.clip(s, -1, 1))
    if hair.style == "afro":
        rise = 0.85 + 0.2 * smoothstep(-t, -0.3, 0.6) + 0.03 * grain
    if hair.style in COVERS_EARS:
        relief = np.where((np.abs(s) > 0.85) & (np.abs(t) < 0.5), np.minimum(relief, 1.02), relief)
    lumps = 1.0
    if hair.style not in ("afro", "cap"):
        lumps = 1 + 0.5 * hair.streaks * strands
    return (relief + thickness * rise * lumps * cover).astype(np.float32)
