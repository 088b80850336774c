"""Detectors of the package uniface (MIT licence): RetinaFace, SCRFD and others; it fetches and checks their weights.

A name is a class (`SCRFD`, `RetinaFace`), with its default weights, or a weights file of uniface (`scrfd_500m`).
"""

import importlib
import threading
from enum import Enum
from typing import Any

import cv2
import numpy as np

from data.detectors.base import Face, FaceDetector, faces_of
from data.images.decode import ImageError
from utils.errors import DataError, first_line


class UniFaceDetector(FaceDetector):
    """Find faces with a detector of uniface."""

    def __init__(self, name: str):
        """Load its weights; raises DataError where there is no such detector, or its weights cannot be had."""
        self.name = name
        self._thread = threading.local()
        self.identity = {"detector": f"uniface:{name}", "version": _package().__version__}
        self._net()

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_thread"}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._thread = threading.local()

    def _net(self) -> Any:
        if not hasattr(self._thread, "net"):
            detector, weights = _find(self.name)
            try:
                self._thread.net = detector() if weights is None else detector(model_name=weights)
            except Exception as error:  # of the network connection, of the file system, of the runtime
                raise DataError(
                    f"uniface:{self.name}: cannot be loaded ({first_line(error)}); uniface fetches the weights at "
                    "their first use, which needs a network connection"
                ) from error
        return self._thread.net

    def __call__(self, image_rgb: np.ndarray) -> list[Face]:
        """Return the faces of an (H, W, 3) uint8 RGB image; may raise ImageError."""
        try:
            found = self._net().detect(cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR))
        except (cv2.error, RuntimeError, ValueError) as error:
            raise ImageError(f"the detector failed ({first_line(error)[:80]})") from None
        return faces_of(_numbers(face) for face in found)


def _numbers(face: Any) -> np.ndarray:
    box = np.asarray(face.bbox, np.float64)
    return np.concatenate([np.ravel(face.landmarks), box[:2], box[2:4] - box[:2], [face.confidence]])


def _package() -> Any:
    try:
        return importlib.import_module("uniface")
    except ImportError as error:
        raise DataError(
            f"uniface cannot be imported ({first_line(error)}); `pip install 'uniface[cpu]'` (Python 3.11 or newer)"
        ) from error


def _find(name: str) -> tuple[Any, Enum | None]:
    """Return the class of a detector and, where `name` says which, its weights."""
    _package()
    module, constants = (importlib.import_module(f"uniface.{part}") for part in ("detection", "constants"))
    classes = {one: getattr(module, one) for one in module.__all__ if one != "BaseDetector"}
    classes = {one: found for one, found in classes.items() if found.supports_alignment}
    weights = {
        str(member.value): (found, member)
        for one, found in classes.items()
        for member in getattr(constants, f"{one}Weights", ())
    }
    known = {one.lower(): (found, None) for one, found in classes.items()} | weights
    if name.lower() not in known:
        raise DataError(f"uniface:{name}: no detector of uniface with 5 landmarks; known: {', '.join(known)}")
    return known[name.lower()]
