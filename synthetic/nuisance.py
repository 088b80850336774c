"""Draw the conditions an image is taken under, and apply those that act on pixels."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import cv2
import numpy as np

from synthetic.geometry import Camera, Pose
from synthetic.occluders import OCCLUDERS, cover
from synthetic.render import Light, Person, Rendered, Scene
from synthetic.texture import Expression

FACE_SCALE = 0.362
"""Pixels per head unit, as a share of the side of the image: eyes about 33 px apart at 160 px."""


@dataclass(frozen=True)
class Nuisance:
    """Conditions of one image, as metadata.csv stores them."""

    yaw: float = 0.0
    """Degrees; > 0 turns the face to the image's right."""
    pitch: float = 0.0
    """Degrees; > 0 turns the face up."""
    roll: float = 0.0
    """Degrees; > 0 turns the head clockwise."""
    light: float = 0.35
    """Share of the light that comes from one direction, 0 to 1."""
    light_azimuth: float = 0.0
    """Degrees; > 0 from the image's right."""
    light_elevation: float = 25.0
    """Degrees; > 0 from above."""
    mouth_open: float = 0.0
    """0 closed to 1 wide open."""
    smile: float = 0.0
    """-0.4 (corners down) to 1 (broad smile)."""
    blink: float = 0.0
    """0 open to 1 closed."""
    brow_raise: float = 0.0
    """-0.5 (frown) to 1."""
    blur: float = 0.0
    """Sigma of the Gaussian blur, pixels of the image."""
    lowres: float = 1.0
    """Factor by which the image was made smaller and then larger again."""
    noise: float = 0.0
    """Standard deviation of the noise, grey levels."""
    occlusion: float = 0.0
    """Share of the visible face that something covers."""
    occluder: str = "none"
    """What covers it."""
    darkness: float = 0.0
    """Share of the light that is missing: 0 well exposed, 1 black."""
    jpeg: int = 95
    """JPEG quality."""
    glasses: bool = True
    """Whether a person who has glasses wears them."""


def _either_side(rng: np.random.Generator, value: float) -> float:
    return float(value if rng.random() < 0.5 else -value)


def _yaw(base: Nuisance, level: float, rng: np.random.Generator) -> Nuisance:
    return replace(base, yaw=_either_side(rng, 80 * level))


def _pitch(base: Nuisance, level: float, rng: np.random.Generator) -> Nuisance:
    return replace(base, pitch=_either_side(rng, 45 * level))


def _light(base: Nuisance, level: float, rng: np.random.Generator) -> Nuisance:
    return replace(
        base,
        light=0.3 + 0.68 * level,
        light_azimuth=_either_side(rng, 20 + 75 * level),
        light_elevation=float(rng.uniform(-25, 45)),
    )


def _expression(base: Nuisance, level: float, rng: np.random.Generator) -> Nuisance:
    held = {"mouth_open": (0, 1), "smile": (-0.4, 1), "blink": (0, 1), "brow_raise": (-0.5, 1)}
    return replace(base, **{name: level * float(rng.uniform(*bounds)) for name, bounds in held.items()})


def _blur(base: Nuisance, level: float, rng: np.random.Generator) -> Nuisance:
    return replace(base, blur=6.0 * level)


def _lowres(base: Nuisance, level: float, rng: np.random.Generator) -> Nuisance:
    return replace(base, lowres=1 + 11 * level)


def _noise(base: Nuisance, level: float, rng: np.random.Generator) -> Nuisance:
    return replace(base, noise=100 * level)


def _occlusion(base: Nuisance, level: float, rng: np.random.Generator) -> Nuisance:
    occluder = str(rng.choice(OCCLUDERS))
    return replace(base, occlusion=0.85 * level, occluder=occluder, glasses=base.glasses and occluder != "sunglasses")


def _darkness(base: Nuisance, level: float, rng: np.random.Generator) -> Nuisance:
    return replace(base, darkness=0.97 * level)


def _jpeg(base: Nuisance, level: float, rng: np.random.Generator) -> Nuisance:
    return replace(base, jpeg=round(95 * (1 - level) ** 2 + 3))


SWEEPS: dict[str, Callable[[Nuisance, float, np.random.Generator], Nuisance]] = {
    "blur": _blur,
    "yaw": _yaw,
    "noise": _noise,
    "occlusion": _occlusion,
    "lowres": _lowres,
    "darkness": _darkness,
    "pitch": _pitch,
    "light": _light,
    "jpeg": _jpeg,
    "expression": _expression,
}
"""Nuisances that can be varied alone; a level of 0 is clean, 1 the worst there is."""
KINDS = ("clean", "mixed", *SWEEPS)


