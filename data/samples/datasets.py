"""Samples: a file becomes uint8 crops; batches of them are what travels to the device.

Every random draw is keyed by what it belongs to (seed, epoch and row, or seed and file name), so a sample is the
same for any number of workers and after any resume.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from data.alignment import (
    CROP_SIZE_PX,
    MIN_SPAN_PX,
    TEMPLATE_112,
    AlignmentError,
    estimate_similarity,
    jitter_landmarks,
    move_landmarks,
    perturb_landmarks,
    template_landmarks,
    warp,
    warp_both,
)
from data.images.decode import ImageError, decode_rgb
from utils.config.sections import CropInputConfig, DecodeConfig, PerturbationConfig
from utils.errors import DataError

if TYPE_CHECKING:
    from data.index.build import FaceIndex

Failures = tuple[tuple[int, str], ...]
"""(row, reason) of each image that gave no crop."""


class DistillationBatch(NamedTuple):
    """Aligned and misaligned crops of the same faces; B may be smaller than asked for by `len(failures)`."""

    aligned: Tensor  # (B, 112, 112, 3) uint8
    misaligned: Tensor  # (B, 112, 112, 3) uint8
    label: Tensor  # (B,) float32
    row: Tensor  # (B,) int64, rows of the index
    failures: Failures
    reference: Tensor | None = None  # (B, D), the teacher's embeddings where a cache has them


class RecognitionBatch(NamedTuple):
    """Aligned crops and the identity each belongs to."""

    images: Tensor  # (B, 112, 112, 3) uint8
    identity: Tensor  # (B,) int64
    row: Tensor  # (B,) int64
    failures: Failures


class CropBatch(NamedTuple):
    """Crops to score: `images[i]` shows the image of row `rows[i]`."""

    rows: list[int]
    images: Tensor  # (B, 112, 112, 3) uint8
    failures: Failures
    not_square: tuple[int, ...]
    """Rows whose file was squeezed into a square."""
    resized: tuple[int, ...] = ()
    """Rows whose file was square, but of another size."""


class _IndexedFaces(Dataset):
    """Read crops of an index; rows are asked for as (epoch, row), whole batches at a time."""

    def __init__(self, index: "FaceIndex", decode: DecodeConfig):
        self.index = index
        self.exif = decode.exif
        self.max_pixels = decode.max_pixels
        self.skip_broken = getattr(decode, "on_missing", "error") == "skip"

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: tuple[int, int]):
        return self.__getitems__([key])

    def _read(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return image and landmarks of a row; without a landmark file the crop is aligned already."""
        image = decode_rgb(self.index.path(row), exif=self.exif, max_pixels=self.max_pixels)
        landmarks = self.index.landmarks
        return image, landmarks_of_crop(image) if landmarks is None else checked(landmarks[row], image)

    def _fail(self, row: int, error: Exception) -> tuple[int, str]:
        if not self.skip_broken:
            raise DataError(
                f"{self.index.path(row)}: {error}; repair it under its name or set dataset.on_missing=skip, then go on "
                "with base.resume=auto; with the image removed it is a new run"
            )
        return row, str(error)


class DistillationDataset(_IndexedFaces):
    """Pairs of crops of one face: as aligned by its landmarks, and by the same landmarks perturbed."""

    def __init__(self, index: "FaceIndex", seed: int, perturbation: PerturbationConfig | None, decode: DecodeConfig):
        """Use `perturbation=None` to make both crops the aligned one (dataset.misalign: 0)."""
        super().__init__(index, decode)
        if index.labels is None:
            raise DataError(f"{index.root}: training needs quality labels (dataset.quality_location).")
        self.seed = seed
        self.perturbation = perturbation

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> DistillationBatch:
        crops = np.empty((2, len(keys), CROP_SIZE_PX, CROP_SIZE_PX, 3), np.uint8)
        rows, failures = [], []
        # drawn all at once: between two images the processor's caches hold other things
        offsets = [self._offsets(int(epoch), int(row)) for epoch, row in keys]
        for (_, row), offsets_52 in zip(keys, offsets, strict=True):
            try:
                self._cut(int(row), offsets_52, crops[:, len(rows)])
                rows.append(int(row))
            except (ImageError, AlignmentError) as error:
                failures.append(self._fail(int(row), error))
        aligned, misaligned = torch.from_numpy(crops[:, : len(rows)])
        label = torch.from_numpy(np.asarray(self.index.labels[rows], np.float32))
        return DistillationBatch(aligned, misaligned, label, torch.tensor(rows, dtype=torch.int64), tuple(failures))

    def _cut(self, row: int, offsets_52: np.ndarray | None, out: np.ndarray) -> None:
        image, landmarks = self._read(row)
        matrix = estimate_similarity(landmarks, TEMPLATE_112)
        if offsets_52 is None:
            out[1] = warp(image, matrix, out=out[0])
            return
        moved = move_landmarks(landmarks, offsets_52, self.perturbation.unit)
        warp_both(image, (matrix, estimate_similarity(moved, TEMPLATE_112)), out)

    def _offsets(self, epoch: int, row: int) -> np.ndarray | None:
        if self.perturbation is None:
            return None
        rng = np.random.default_rng([self.seed, epoch, row])
        return jitter_landmarks(np.zeros((5, 2)), self.perturbation.radius_px, rng)


