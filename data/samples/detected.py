"""The crops of photographs in which the faces are found first: what scoring and labelling look at."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from data.alignment import (
    CROP_SIZE_PX,
    TEMPLATE_112,
    AlignmentError,
    checked_landmarks,
    estimate_similarity,
    outside_share,
    warp,
)
from data.detectors.base import Face, FaceFinder
from data.images.decode import ImageError, decode_rgb
from data.samples.crops import CropBatch
from data.sources.base import ImageSource
from data.tables.names import Names
from utils.config.sections import CropInputConfig


class FoundFaces(NamedTuple):
    """The faces of images that an earlier run has looked at."""

    rows: np.ndarray
    """(F,) int64 image of each face, ascending."""
    faces: np.ndarray
    """(F, FACE_NUMBERS) float32, the largest face of an image first."""
    reasons: dict[int, str]
    """Image -> why it has no face."""

    def of(self, row: int) -> list[Face] | None:
        """Return the faces of an image, None where it has to be looked at; raises ImageError where it has none."""
        if row in self.reasons:
            raise ImageError(self.reasons[row])
        first, end = np.searchsorted(self.rows, [row, row + 1])
        return [Face.of(numbers) for numbers in self.faces[first:end]] or None


@dataclass(frozen=True, eq=False)
class DetectedCrops(Dataset):
    """The crop of each face that counts in each image; an image that gives none is a failure with a reason."""

    source: ImageSource
    cfg: CropInputConfig
    finder: FaceFinder
    known: FoundFaces | None = None
    """What an earlier run found in these very images."""
    places: np.ndarray | None = None
    """(N,) row in `known` of each image; None: its own row."""

    @property
    def names(self) -> Names:
        """Return the names of the images."""
        return self.source.names

    def take(self, rows: np.ndarray) -> "DetectedCrops":
        """Return the crops of the given rows, in that order."""
        places = rows if self.places is None else self.places[rows]
        return replace(self, source=self.source.take(rows), places=places)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, row: int) -> CropBatch:
        return self.__getitems__([row])

    def __getitems__(self, wanted: Sequence[int]) -> CropBatch:
        rows, failures, crops, found, outside = [], [], [], [], []
        for row in map(int, wanted):
            try:
                for face, crop, share in self._cut(row):
                    rows.append(row)
                    found.append(face.numbers())
                    crops.append(crop)
                    outside.append(share)
            except (ImageError, AlignmentError) as error:
                failures.append((row, str(error)))
        images = np.stack(crops) if crops else np.zeros((0, CROP_SIZE_PX, CROP_SIZE_PX, 3), np.uint8)
        faces = np.stack(found) if found else None
        return CropBatch(rows, torch.from_numpy(images), tuple(failures), (), (), tuple(outside), faces)

    def _cut(self, row: int) -> list[tuple[Face, np.ndarray, float]]:
        """Return each face with its crop and the share of it outside the image; faces that cannot be aligned are none.

        Raises the last one's error where all of them are such.
        """
        faces = self.known.of(row if self.places is None else int(self.places[row])) if self.known else None
        image = decode_rgb(self.source.read(row), exif=self.cfg.exif, max_pixels=self.cfg.max_pixels)
        cut, problem = [], None
        for face in self.finder(image) if faces is None else faces:
            try:
                matrix = estimate_similarity(checked_landmarks(face.points, image), TEMPLATE_112)
                cut.append((face, warp(image, matrix), outside_share(matrix, image.shape)))
            except AlignmentError as error:
                problem = error
        if not cut and problem is not None:
            raise problem
        return cut
