"""Shape of the head in three dimensions, its projection, and which of its points each pixel shows.

Convention: head frame x to the image's right, y down, z towards the viewer; unit = half the height of an average
head. The surface is star-shaped: the ellipsoid of `axes`, its radius multiplied by `relief`, a function of the
direction. Directions are stored by stereographic coordinates (s, t) = (qx, qy) / (1 + qz) of the unit vector q in
the frame scaled by the axes, so (0, 0) is straight ahead and the circle |st| = 1 is a right angle off. Projection is
orthographic: pixel = centre + scale * (R p)_xy.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from synthetic.identity import Identity

EXTENT = 1.3
"""Maps over (s, t) cover [-EXTENT, EXTENT] squared; what lies behind takes the value of their border."""
RELIEF_PX = 144
SAMPLES = 8
"""Samples per ray, front to back."""


@dataclass(frozen=True)
class Pose:
    """Rotation of the head, degrees: yaw > 0 turns to the image's right, pitch > 0 up, roll > 0 clockwise."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0

    def matrix(self) -> np.ndarray:
        """Return R (3, 3) float64, head frame -> camera frame: yaw first, then pitch, then roll."""
        (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in np.radians([self.yaw, self.pitch, self.roll]))
        turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        nod = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        tilt = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        return tilt @ nod @ turn


@dataclass(frozen=True)
class Camera:
    """Pose, pixels per head unit and the pixel (x, y) that the centre of the head falls on."""

    pose: Pose
    scale_px: float
    centre_px: tuple[float, float]
    size_px: int

    def project(self, points_N3: np.ndarray) -> np.ndarray:
        """Return (N, 3) float64: pixel x, pixel y and depth z of points of the head frame."""
        turned = np.asarray(points_N3, np.float64) @ self.pose.matrix().T
        turned[:, :2] = turned[:, :2] * self.scale_px + self.centre_px
        return turned