def draw_clean(rng: np.random.Generator) -> Nuisance:
    """Draw the conditions of a good photograph: near frontal, well lit, sharp, but never twice the same."""
    return Nuisance(
        yaw=float(np.clip(rng.normal(0, 8), -18, 18)),
        pitch=float(np.clip(rng.normal(0, 5), -12, 12)),
        roll=float(np.clip(rng.normal(0, 6), -15, 15)),
        light=float(rng.uniform(0.15, 0.5)),
        light_azimuth=float(rng.uniform(-45, 45)),
        light_elevation=float(rng.uniform(0, 45)),
        mouth_open=float(max(rng.uniform(-0.6, 0.35), 0)),
        smile=float(rng.uniform(-0.25, 0.85)),
        blink=float(max(rng.uniform(-0.5, 0.25), 0)),
        brow_raise=float(rng.uniform(-0.25, 0.4)),
        blur=float(rng.uniform(0, 0.5)),
        noise=float(rng.uniform(0, 3)),
        darkness=float(rng.uniform(0, 0.15)),
        jpeg=int(rng.integers(82, 97)),
        glasses=bool(rng.random() < 0.85),
    )


def draw_nuisance(kind: str, rng: np.random.Generator) -> Nuisance:
    """Draw the conditions of one kind: clean, one nuisance at any level, or one to three at once (mixed)."""
    base = draw_clean(rng)
    if kind == "clean":
        return base
    if kind != "mixed":
        return SWEEPS[kind](base, float(rng.uniform(0, 1)), rng)
    for name in rng.choice(list(SWEEPS), int(rng.integers(1, 4)), replace=False):
        base = SWEEPS[str(name)](base, float(rng.beta(1.3, 1.7)), rng)
    return base


def scene_of(nuisance: Nuisance, size_px: int, rng: np.random.Generator) -> Scene:
    """Place the head loosely in the image and set pose, expression and light."""
    scale = size_px * FACE_SCALE * float(rng.uniform(0.90, 1.08))
    centre = (size_px * float(rng.uniform(0.465, 0.535)), size_px * float(rng.uniform(0.465, 0.52)))
    camera = Camera(Pose(nuisance.yaw, nuisance.pitch, nuisance.roll), scale, centre, size_px)
    gaze = (float(np.clip(rng.normal(0, 0.10), -0.25, 0.25)), float(np.clip(rng.normal(0, 0.04), -0.1, 0.1)))
    held = Expression(nuisance.mouth_open, nuisance.smile, nuisance.blink, nuisance.brow_raise, gaze)
    warm, green = (float(v) for v in np.clip(rng.normal(0, (0.065, 0.025)), -0.14, 0.14))
    level = float(rng.uniform(0.80, 1.12))
    light = Light(
        nuisance.light_azimuth,
        nuisance.light_elevation,
        1 - nuisance.light,
        (level * (1 + warm), level * (1 + green), level * (1 - warm)),
    )
    return Scene(camera, held, light, nuisance.glasses)


def degrade(image: np.ndarray, nuisance: Nuisance, rng: np.random.Generator) -> np.ndarray:
    """Return the image (H, W, 3) uint8 RGB after darkness, blur, low resolution and noise, in the order of a camera."""
    image = image * np.float32(1 - nuisance.darkness)
    if nuisance.blur > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), nuisance.blur)
    if nuisance.lowres > 1.05:
        height, width = image.shape[:2]
        small = max(4, round(width / nuisance.lowres)), max(4, round(height / nuisance.lowres))
        image = cv2.resize(
            cv2.resize(image, small, interpolation=cv2.INTER_AREA),
            (width, height),
            interpolation=cv2.INTER_LINEAR,
        )
    if nuisance.noise > 0:
        grain = rng.standard_normal(image.shape, np.float32)
        image = cv2.scaleAdd(grain, nuisance.noise, image)
    return cv2.convertScaleAbs(np.maximum(image, 0))  # rounds and saturates


def photograph(
    person: Person, nuisance: Nuisance, size_px: int, rng: np.random.Generator
) -> tuple[np.ndarray, Rendered, Nuisance]:
    """Return the pixels (S, S, 3) uint8 RGB of one image, its rendering, and its conditions, occlusion as measured."""
    rendered = person.render(scene_of(nuisance, size_px, rng), rng)
    image = rendered.image
    if nuisance.occluder != "none":
        image, share = cover(image, rendered, (nuisance.occluder, nuisance.occlusion), rng)
        nuisance = replace(nuisance, occlusion=share)
    return degrade(image, nuisance, rng), rendered, nuisance


def metadata_row(nuisance: Nuisance) -> list[str]:
    """Return the values as metadata.csv writes them, in the order of METADATA_COLUMNS."""
    values = (getattr(nuisance, name) for name in METADATA_COLUMNS)
    return [f"{v:.4f}" if isinstance(v, float) else str(int(v)) if isinstance(v, bool) else str(v) for v in values]


METADATA_COLUMNS = tuple(f.name for f in fields(Nuisance))
