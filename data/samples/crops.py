"""The crops of a place of images, each cut once and in order: what scoring, labelling and evaluation look at."""

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from data.alignment import (
    CROP_SIZE_PX,
    TEMPLATE_112,
    AlignmentError,
    checked_landmarks,
    estimate_similarity,
    outside_share,
    perturb_landmarks,
    warp,
)
from data.checks.inputs import CheckedInput, InputKeys
from data.images.decode import ImageError, decode_rgb
from data.sources.base import ImageSource
from data.sources.registry import open_source
from data.tables.join import join, way_together
from data.tables.landmarks import read_landmarks
from data.tables.names import Names
from utils.config.sections import CropInputConfig
from utils.errors import DataError
from utils.outside.reading import about
from utils.present import present
from utils.training.batches import Failures

logger = logging.getLogger(__name__)

CROPS = InputKeys("dataset.landmarks", "dataset.accept_unusual")
"""What the configurations of scoring and labelling call their inputs."""


class CropBatch(NamedTuple):
    """Crops to score: `images[i]` shows the image of row `rows[i]`."""

    rows: list[int]
    images: Tensor  # (B, 112, 112, 3) uint8
    failures: Failures
    not_square: tuple[int, ...]
    """Rows whose file was squeezed into a square."""
    resized: tuple[int, ...] = ()
    """Rows whose file was square, but of another size."""
    outside: tuple[float, ...] = ()
    """Share of each crop's pixels whose source lies outside its image."""
    faces: np.ndarray | None = None
    """(B, FACE_NUMBERS) float32, the face in each crop where faces were looked for; rows may then repeat."""


def name_draws(name: str, seed: int, *more: int) -> np.random.Generator:
    """Return the random numbers of one image: they depend on seed and name alone."""
    key = hashlib.blake2b(os.fsencode(name), digest_size=8).digest()
    return np.random.default_rng([seed, int.from_bytes(key, "little"), *more])


@dataclass(frozen=True)
class CropPerturbation:
    """Landmark noise of an evaluation: one draw per (seed, file name), whatever the list it stands in."""

    radius_px: float
    unit: str
    seed: int
    border: str = "black"
    """What a perturbed crop shows outside its image (data.alignment.BORDERS)."""
    view: int = 0
    """Number of the draw among several of one image, from 1; 0: there is one only."""
    then: "CropPerturbation | None" = None
    """Moves the moved landmarks once more."""

    def __call__(self, landmarks_52: np.ndarray, name: str) -> np.ndarray:
        """Return the landmarks of the named file, moved."""
        rng = name_draws(name, self.seed, *([self.view] if self.view else []))
        moved = perturb_landmarks(landmarks_52, self.radius_px, self.unit, rng)
        return moved if self.then is None else self.then(moved, name)