@dataclass(frozen=True)
class Shape:
    """Surface of one head with one expression: axes (3,) float64 and relief (RELIEF_PX, RELIEF_PX) float32."""

    axes: np.ndarray
    relief: np.ndarray

    def surface_points(self, st_N2: np.ndarray) -> np.ndarray:
        """Return the points (N, 3) of the surface, head frame, at stereographic coordinates."""
        st = np.asarray(st_N2, np.float64)
        grid = ((st + EXTENT) * (RELIEF_PX - 1) / (2 * EXTENT)).astype(np.float32)
        radius = cv2.remap(
            self.relief, grid[None, :, 0], grid[None, :, 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )[0]
        return directions(st) * radius[:, None].astype(np.float64) * self.axes


@dataclass(frozen=True)
class Surface:
    """What each pixel shows. h, w: half the size of the image.

    st (h, w, 2) float32 stereographic coordinates; depth (h, w) float32 head units; inside (h, w) float32: distance
    to the outline in pixels of the full image, positive on the head.
    """

    st: np.ndarray
    depth: np.ndarray
    inside: np.ndarray


def directions(st_N2: np.ndarray) -> np.ndarray:
    """Return unit vectors (N, 3) of stereographic coordinates."""
    square = (st_N2**2).sum(-1, keepdims=True)
    return np.concatenate([2 * st_N2, 1 - square], -1) / (1 + square)


def plane_to_st(points_N2: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Return stereographic coordinates of points (x, y) that are seen from the front on the bare ellipsoid."""
    q = points_N2 / axes[:2]
    square = (q * q).sum(-1, keepdims=True)
    return q / (1 + np.sqrt(np.maximum(1 - square, 0.03)))


@lru_cache(maxsize=1)
def _grid() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the directions qx, qy, qz of the relief's cells."""
    line = np.linspace(-EXTENT, EXTENT, RELIEF_PX)
    st = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    q = directions(st).reshape(RELIEF_PX, RELIEF_PX, 3).astype(np.float32)
    return q[..., 0], q[..., 1], q[..., 2]


def bump(x: np.ndarray, y: np.ndarray, at: tuple[float, float], size: tuple[float, float]) -> np.ndarray:
    """Return a Gaussian hill of height 1 with the half-widths `size`."""
    return np.exp(-(((x - at[0]) / size[0]) ** 2) - ((y - at[1]) / size[1]) ** 2)


def smoothstep(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Rise smoothly from 0 at `low` to 1 at `high`."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def nose_tip_y(who: Identity) -> float:
    """Return the height of the tip of the nose, seen from the front."""
    return who.eyes.y + who.nose.length


def head_axes(who: Identity) -> np.ndarray:
    """Return the half axes (3,) of the head."""
    return np.array([who.head.width, who.head.height, who.head.depth])


def skull_relief(who: Identity) -> np.ndarray:
    """Return the radius of the head without hair: jaw, sockets, nose, cheeks, lips, chin and ears."""
    qx, qy, qz = _grid()
    head, axes = who.head, head_axes(who)
    heights = [-1.0, -0.5, 0.05, 0.35, 0.62, 0.85, 1.0]
    widths = [
        1.0,
        head.forehead,
        head.cheekbones,
        (head.cheekbones + head.jaw) / 2,
        head.jaw,
        head.jaw * head.chin_width**0.5,
        head.chin_width,
    ]
    width = np.interp(qy, heights, widths)
    forward = 1 + head.chin_forward * smoothstep(qy, 0.3, 0.85)
    relief = 1 / np.sqrt((qx / width) ** 2 + qy**2 + (qz / np.where(qz > 0, forward, 1)) ** 2)
    relief = relief * (1 - 0.30 * smoothstep(qy, 0.34, 0.95) * smoothstep(-qz, -0.42, 0.35))

    x, y, front = axes[0] * qx * relief, axes[1] * qy * relief, smoothstep(qz, 0.0, 0.3)
    nose, tip_y = who.nose, nose_tip_y(who)
    along = np.clip((y - who.eyes.y + 0.04) / (nose.length + 0.04), 0, 1)
    ridge = nose.root * smoothstep(y, who.eyes.y - 0.20, who.eyes.y) * (1 - along) + nose.height * along**1.4
    ridge = ridge * (1 - smoothstep(y, tip_y, tip_y + 0.10))
    relief = relief + front * ridge * np.exp(-((x / (nose.bridge + (nose.tip - nose.bridge + 0.02) * along)) ** 2))
    for side in (-1, 1):
        eye_x, wing = side * who.eyes.distance / 2, (side * nose.width * 0.62, tip_y + 0.015)
        relief = relief + front * 0.32 * nose.height * bump(x, y, wing, (nose.width * 0.42, 0.055))
        relief = relief - front * who.eyes.depth * bump(x, y, (eye_x, who.eyes.y), (0.19, 0.11))
        relief = relief + front * 0.018 * bump(x, y, (eye_x, who.eyes.y), (0.09, 0.07))
        relief = relief + front * 0.03 * bump(x, y, (side * 0.43, who.eyes.y + 0.30), (0.16, 0.14))
    brow_y, mouth_y = who.eyes.y - who.brows.gap, tip_y + who.mouth.y
    relief = relief + front * 0.022 * bump(x, y, (0, brow_y), (0.40, 0.07))
    relief = relief + front * 0.035 * bump(x, y, (0, mouth_y), (who.mouth.width * 0.5, 0.11))
    relief = relief - front * 0.025 * bump(x, y, (0, mouth_y + 0.15), (0.16, 0.045))
    relief = relief + front * (0.025 + 0.2 * max(head.chin_forward, 0)) * bump(x, y, (0, 0.86), (0.2, 0.13))
    s, t = qx / (1 + qz), qy / (1 + qz)
    for side in (-1, 1):
        relief = relief + head.ear * bump(s, t, (side * 1.04, who.eyes.y + 0.16), (0.075, 0.21))
    return relief.astype(np.float32)


def open_jaw(relief: np.ndarray, who: Identity, opening: float) -> np.ndarray:
    """Return the relief with the chin lowered by an open mouth."""
    if opening <= 0:
        return relief
    _, qy, qz = _grid()
    return relief * (1 + np.float32(0.085 * opening) * smoothstep(qy, 0.35, 0.9) * smoothstep(qz, -0.2, 0.3))


def _lookup(shape: Shape, q: tuple[np.ndarray, ...], radius: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the relief in the direction of points q of the scaled frame, |q| = radius, and its map coordinates."""
    factor = np.float32((RELIEF_PX - 1) / (2 * EXTENT)) / np.maximum(radius + q[2], np.float32(1e-3))
    half = np.float32((RELIEF_PX - 1) / 2)
    mx, my = q[0] * factor + half, q[1] * factor + half
    return cv2.remap(shape.relief, mx, my, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), mx, my


def cast(shape: Shape, camera: Camera) -> Surface:
    """Find for every second pixel the frontmost point of the surface.

    In the scaled frame each ray is sampled where its distance to the centre takes evenly spaced values, from the
    largest radius of the relief down to the ray's closest approach; the first sample inside is refined by two steps
    of false position. A ray that misses keeps its nearest sample, so that colours go on past the outline and
    blending has no seam.
    """
    half = camera.size_px // 2
    pixels = (np.arange(half, dtype=np.float64) + 0.5) * (camera.size_px / half) - 0.5
    u = ((pixels - camera.centre_px[0]) / camera.scale_px).astype(np.float32)[None, :]
    v = ((pixels - camera.centre_px[1]) / camera.scale_px).astype(np.float32)[:, None]
    to_q = (camera.pose.matrix() / shape.axes).T.astype(np.float32)  # rows: qx, qy, qz
    ray = to_q[:, 2]
    speed = np.float32(np.sqrt((ray * ray).sum()))
    along = (to_q * ray[:, None]).sum(0) / speed**2  # depth of closest approach = -(along . (u, v))
    nearest_z = -(along[0] * u + along[1] * v)
    q0 = [to_q[i, 0] * u + to_q[i, 1] * v + ray[i] * nearest_z for i in range(3)]
    closest_sq = q0[0] * q0[0] + q0[1] * q0[1] + q0[2] * q0[2]
    closest = np.sqrt(closest_sq)

    largest, core = np.float32(shape.relief.max() * 1.001), np.float32(shape.relief.min() * 0.999)
    last = np.maximum(closest, core)
    first = np.maximum(largest, last)
    steps = np.linspace(0, 1, SAMPLES, dtype=np.float32)[:, None, None]
    radius = first + (last - first) * steps
    shift = np.sqrt(np.maximum(radius * radius - closest_sq, 0)) / speed
    stacked = tuple((q0[i] + ray[i] * shift).reshape(-1, half) for i in range(3))
    samples = radius - _lookup(shape, stacked, radius.reshape(-1, half))[0].reshape(radius.shape)

    smallest = samples.min(0)
    hit = smallest < 0
    index = np.where(hit, (samples < 0).argmax(0), samples.argmin(0))
    before = np.maximum(index - 1, 0)
    f_in, f_out = (np.take_along_axis(samples, i[None], 0)[0] for i in (index, before))
    z_in, z_out = (np.take_along_axis(shift, i[None], 0)[0] for i in (index, before))
    for _ in range(2):
        weight = np.where(hit & (f_out > 0), f_out / np.maximum(f_out - f_in, np.float32(1e-6)), np.float32(1))
        z = z_out + weight * (z_in - z_out)
        r = np.sqrt(closest_sq + (z * speed) ** 2)
        found, mx, my = _lookup(shape, tuple(q0[i] + ray[i] * z for i in range(3)), r)
        f = r - found
        behind = f < 0
        z_in, f_in = np.where(behind, z, z_in), np.where(behind, f, f_in)
        z_out, f_out = np.where(behind, z_out, z), np.where(behind, f_out, f)
    to_st = np.float32(2 * EXTENT / (RELIEF_PX - 1))
    st = np.stack([mx * to_st - np.float32(EXTENT), my * to_st - np.float32(EXTENT)], -1)
    inside = -smallest * np.float32(camera.scale_px * shape.axes[:2].mean())
    return Surface(st=st, depth=z + nearest_z, inside=inside)
