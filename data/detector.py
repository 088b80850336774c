"""Five landmarks per image from OpenCV's FaceDetectorYN and a YuNet file.

The file is face_detection_yunet_2023mar.onnx of OpenCV's model zoo (MIT licence).
Convention of a detector row: x, y, w, h of the box, then the subject's right eye, left eye, nose tip, right
mouth corner, left mouth corner as x, y each, then the score. The subject's right is the image's left, so
the points are in template order as they stand.
"""

import threading
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from data.images.decode import ImageError
from utils.config.prepare import DetectorConfig
from utils.errors import DataError

ROW_LENGTH = 15
_LFS_POINTER = b"version https://git-lfs"


class Face(NamedTuple):
    """One detected face, in pixels of the image given."""

    points: np.ndarray
    """(5, 2) float32, template order."""
    area_px: float
    """Of the box."""
    score: float
    """In [0, 1]."""


def largest_face(rows: np.ndarray | None) -> Face | None:
    """Return the face with the largest box, at a tie the one with the higher score; None without a face.

    Rows with a number that is not finite or a box without area are passed over.
    """
    if rows is None or not len(rows):
        return None
    rows = np.asarray(rows, np.float64)
    if rows.ndim != 2 or rows.shape[1] != ROW_LENGTH:
        raise ValueError(f"expected detector rows of {ROW_LENGTH} numbers, found an array of shape {rows.shape}")
    rows = rows[np.isfinite(rows).all(axis=1) & (rows[:, 2] > 0) & (rows[:, 3] > 0)]
    if not len(rows):
        return None
    areas = rows[:, 2] * rows[:, 3]
    best = np.lexsort((-rows[:, 14], -areas))[0]
    return Face(rows[best, 4:14].reshape(5, 2).astype(np.float32), float(areas[best]), float(rows[best, 14]))


class FaceDetector:
    """Find the largest face of an image; may be called from several threads."""

    def __init__(self, cfg: DetectorConfig):
        self.cfg = cfg
        self._check_file(Path(cfg.detector))
        self._thread = threading.local()
        self._net()

    @staticmethod
    def _check_file(path: Path) -> None:
        try:
            with open(path, "rb") as stream:
                head = stream.read(len(_LFS_POINTER))
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read ({error.strerror}); download face_detection_yunet_2023mar.onnx and name it "
                "in landmarks.detector"
            ) from error
        if head == _LFS_POINTER:
            raise DataError(f"{path}: is a git-lfs pointer, not the model; download the file itself")

    def _net(self) -> cv2.FaceDetectorYN:
        if not hasattr(self._thread, "net"):
            cfg = self.cfg
            try:
                self._thread.net = cv2.FaceDetectorYN.create(
                    cfg.detector, "", (320, 320), cfg.score_threshold, cfg.nms_threshold, cfg.top_k
                )
            except cv2.error as error:
                reason = " ".join(str(error).split())[:120]
                raise DataError(f"{cfg.detector}: OpenCV cannot load it as a YuNet model ({reason})") from error
        return self._thread.net

    def __call__(self, image_rgb: np.ndarray) -> Face | None:
        """Return the largest face of an (H, W, 3) uint8 RGB image, None when there is none; may raise ImageError."""
        height, width = image_rgb.shape[:2]
        shrink = min(1.0, self.cfg.max_side_px / max(height, width))
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        image = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR)
        if shrink < 1:
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        border_px = round(self.cfg.border * max(size))
        if border_px:
            image = cv2.copyMakeBorder(image, border_px, border_px, border_px, border_px, cv2.BORDER_CONSTANT)
        net = self._net()
        net.setInputSize((image.shape[1], image.shape[0]))
        try:
            face = largest_face(net.detect(image)[1])
        except cv2.error as error:
            raise ImageError(f"the detector failed ({' '.join(str(error).split())[:80]})") from None
        if face is None:
            return None
        scale = np.array([width / size[0], height / size[1]])
        points = (face.points - border_px + 0.5) * scale - 0.5  # pixel centres at integers in both images
        return Face(points.astype(np.float32), face.area_px * float(scale.prod()), face.score)
