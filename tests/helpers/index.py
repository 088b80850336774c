"""A folder of images of five names with their landmarks and labels, and the index that joins them."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.index.build import FaceIndex
from utils.config.train import DatasetConfig

NAMES = ["n1/a b.jpg", "n1/b.JPG", "n2/a.png", "n2/é,x.webp", "n10/c.jpeg"]
SORTED = sorted(NAMES, key=str.encode)
LABELS = {"n1/a b.jpg": 2.0, "n1/b.JPG": 4.0, "n2/a.png": 1.0, "n2/é,x.webp": 3.0, "n10/c.jpeg": 3.0}


def points(row: int) -> np.ndarray:
    """Return the landmarks of NAMES[row], (5, 2)."""
    return np.arange(10, dtype=np.float32).reshape(5, 2) + row


class Faces:
    """A folder of (empty) image files with its landmark and label files."""

    def __init__(self, folder: Path, names: Sequence[str] = NAMES):
        self.folder, self.root = folder, folder / "images"
        for name in names:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).touch()
        self.write()
        self.age()

    def write(
        self, prefix: str = "", landmarks: Sequence[str] = NAMES, labels: Sequence[str] = NAMES, suffix: bool = True
    ) -> None:
        """Write the rows of these names, each behind a prefix, with or without its suffix."""

        def key(name: str) -> str:
            return prefix + (name if suffix else os.path.splitext(name)[0])

        with open(self.folder / "landmarks.csv", "w") as stream:
            for name in landmarks:
                stream.write(f'"{key(name)}",{",".join(map(str, points(NAMES.index(name)).ravel()))}\n')
        with open(self.folder / "labels.csv", "w") as stream:
            stream.write("path,quality\n" + "".join(f'"{key(name)}",{LABELS[name]}\n' for name in labels))

    def age(self) -> None:
        """Make every folder look unchanged for a minute, as data sets are."""
        for folder, _, _ in os.walk(self.root):
            os.utime(folder, (time.time() - 60.5,) * 2)

    def config(self, **options) -> DatasetConfig:
        """Return the section of a training configuration that names the three."""
        defaults = {
            "image_location": str(self.root),
            "landms_location": str(self.folder / "landmarks.csv"),
            "quality_location": str(self.folder / "labels.csv"),
            "label_scaling": "none",
        }
        return DatasetConfig(**(defaults | options))


def check(index: FaceIndex, names: Sequence[str] = SORTED) -> None:
    """Hold an index to the names, and to the landmarks and labels that belong to them."""
    assert list(index.names) == names and len(index) == len(names)
    assert index.landmarks.dtype == np.float32 and index.labels.dtype == np.float32
    assert np.array_equal(index.landmarks, np.stack([points(NAMES.index(name)) for name in names]))
    assert index.labels.tolist() == [LABELS[name] for name in names]