class IdentityDataset(_IndexedFaces):
    """Aligned crops with identities, for recognition training; `flip` mirrors a crop with probability one half."""

    def __init__(self, index: "FaceIndex", seed: int, flip: bool, decode: DecodeConfig):
        super().__init__(index, decode)
        if index.identities is None:
            raise DataError(f"{index.root}: recognition training needs identities (one folder each).")
        self.seed = seed
        self.flip = flip

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> RecognitionBatch:
        crops = np.empty((len(keys), CROP_SIZE_PX, CROP_SIZE_PX, 3), np.uint8)
        rows, failures = [], []
        for epoch, row in keys:
            try:
                image, landmarks = self._read(int(row))
                crop = warp(image, estimate_similarity(landmarks, TEMPLATE_112), out=crops[len(rows)])
            except (ImageError, AlignmentError) as error:
                failures.append(self._fail(int(row), error))
                continue
            if self.flip and np.random.default_rng([self.seed, int(epoch), int(row)]).random() < 0.5:
                crop[:] = crop[:, ::-1].copy()
            rows.append(int(row))
        images = torch.from_numpy(crops[: len(rows)])
        identity = torch.from_numpy(np.asarray(self.index.identities[rows], np.int64))
        return RecognitionBatch(images, identity, torch.tensor(rows, dtype=torch.int64), tuple(failures))


@dataclass(frozen=True)
class CropPerturbation:
    """Landmark noise of an evaluation: one draw per (seed, file name), whatever the list it stands in."""

    radius_px: float
    unit: str
    seed: int

    def __call__(self, landmarks_52: np.ndarray, name: str) -> np.ndarray:
        """Return the landmarks of the named file, moved."""
        key = hashlib.blake2b(os.fsencode(name), digest_size=8).digest()
        rng = np.random.default_rng([self.seed, int.from_bytes(key, "little")])
        return perturb_landmarks(landmarks_52, self.radius_px, self.unit, rng)


class FaceCrops(Dataset):
    """The crop of each named file, for scoring; a file that gives none is a failure with a reason, not an error."""

    def __init__(
        self,
        root: str | os.PathLike,
        names: Sequence[str],
        input_cfg: CropInputConfig,
        landmarks: np.ndarray | None = None,
        perturb: CropPerturbation | None = None,
    ):
        """Take `landmarks` (N, 5, 2), one per name, NaN where unknown; needed with `input: landmarks`."""
        if input_cfg.input == "landmarks" and (landmarks is None or len(landmarks) != len(names)):
            raise DataError(f"{root}: input 'landmarks' needs the landmarks of all {len(names)} images.")
        self.root = os.fspath(root)
        self.names = names
        self.landmarks = landmarks if input_cfg.input == "landmarks" else None
        self.perturb = perturb
        self.exif = input_cfg.exif
        self.max_pixels = input_cfg.max_pixels

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> CropBatch:
        return self.__getitems__([row])

    def __getitems__(self, wanted: Sequence[int]) -> CropBatch:
        crops = np.empty((len(wanted), CROP_SIZE_PX, CROP_SIZE_PX, 3), np.uint8)
        rows, failures, not_square, resized = [], [], [], []
        for row in map(int, wanted):
            try:
                height, width = self._cut(row, crops[len(rows)])
                rows.append(row)
                if height != width:
                    not_square.append(row)
                elif height != CROP_SIZE_PX:
                    resized.append(row)
            except (ImageError, AlignmentError) as error:
                failures.append((row, str(error)))
        images = torch.from_numpy(crops[: len(rows)])
        return CropBatch(rows, images, tuple(failures), tuple(not_square), tuple(resized))

    def _cut(self, row: int, out: np.ndarray) -> tuple[int, int]:
        """Fill `out`; return the height and width of the crop before it was resized."""
        name = self.names[row]
        if self.landmarks is not None and not np.isfinite(self.landmarks[row]).all():
            raise AlignmentError("no landmarks")
        image = decode_rgb(os.path.join(self.root, name), exif=self.exif, max_pixels=self.max_pixels)
        if self.landmarks is None:
            size = image.shape[:2]
            image = resize_crop(image)
            if self.perturb is None:
                out[:] = image
                return size
            landmarks = TEMPLATE_112
        else:
            size = CROP_SIZE_PX, CROP_SIZE_PX
            landmarks = checked(self.landmarks[row], image)
        if self.perturb is not None:
            landmarks = self.perturb(landmarks, name)
        warp(image, estimate_similarity(landmarks, TEMPLATE_112), out=out)
        return size


def resize_crop(image: np.ndarray) -> np.ndarray:
    """Bring a crop to 112x112 as the released code does: bilinear with antialiasing (Pillow)."""
    if image.shape[:2] == (CROP_SIZE_PX, CROP_SIZE_PX):
        return image
    return np.asarray(Image.fromarray(image).resize((CROP_SIZE_PX, CROP_SIZE_PX), Image.Resampling.BILINEAR))


def landmarks_of_crop(image: np.ndarray) -> np.ndarray:
    """Return the landmarks of a crop that is aligned already: the template at its size."""
    height, width = image.shape[:2]
    if height != width:
        raise AlignmentError(f"an aligned crop is square, this one has {width}x{height} pixels")
    return template_landmarks(width)


def checked(landmarks_52: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Return the landmarks as float64 if they and the image have a rectangle in common and they are pixels."""
    landmarks = np.array(landmarks_52, np.float64)
    x, y = landmarks.T.tolist()
    if 0 < max(max(x) - min(x), max(y) - min(y)) < MIN_SPAN_PX:
        raise AlignmentError(f"landmarks span less than {MIN_SPAN_PX:g} px; are they fractions of the image?")
    height, width = image.shape[:2]
    if max(x) < 0 or max(y) < 0 or min(x) > width - 1 or min(y) > height - 1:
        raise AlignmentError(f"all landmarks lie outside the {width}x{height} image")
    return landmarks
