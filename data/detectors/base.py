"""What every face detector offers, and which of the faces it finds count."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from data.images.decode import ImageError

FACE_NUMBERS = 15
"""Numbers that describe a face: x and y of five points, x, y, width and height of the box, score."""


class Face(NamedTuple):
    """One detected face, in pixels of the image given."""

    points: np.ndarray
    """(5, 2) float32, template order."""
    box: np.ndarray
    """(4,) float32: x and y of its upper left corner, width, height."""
    score: float
    """How sure the detector is, in [0, 1]."""

    @property
    def area_px(self) -> float:
        """Return the area of the box."""
        return float(self.box[2]) * float(self.box[3])

    def numbers(self) -> np.ndarray:
        """Return the face as FACE_NUMBERS float32."""
        return np.concatenate([self.points.ravel(), self.box, [self.score]]).astype(np.float32)

    @classmethod
    def of(cls, numbers: np.ndarray) -> "Face":
        """Take FACE_NUMBERS numbers."""
        numbers = np.asarray(numbers, np.float32)
        return cls(numbers[:10].reshape(5, 2), numbers[10:14], float(numbers[14]))


class FaceDetector(ABC):
    """Find the faces of an image; may be called from several threads, and pickled."""

    identity: dict[str, Any]
    """JSON values; detectors that are equal here find the same faces."""

    @abstractmethod
    def __call__(self, image_rgb: np.ndarray) -> list[Face]:
        """Return the faces of an (H, W, 3) uint8 RGB image, in any order; may raise ImageError."""


def faces_of(rows: Iterable[np.ndarray]) -> list[Face]:
    """Return the faces described by FACE_NUMBERS numbers each, without those that can be none.

    These have a number that is not finite, or a box without area.
    """
    faces = [Face.of(row) for row in rows if np.isfinite(row).all()]
    return [face for face in faces if face.box[2] > 0 and face.box[3] > 0]


class FaceFinder(NamedTuple):
    """A detector and which of its faces count."""

    detector: FaceDetector
    which: str = "largest"
    """largest: the one with the largest box; central: whose box lies closest to the middle; all."""
    min_face_px: int = 0
    """Faces whose box is narrower or lower do not count."""

    @property
    def identity(self) -> dict[str, Any]:
        """Return JSON values; finders that are equal here find the same faces."""
        return {**self.detector.identity, "faces": self.which, "min_face_px": self.min_face_px}

    def __call__(self, image_rgb: np.ndarray) -> list[Face]:
        """Return the faces that count, the largest first; raises ImageError with the reason where there is none.

        Of equally large ones, or equally central ones, the surer one wins.
        """
        faces = sorted(self.detector(image_rgb), key=lambda face: (-face.area_px, -face.score))
        if not faces:
            raise ImageError("no face found")
        large = [face for face in faces if face.box[2:].min() >= self.min_face_px]
        if not large:
            sides = max(float(face.box[2:].min()) for face in faces)
            raise ImageError(f"no face of {self.min_face_px} px or more found, the largest has {sides:.0f}")
        if self.which == "central":
            middle = np.array(image_rgb.shape[1::-1]) / 2
            far = [float(np.linalg.norm(face.box[:2] + face.box[2:] / 2 - middle)) for face in large]
            return [large[int(np.argmin(far))]]
        return large if self.which == "all" else large[:1]
