"""An image folder to run a network over: its names and, where it has them, its landmarks."""

import logging
from typing import NamedTuple

import numpy as np

from data.index.landmark_check import require_faces
from data.samples.datasets import CropPerturbation, FaceCrops
from data.sources.folder import list_compactly
from data.tables.join import join
from data.tables.landmarks import read_landmarks
from data.tables.names import Names
from utils.config.sections import CropInputConfig
from utils.errors import DataError

logger = logging.getLogger(__name__)


class ImageFolder(NamedTuple):
    """Images of a folder, sorted by name; nothing is decoded yet."""

    cfg: CropInputConfig
    names: Names
    """Relative POSIX paths."""
    landmarks: np.ndarray | None
    """(N, 5, 2) float32 px, NaN where an image has none; None with `input: aligned`."""
    other_files: int
    """Files that are no images by their suffix."""

    def crops(self, rows: np.ndarray | None = None, perturb: CropPerturbation | None = None) -> FaceCrops:
        """Return the crops of the named rows, in that order; of all without `rows`."""
        names, landmarks = self.names, self.landmarks
        if rows is not None:
            names, landmarks = names.take(rows), None if landmarks is None else landmarks[rows]
        return FaceCrops(self.cfg.loc, names, self.cfg, landmarks, perturb)


def open_folder(cfg: CropInputConfig) -> ImageFolder:
    """List the folder and join its landmark file.

    Raises DataError when the folder is missing, when images have no landmarks and `on_missing` is error, or when most
    landmarks are in a wrong order or unit.
    """
    listing = list_compactly(cfg.loc)
    landmarks = _landmarks(cfg, listing.names) if cfg.input == "landmarks" else None
    return ImageFolder(cfg, listing.names, landmarks, listing.other_files)


def _landmarks(cfg: CropInputConfig, names: Names) -> np.ndarray:
    table = read_landmarks(cfg.landmarks)
    rows = join(names, table.names, cfg.key_root).rows
    missing = np.flatnonzero(rows < 0)
    if len(missing) == len(names) and len(names):
        raise DataError(
            f"{cfg.landmarks}: none of the {len(names)} images below {cfg.loc} has landmarks there, first "
            f"{names[0]!r}, file {_first(table.names)}; fix the prefix with dataset.key_root"
        )
    if len(missing) and cfg.on_missing == "error":
        raise DataError(
            f"{cfg.landmarks}: {len(missing)} of {len(names)} images have no landmarks, first {names[missing[0]]!r}; "
            "fix the prefix with dataset.key_root, or set dataset.on_missing: skip to list them in failures.csv"
        )
    points = np.full((len(names), 5, 2), np.nan, np.float32)
    points[rows >= 0] = found = table.points[rows[rows >= 0]]
    for line in require_faces(cfg.landmarks, found):
        logger.warning(line)
    return points


def _first(names: Names) -> str:
    return f"begins with {names[0]!r}" if len(names) else "is empty"
