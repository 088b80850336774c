"""How a sample's second crop is misaligned: its landmarks moved (the paper), or the whole crop moved.

Every draw comes from the sample's own generator, so it depends on (seed, epoch, row) alone.
"""

import cmath
import math
from dataclasses import dataclass

import numpy as np

from data.alignment import (
    CROP_SIZE_PX,
    TEMPLATE_112,
    estimate_similarity,
    jitter_landmarks,
    move_landmarks,
    outside_share,
)
from utils.config.train_aikd import StudentCropConfig

FAMILIES = ("landmarks", "similarity", "box")
"""What `mixed` draws from."""


@dataclass(frozen=True)
class MovedLandmarks:
    """Offsets of the five landmarks, in pixels of the source image or of the template."""

    offsets_52: np.ndarray
    unit: str

    def matrix(self, landmarks_52: np.ndarray) -> np.ndarray:
        """Return source -> misaligned crop, (2, 3)."""
        return estimate_similarity(move_landmarks(landmarks_52, self.offsets_52, self.unit), TEMPLATE_112)


@dataclass(frozen=True)
class MovedCrop:
    """A crop turned and scaled about the face, and shifted; `upright` ones keep the image's own directions."""

    factor: complex
    """Scale (modulus) and turn (argument) beside the aligned crop, or beside the image's directions."""
    shift: complex
    """Right and down, pixels of the crop."""
    upright: bool = False

    def matrix(self, landmarks_52: np.ndarray) -> np.ndarray:
        """Return source -> misaligned crop, (2, 3); the face's centre lands at that of the template, shifted."""
        aligned_23 = estimate_similarity(landmarks_52, TEMPLATE_112)
        z = complex(aligned_23[0, 0], aligned_23[1, 0])
        z = self.factor * (abs(z) if self.upright else z)
        centre, target = (complex(*np.mean(points, 0)) for points in (landmarks_52, TEMPLATE_112))
        moved = target + self.shift - z * centre
        return np.array([[z.real, -z.imag, moved.real], [z.imag, z.real, moved.imag]])


Misalignment = MovedLandmarks | MovedCrop


def draw_misalignment(cfg: StudentCropConfig, rng: np.random.Generator) -> Misalignment:
    """Draw how one sample is misaligned."""
    family = FAMILIES[rng.integers(len(FAMILIES))] if cfg.family == "mixed" else cfg.family
    if family == "landmarks":
        radius_px = cfg.radius_px if cfg.least_px is None else rng.uniform(cfg.least_px, cfg.radius_px)
        return MovedLandmarks(jitter_landmarks(np.zeros((5, 2)), radius_px, rng), cfg.unit)
    crop = cfg.crop
    scale = math.exp(rng.uniform(math.log(crop.scale[0]), math.log(crop.scale[1])))
    shift = complex(rng.uniform(*crop.right_px), rng.uniform(*crop.down_px))
    if family == "box":
        return MovedCrop(scale, shift, upright=True)
    turn = math.radians(rng.uniform(-crop.turn_degrees, crop.turn_degrees))
    return MovedCrop(cmath.rect(scale, turn), shift)


def outside_shares_of_aligned(cfg: StudentCropConfig, draws: int = 1000) -> np.ndarray:
    """Return outside_share of `draws` crops that are misaligned from 112x112 copies which are aligned already."""
    rng = np.random.default_rng(0)
    size = CROP_SIZE_PX, CROP_SIZE_PX
    drawn = (draw_misalignment(cfg, rng) for _ in range(draws))
    return np.array([outside_share(one.matrix(TEMPLATE_112), size) for one in drawn])
