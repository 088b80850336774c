"""One image made worse: what is drawn for it, and the renderer's operators applied to a photograph."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np

from data.alignment import TEMPLATE_112, estimate_similarity
from synthetic.nuisance import SWEEPS, Nuisance, degrade
from synthetic.occluders import ON_AREA, cover
from utils.config.prepare import DegradeConfig

KINDS = ("blur", "lowres", "noise", "jpeg", "darkness", "occlusion")
GRADES = 5
_EYES_PX = 33.0
"""Eye distance of the renderer's people, whose ranges of blur and low resolution are in pixels."""
_FACE = ((56.0, 68.0), (40.0, 52.0))
"""Centre and half axes of a face in the template, pixels."""


class Degradation(NamedTuple):
    """What is done to one image."""

    kinds: tuple[str, ...] = ()
    grade: int = 0
    """1 slight to 5 strong; 0: the image stays as it is."""
    nuisance: Nuisance = Nuisance()


@dataclass(frozen=True)
class PhotographedFace:
    """Where the face of a photograph is, from its landmarks."""

    landmarks: np.ndarray
    face: np.ndarray
    """(H, W) float32, 1 inside an ellipse about the face."""

    @classmethod
    def of(cls, landmarks_52: np.ndarray, shape: tuple[int, ...]) -> "PhotographedFace":
        """Place the ellipse of the template in an image of (height, width, ...)."""
        back = cv2.invertAffineTransform(estimate_similarity(landmarks_52, TEMPLATE_112))
        angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        outline = np.array(_FACE[0]) + np.array(_FACE[1]) * np.stack([np.cos(angle), np.sin(angle)], -1)
        mask = np.zeros(shape[:2], np.float32)
        cv2.fillPoly(mask, [np.round(outline @ back[:, :2].T + back[:, 2]).astype(np.int32)], 1.0)
        return cls(landmarks_52, mask)


def draw_degradation(cfg: DegradeConfig, rng: np.random.Generator) -> Degradation:
    """Draw one or two kinds and a grade; where the image is one of those left alone, neither."""
    if rng.random() >= cfg.share:
        return Degradation()
    count = 2 if rng.random() < cfg.two else 1
    kinds = tuple(str(kind) for kind in rng.choice(KINDS, count, replace=False))
    return of_kinds(kinds, int(rng.integers(1, GRADES + 1)), cfg.strongest, rng)


def of_kinds(kinds: tuple[str, ...], grade: int, strongest: float, rng: np.random.Generator) -> Degradation:
    """Return the degradation of these kinds; grade 5 is `strongest` of the renderer's range."""
    nuisance, level = Nuisance(), strongest * grade / GRADES
    for kind in kinds:
        nuisance = SWEEPS[kind](nuisance, level, rng)
    if "occlusion" in kinds:
        nuisance = replace(nuisance, occluder=str(rng.choice(ON_AREA)))
    return Degradation(kinds, grade, nuisance)


def degraded(
    image: np.ndarray, landmarks_52: np.ndarray, nuisance: Nuisance, rng: np.random.Generator
) -> tuple[bytes, Nuisance]:
    """Return the worse image (H, W, 3) as a JPEG file, and what was done to it, occlusion as measured.

    Blur and low resolution count in units of the face, so that large photographs are made worse as small ones are.
    """
    size = float(np.linalg.norm(landmarks_52[1] - landmarks_52[0])) / _EYES_PX
    lowres = max(1.0, nuisance.lowres * size) if nuisance.lowres > 1 else 1.0
    nuisance = replace(nuisance, blur=nuisance.blur * size, lowres=lowres)
    if nuisance.occluder != "none":
        face = PhotographedFace.of(landmarks_52, image.shape)
        image, share = cover(image, face, (nuisance.occluder, nuisance.occlusion), rng)
        nuisance = replace(nuisance, occlusion=share)
    worse = cv2.cvtColor(degrade(image, nuisance, rng), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", worse, [cv2.IMWRITE_JPEG_QUALITY, nuisance.jpeg])[1].tobytes(), nuisance