@dataclass(frozen=True, eq=False)
class FaceCrops(Dataset):
    """The crop of each image of a source; one that gives none is a failure with a reason, not an error.

    Of images that are aligned crops already, `landmarks` is None.
    """

    source: ImageSource
    cfg: CropInputConfig
    landmarks: np.ndarray | None = None
    """(N, 5, 2) float32 px, NaN where an image has none."""
    perturb: CropPerturbation | None = None

    def __post_init__(self):
        wanted = self.cfg.input == "landmarks"
        given = -1 if self.landmarks is None else len(self.landmarks)
        if given != (len(self.source) if wanted else -1):
            raise DataError(
                f"{self.source.location}: input {self.cfg.input!r} needs "
                + (f"the landmarks of all {len(self.source)} images" if wanted else "no landmarks")
            )

    @property
    def names(self) -> Names:
        """Return the names of the images."""
        return self.source.names

    def take(self, rows: np.ndarray) -> "FaceCrops":
        """Return the crops of the given rows, in that order."""
        landmarks = None if self.landmarks is None else self.landmarks[rows]
        return replace(self, source=self.source.take(rows), landmarks=landmarks)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, row: int) -> CropBatch:
        return self.__getitems__([row])

    def __getitems__(self, wanted: Sequence[int]) -> CropBatch:
        crops = np.empty((len(wanted), CROP_SIZE_PX, CROP_SIZE_PX, 3), np.uint8)
        rows, failures, not_square, resized, outside = [], [], [], [], []
        for row in map(int, wanted):
            try:
                (height, width), share = self._cut(row, crops[len(rows)])
                rows.append(row)
                outside.append(share)
                if height != width:
                    not_square.append(row)
                elif height != CROP_SIZE_PX:
                    resized.append(row)
            except (ImageError, AlignmentError) as error:
                failures.append((row, str(error)))
        images = torch.from_numpy(crops[: len(rows)])
        return CropBatch(rows, images, tuple(failures), tuple(not_square), tuple(resized), tuple(outside))

    def _cut(self, row: int, out: np.ndarray) -> tuple[tuple[int, int], float]:
        """Fill `out`; return the size of the crop before it was resized, and the share of it outside the image."""
        if self.landmarks is not None and not np.isfinite(self.landmarks[row]).all():
            raise AlignmentError("no landmarks" if self.cfg.detector is None else "no face found")
        image = decode_rgb(self.source.read(row), exif=self.cfg.exif, max_pixels=self.cfg.max_pixels)
        if self.landmarks is None:
            size = image.shape[:2]
            image = resize_crop(image)
            if self.perturb is None:
                out[:] = image
                return size, 0.0
            landmarks = TEMPLATE_112
        else:
            size = CROP_SIZE_PX, CROP_SIZE_PX
            landmarks = checked_landmarks(self.landmarks[row], image)
        border = "black"
        if self.perturb is not None:
            landmarks, border = self.perturb(landmarks, self.names[row]), self.perturb.border
        matrix = estimate_similarity(landmarks, TEMPLATE_112)
        warp(image, matrix, out=out, border=border)
        return size, outside_share(matrix, image.shape)


def resize_crop(image: np.ndarray) -> np.ndarray:
    """Bring a crop to 112x112 as the released code does: bilinear with antialiasing (Pillow)."""
    if image.shape[:2] == (CROP_SIZE_PX, CROP_SIZE_PX):
        return image
    return np.asarray(Image.fromarray(image).resize((CROP_SIZE_PX, CROP_SIZE_PX), Image.Resampling.BILINEAR))


def open_crops(cfg: CropInputConfig, source: ImageSource | None = None) -> FaceCrops:
    """Open the images, unless they are open as `source`, and join their landmark file.

    Raises DataError when there is no such place, or when images have no landmarks and `on_missing` is error.
    """
    source = open_source(cfg.loc, cfg.names) if source is None else source
    return FaceCrops(source, cfg, _landmarks(cfg, source.names) if cfg.input == "landmarks" else None)


def require_usual(crops: FaceCrops, keys: InputKeys = CROPS) -> None:
    """Warn of a noticeable share of images or landmarks that cannot be right; DataError where most are.

    Apart from `open_crops`, because the images of an evaluation are not always looked at.
    """
    for line in CheckedInput(crops.source, crops.landmarks, crops.cfg.landmarks, crops.cfg, keys).lines():
        logger.warning(line)


def _landmarks(cfg: CropInputConfig, names: Names) -> np.ndarray:
    path = present(cfg.landmarks)
    table = read_landmarks(path, cfg)
    with about(path):
        rows = join(names, table.names, cfg.key_root).rows
    missing = np.flatnonzero(rows < 0)
    if len(missing) == len(names) and len(names):
        raise DataError(
            f"{cfg.landmarks}: none of the {len(names)} images below {cfg.loc} has landmarks there, first "
            f"{names[0]!r}, file {_first(table.names)}; {way_together(names, table.names, cfg.key_root)}"
        )
    if len(missing) and cfg.on_missing == "error":
        raise DataError(
            f"{cfg.landmarks}: {len(missing)} of {len(names)} images have no landmarks, first {names[missing[0]]!r}; "
            "fix the prefix with dataset.key_root, or set dataset.on_missing: skip to list them in failures.csv"
        )
    points = np.full((len(names), 5, 2), np.nan, np.float32)
    points[rows >= 0] = table.points[rows[rows >= 0]]
    return points


def _first(names: Names) -> str:
    return f"begins with {names[0]!r}" if len(names) else "is empty"
