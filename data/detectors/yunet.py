"""Five landmarks per face from OpenCV's FaceDetectorYN and a YuNet file.

The files are those of OpenCV's model zoo (MIT licence): face_detection_yunet_2026may.onnx was made for OpenCV 5,
face_detection_yunet_2023mar.onnx for OpenCV 4.
Convention of a detector row: x, y, w, h of the box, then the subject's right eye, left eye, nose tip, right
mouth corner, left mouth corner as x, y each, then the score. The subject's right is the image's left, so
the points are in template order as they stand.
"""

import threading
from pathlib import Path

import cv2
import numpy as np

from data.detectors.base import FACE_NUMBERS, Face, FaceDetector, faces_of
from data.images.decode import ImageError
from data.images.silence import native_silence
from utils.config.sections import YuNetOptions
from utils.errors import DataError
from utils.files import sha256_file

FILES = "face_detection_yunet_2026may.onnx (OpenCV 5) or face_detection_yunet_2023mar.onnx (OpenCV 4)"
_TRIAL_PX = 64
"""Side of a black image that tells, before any other, whether the file runs: OpenCV loads networks of any kind."""
_LFS_POINTER = b"version https://git-lfs"


class YuNetDetector(FaceDetector):
    """Find faces with a YuNet file."""

    def __init__(self, path: str, options: YuNetOptions):
        """Load the file; raises DataError where it is none."""
        self.path, self.options = path, options
        self._check_file(Path(path))
        self._thread = threading.local()
        try:
            self._detect(np.zeros((_TRIAL_PX, _TRIAL_PX, 3), np.uint8))
        except ImageError as error:
            raise DataError(
                f"{path}: is no YuNet file that OpenCV {cv2.__version__} runs, {error}; use {FILES}"
            ) from None
        self.identity = {"detector_sha256": sha256_file(path), "options": options.model_dump(mode="json")}

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_thread"}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._thread = threading.local()

    @staticmethod
    def _check_file(path: Path) -> None:
        try:
            with open(path, "rb") as stream:
                head = stream.read(len(_LFS_POINTER))
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read ({error.strerror}); download {FILES} and name it in detector"
            ) from error
        if head == _LFS_POINTER:
            raise DataError(f"{path}: is a git-lfs pointer, not the model; download the file itself")

    def _net(self) -> cv2.FaceDetectorYN:
        if not hasattr(self._thread, "net"):
            chosen = self.options
            try:
                with native_silence:  # OpenCV 5 warns of each net that it ignores targets, which none asks for
                    self._thread.net = cv2.FaceDetectorYN.create(
                        self.path, "", (320, 320), chosen.score_threshold, chosen.nms_threshold, chosen.top_k
                    )
            except cv2.error as error:
                reason = " ".join(str(error).split())[:120]
                raise DataError(f"{self.path}: OpenCV cannot load it as a YuNet model ({reason})") from error
        return self._thread.net

    def _detect(self, image_bgr: np.ndarray) -> np.ndarray | None:
        net = self._net()
        net.setInputSize((image_bgr.shape[1], image_bgr.shape[0]))
        try:
            return net.detect(image_bgr)[1]
        except cv2.error as error:
            raise ImageError(f"the detector failed ({' '.join(str(error).split())[:80]})") from None

    def __call__(self, image_rgb: np.ndarray) -> list[Face]:
        """Return the faces of an (H, W, 3) uint8 RGB image; may raise ImageError."""
        height, width = image_rgb.shape[:2]
        shrink = min(1.0, self.options.max_side_px / max(height, width))
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        image = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR)
        if shrink < 1:
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        border_px = round(self.options.border * max(size))
        if border_px:
            image = cv2.copyMakeBorder(image, border_px, border_px, border_px, border_px, cv2.BORDER_CONSTANT)
        found = self._detect(image)
        if found is None or not len(found):
            return []
        return faces_of(face_rows(found, border_px, (width / size[0], height / size[1])))


def face_rows(rows_F15: np.ndarray, border_px: int = 0, scale: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """Return detector rows (F, 15) as the numbers of faces, in pixels of the image before it was shrunk and bordered.

    scale: width and height of that image over those of the shrunk one.
    """
    rows = np.asarray(rows_F15, np.float64)
    if rows.ndim != 2 or rows.shape[1] != FACE_NUMBERS:
        raise ValueError(f"expected detector rows of {FACE_NUMBERS} numbers, found an array of shape {rows.shape}")
    # pixel centres at integers in both images; a box is given by its edges
    points = (rows[:, 4:14].reshape(-1, 5, 2) - border_px + 0.5) * scale - 0.5
    corner, sides = (rows[:, :2] - border_px) * scale, rows[:, 2:4] * scale
    return np.concatenate([points.reshape(-1, 10), corner, sides, rows[:, 14:]], axis=1)
