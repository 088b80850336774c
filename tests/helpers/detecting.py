"""Photographs with known faces and a detector that finds them, for dataset.input: detect."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.detectors.yunet import YuNetDetector
from tests.helpers.detector import face_image, write_bright_cell_detector
from tests.helpers.inference import write_setup

CELLS = {"a/1.png": [(4, 3)], "a/2.png": [(2, 4), (6, 8)], "b/dark.png": [], 'b/é, "x"\n.png': [(5, 5)]}
ALONE = 'b/é, "x"\n.png'


def picture(cells: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return a photograph of the detector's faces on a ground that its threshold passes over."""
    ground = np.arange(96 * 104 * 3, dtype=np.uint32).reshape(96, 104, 3) * 7919 % 61
    return np.maximum(face_image(96, 104, *cells), ground.astype(np.uint8))


def write_detect_setup(folder: Path) -> Path:
    """Write the setup of a run over photographs with no, one and two faces, and a broken one; return its folder."""
    write_setup(folder)
    for name, cells in CELLS.items():
        path = folder / "faces" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", picture(cells)[:, :, ::-1])[1].tobytes())
    (folder / "faces/c.jpg").write_bytes(b"no image")
    write_bright_cell_detector(folder / "bright.onnx")
    return folder


def wanted(folder: Path, **more) -> list[str]:
    """Return the overrides that find the faces of the setup."""
    settings = {"input": "detect", "detector": f"yunet:{folder}/bright.onnx", "yunet.score_threshold": 0.9, **more}
    return [f"dataset.{key}={value}" for key, value in settings.items()]


def count_detections(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the list that gains an entry for each image the detector sees."""
    seen, real = [], YuNetDetector.__call__
    monkeypatch.setattr(YuNetDetector, "__call__", lambda self, image: seen.append(1) or real(self, image))
    return seen
