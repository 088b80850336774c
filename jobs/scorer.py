"""Scoring from Python: images in memory or in files, without a configuration file and without an output folder."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from data.alignment import CROP_SIZE_PX, AlignmentError, align, checked_landmarks
from data.checks.inputs import CheckedInput, InputKeys
from data.images.decode import ImageError, decode_rgb, read_size
from data.samples.crops import resize_crop
from model.frozen.describe import Described, named_model
from model.frozen.load import NetworkLoader
from model.frozen.network import FrozenNetwork
from model.registry import NetworkBuilder
from utils.allowed import AllowedModules
from utils.config.inference import TrainedModel
from utils.config.loading import validate
from utils.config.sections import ImageInputConfig
from utils.errors import DataError
from utils.training.precision import pick_device

logger = logging.getLogger("scorer")

_AT_ONCE = 64
_FEW = 20
"""Of fewer faces odd landmarks are worth a warning only: one turned head in a stream of pictures stops nothing."""
_KEYS = InputKeys("score(images, landmarks)", "accept_unusual")

Image = str | os.PathLike | np.ndarray
"""A file, or pixels (H, W, 3) uint8 RGB."""


class Qualities(NamedTuple):
    """What a list of images got."""

    quality: np.ndarray
    """(N,) float32, higher = better; NaN where an image has none."""
    failures: dict[int, str]
    """Place in the list -> why that image has none."""


@dataclass(frozen=True)
class Scorer:
    """Score images with a trained quality model."""

    network: FrozenNetwork

    def score(
        self,
        images: Sequence[Image],
        landmarks: Sequence | np.ndarray | None = None,
        accept_unusual: bool = False,
    ) -> Qualities:
        """Return the quality of each image; one that cannot be read is a failure with a reason, as in inference.py.

        Without landmarks the images are crops that are aligned already. landmarks: (N, 5, 2) pixels of the images as
        they are shown, (x, y): eye on the image's left, eye on its right, nose, mouth left, mouth right.
        Inputs are looked at first, as docs/checks.md says: DataError where most of them cannot be what they are taken
        for, unless `accept_unusual`; a warning for a smaller share, and for landmarks of fewer than 20 images.
        """
        if isinstance(images, str | os.PathLike):
            raise DataError(f"{images}: expected a list of images, found one; put it into a list")
        points = _points(landmarks, len(images))
        for line in _lines(_Given(images), points, accept_unusual):
            logger.warning(line)
        quality, failures = np.full(len(images), np.nan, np.float32), {}
        for start in range(0, len(images), _AT_ONCE):
            places, crops = [], []
            for place in range(start, min(start + _AT_ONCE, len(images))):
                try:
                    crops.append(_crop(images[place], None if points is None else points[place]))
                    places.append(place)
                except (ImageError, AlignmentError) as error:
                    failures[place] = str(error)
            if crops:
                quality[places] = self.network.qualities(torch.from_numpy(np.stack(crops)))
        for place in np.flatnonzero(~np.isfinite(quality)).tolist():
            failures.setdefault(place, f"the network returned {quality[place]}")
            quality[place] = np.nan
        return Qualities(quality, dict(sorted(failures.items())))


def load_scorer(
    weight: str | Path,
    config: str | Path | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    allow: Sequence[str] = (),
    **keys: Any,
) -> Scorer:
    """Load a quality model as inference.py does: .pth with its model_config.yaml, .safetensors or .onnx without.

    allow: packages that `config` may name networks of. keys: further ones of section `model` in
    inference_config.yaml, such as preset. Raises errors of utils.errors with one sentence.
    """
    named: Mapping[str, Any] = {"weight": str(weight), "config": None if config is None else str(config), **keys}
    cfg = validate(TrainedModel, named, "load_scorer")
    model = named_model(cfg.config, cfg.weight, cfg.weight, cfg.preset)
    loader = NetworkLoader(NetworkBuilder(AllowedModules(tuple(allow))), pick_device(device, "device"))
    return Scorer(loader.load(Described(cfg.weight, cfg, model, precision).scorer()))


class _Given:
    """The images of a list, as checks look at them."""

    location = "images"

    def __init__(self, images: Sequence[Image]):
        self._images = images
        self.names = [f"image {at}" if isinstance(image, np.ndarray) else str(image) for at, image in enumerate(images)]

    def __len__(self) -> int:
        return len(self._images)

    def size(self, row: int, exif: bool) -> tuple[int, int]:
        """Return (width, height) of an image."""
        image = self._images[row]
        if not isinstance(image, np.ndarray):
            return read_size(_bytes(Path(image)), exif=exif)
        _require_pixels(image)
        return image.shape[1], image.shape[0]


def _lines(images: _Given, points: np.ndarray | None, accept_unusual: bool) -> list[str]:
    """Return a line on each share of images that cannot be right; DataError where most cannot, as crops or as faces."""
    checked = CheckedInput(images, points, "landmarks", ImageInputConfig(accept_unusual=accept_unusual), _KEYS)
    try:
        return checked.lines()
    except DataError as error:
        if points is None or len(points) >= _FEW:
            raise
        return [str(error)]


def _points(landmarks: Sequence | np.ndarray | None, count: int) -> np.ndarray | None:
    if landmarks is None:
        return None
    points = np.asarray(landmarks, np.float64)
    if points.shape != (count, 5, 2):
        raise DataError(f"landmarks: expected shape ({count}, 5, 2), five points an image, found {points.shape}")
    return points


def _crop(image: Image, landmarks_52: np.ndarray | None) -> np.ndarray:
    """Return the aligned crop (112, 112, 3) uint8 of an image."""
    pixels = image if isinstance(image, np.ndarray) else decode_rgb(_bytes(Path(image)))
    _require_pixels(pixels)
    if landmarks_52 is None:
        return resize_crop(pixels)
    if not np.isfinite(landmarks_52).all():
        raise AlignmentError("no landmarks")
    return align(pixels, checked_landmarks(landmarks_52, pixels), CROP_SIZE_PX)


def _require_pixels(pixels: np.ndarray) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ImageError(f"pixels of shape {pixels.shape} and type {pixels.dtype}; expected (H, W, 3) uint8 RGB")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from None
