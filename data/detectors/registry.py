"""Which detector a configuration means: the only place that knows them all."""

import inspect
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from data.detectors.base import FACE_NUMBERS, Face, FaceDetector, FaceFinder, faces_of
from data.detectors.uniface import UniFaceDetector
from data.detectors.yunet import YuNetDetector
from data.images.decode import ImageError
from utils.allowed import AllowedModules
from utils.config.prepare import DetectorConfig
from utils.config.sections import DetectionConfig, YuNetOptions
from utils.errors import ConfigError, first_line


class CallableDetector(FaceDetector):
    """Find faces with a function of the user's, or an object of a class of the user's made without arguments.

    It is given an (H, W, 3) uint8 RGB image and returns, for each face, (box, points, score): x, y, width and height,
    five points in template order (5, 2), and a number in [0, 1]; all in pixels of that image.
    """

    def __init__(self, name: str, found: Any):
        """Take what `--allow-module` lets the configuration name."""
        self.name = name
        self.find = cast(Callable[..., Any], found() if inspect.isclass(found) else found)
        self.identity = {"detector": name}

    def __call__(self, image_rgb: np.ndarray) -> list[Face]:
        """Return the faces; whatever the user's code raises is the image's reason."""
        try:
            return faces_of([_numbers(*face) for face in self.find(image_rgb)])
        except Exception as error:
            raise ImageError(f"{self.name} failed ({first_line(error)[:100]})") from error


def _numbers(box: Any, points: Any, score: Any) -> np.ndarray:
    numbers = np.array([*np.ravel(points), *np.ravel(box), float(score)], np.float64)
    if len(numbers) != FACE_NUMBERS:
        raise ValueError(f"expected a box of 4 numbers and 5 points, found {len(numbers) - 1} numbers in all")
    return numbers


def open_finder(cfg: DetectionConfig | DetectorConfig, allowed: AllowedModules, place: str = "dataset") -> FaceFinder:
    """Load the detector that `cfg` names; DataError or ConfigError, naming the key below `place`, where it is none."""
    options = cfg if isinstance(cfg, DetectorConfig) else cfg.yunet
    options = YuNetOptions(**options.model_dump(include=set(YuNetOptions.model_fields)))
    return FaceFinder(_open(cfg.detector or "", options, allowed, f"{place}.detector"), cfg.faces, cfg.min_face_px)


def _open(name: str, options: YuNetOptions, allowed: AllowedModules, place: str) -> FaceDetector:
    kind, colon, rest = name.partition(":")
    if kind == "uniface" and colon:
        return UniFaceDetector(rest)
    if kind == "yunet" and colon:
        return YuNetDetector(rest, options)
    if name.lower().endswith(".onnx"):
        return YuNetDetector(name, options)
    if name in allowed and "." in name:
        return CallableDetector(name, allowed.load(name, place))
    raise ConfigError(
        f"{place}: {name!r} is no detector; expected yunet:FILE, uniface:NAME, or a function, whose package "
        "--allow-module names"
    )
