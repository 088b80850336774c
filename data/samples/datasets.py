"""Training samples: an encoded image becomes uint8 crops; batches of them are what travels to the device.

Every random draw is keyed by (seed, epoch, row), so a sample is the same for any number of workers and after any
resume.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from data.alignment import (
    CROP_SIZE_PX,
    TEMPLATE_112,
    AlignmentError,
    checked_landmarks,
    estimate_similarity,
    landmarks_of_crop,
    warp,
    warp_both,
)
from data.images.decode import ImageError, decode_rgb
from data.index.build import FaceIndex
from data.misalignment import Misalignment, draw_misalignment
from utils.config.sections import DecodeConfig
from utils.config.train_aikd import StudentCropConfig
from utils.errors import DataError
from utils.present import present
from utils.training.batches import DistillationBatch, RecognitionBatch, TrainingBatch


class IndexedFaces(Dataset):
    """Read crops of an index; rows are asked for as (epoch, row), whole batches at a time."""

    def __init__(self, index: FaceIndex, decode: DecodeConfig):
        self.index = index
        self.exif = decode.exif
        self.max_pixels = decode.max_pixels
        self.skip_broken = getattr(decode, "on_missing", "error") == "skip"

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: tuple[int, int]):
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> TrainingBatch:
        raise NotImplementedError

    def _read(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return image and landmarks of a row; without a landmark file the crop is aligned already."""
        image = decode_rgb(self.index.source.read(row), exif=self.exif, max_pixels=self.max_pixels)
        landmarks = self.index.landmarks
        return image, landmarks_of_crop(image) if landmarks is None else checked_landmarks(landmarks[row], image)

    def _fail(self, row: int, error: Exception) -> tuple[int, str]:
        if not self.skip_broken:
            raise DataError(
                f"{self.index.source.describe(row)}: {error}; repair it under its name or set dataset.on_missing=skip, "
                "then go on with base.resume=auto; with the image removed it is a new run"
            )
        return row, str(error)


class DistillationDataset(IndexedFaces):
    """Pairs of crops of one face: as aligned by its landmarks, and by the same landmarks perturbed."""

    def __init__(self, index: FaceIndex, seed: int, perturbation: StudentCropConfig | None, decode: DecodeConfig):
        """Use `perturbation=None` to make both crops the aligned one (dataset.misalign: 0)."""
        super().__init__(index, decode)
        if index.labels is None:
            raise DataError(f"{index.source.location}: training needs quality labels (dataset.quality_location).")
        self.seed = seed
        self.perturbation = perturbation

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> DistillationBatch:
        crops = np.empty((2, len(keys), CROP_SIZE_PX, CROP_SIZE_PX, 3), np.uint8)
        rows, failures = [], []
        # drawn all at once: between two images the processor's caches hold other things
        drawn = [self._draw(int(epoch), int(row)) for epoch, row in keys]
        for (_, row), misalignment in zip(keys, drawn, strict=True):
            try:
                self._cut(int(row), misalignment, crops[:, len(rows)])
                rows.append(int(row))
            except (ImageError, AlignmentError) as error:
                failures.append(self._fail(int(row), error))
        aligned, misaligned = torch.from_numpy(crops[:, : len(rows)])
        label = torch.from_numpy(np.asarray(present(self.index.labels)[rows], np.float32))
        return DistillationBatch(aligned, misaligned, label, torch.tensor(rows, dtype=torch.int64), tuple(failures))

    def _cut(self, row: int, misalignment: Misalignment | None, out: np.ndarray) -> None:
        image, landmarks = self._read(row)
        matrix = estimate_similarity(landmarks, TEMPLATE_112)
        if misalignment is None:
            out[1] = warp(image, matrix, out=out[0])
            return
        border = present(self.perturbation).border
        warp_both(image, (matrix, misalignment.matrix(landmarks)), out, border)

    def _draw(self, epoch: int, row: int) -> Misalignment | None:
        if self.perturbation is None:
            return None
        return draw_misalignment(self.perturbation, np.random.default_rng([self.seed, epoch, row]))


class IdentityDataset(IndexedFaces):
    """Aligned crops with identities, for recognition training; `flip` mirrors a crop with probability one half."""

    def __init__(self, index: FaceIndex, seed: int, flip: bool, decode: DecodeConfig):
        super().__init__(index, decode)
        if index.identities is None:
            raise DataError(f"{index.source.location}: recognition training needs identities (one folder each).")
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
        identity = torch.from_numpy(np.asarray(present(self.index.identities)[rows], np.int64))
        return RecognitionBatch(images, identity, torch.tensor(rows, dtype=torch.int64), tuple(failures))
