"""Scoring from Python: images in memory or in files, without a configuration file and without an output folder."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from data.alignment import CROP_SIZE_PX, AlignmentError, align, checked_landmarks
from data.images.decode import ImageError, decode_rgb
from data.samples.crops import resize_crop
from model.frozen.describe import Described, named_model
from model.frozen.load import NetworkLoader
from model.frozen.network import FrozenNetwork
from model.registry import NetworkBuilder
from utils.allowed import AllowedModules
from utils.config.inference import TrainedModel
from utils.config.loading import validate
from utils.errors import DataError
from utils.training.precision import pick_device

_AT_ONCE = 64

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

    def score(self, images: Sequence[Image], landmarks: Sequence | np.ndarray | None = None) -> Qualities:
        """Return the quality of each image; one that cannot be read is a failure with a reason, as in inference.py.

        Without landmarks the images are crops that are aligned already. landmarks: (N, 5, 2) pixels of the images as
        they are shown, (x, y): eye on the image's left, eye on its right, nose, mouth left, mouth right.
        """
        if isinstance(images, str | os.PathLike):
            raise DataError(f"{images}: expected a list of images, found one; put it into a list")
        points = _points(landmarks, len(images))
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


def _points(landmarks: Sequence | np.ndarray | None, count: int) -> np.ndarray | None:
    if landmarks is None:
        return None
    points = np.asarray(landmarks, np.float64)
    if points.shape != (count, 5, 2):
        raise DataError(f"landmarks: expected shape ({count}, 5, 2), five points an image, found {points.shape}")
    return points


def _crop(image: Image, landmarks_52: np.ndarray | None) -> np.ndarray:
    """Return the aligned crop (112, 112, 3) uint8 of an image."""
    pixels = image if isinstance(image, np.ndarray) else _read(Path(image))
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ImageError(f"pixels of shape {pixels.shape} and type {pixels.dtype}; expected (H, W, 3) uint8 RGB")
    if landmarks_52 is None:
        return resize_crop(pixels)
    if not np.isfinite(landmarks_52).all():
        raise AlignmentError("no landmarks")
    return align(pixels, checked_landmarks(landmarks_52, pixels), CROP_SIZE_PX)


def _read(path: Path) -> np.ndarray:
    try:
        return decode_rgb(path.read_bytes())
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from None
