"""Small image folders and the indexes over them, for tests of what reads images."""

import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data.alignment import TEMPLATE_112, estimate_similarity
from data.index.build import FaceIndex
from data.samples.crops import FaceCrops
from data.sources.folder import FolderSource
from data.tables.landmarks import read_landmarks, write_landmarks_csv
from data.tables.names import Names

WRONG_ORDERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "left and right are exchanged": lambda points: points[:, [1, 0, 2, 4, 3]],
    "x and y are exchanged": lambda points: points[:, :, ::-1],
    "the eyes are exchanged": lambda points: points[:, [1, 0, 2, 3, 4]],
    "the mouth corners are exchanged": lambda points: points[:, [0, 1, 2, 4, 3]],
    "they are x1..x5,y1..y5": lambda points: points.transpose(0, 2, 1).reshape(-1, 5, 2),
    "they are y1..y5,x1..x5": lambda points: points[:, :, ::-1].transpose(0, 2, 1).reshape(-1, 5, 2),
    "the nose comes first": lambda points: points[:, [2, 0, 1, 3, 4]],
    "the nose comes last": lambda points: points[:, [0, 1, 3, 4, 2]],
    "the mouth comes before the eyes": lambda points: points[:, [3, 4, 2, 0, 1]],
    "they are fractions of the image, not pixels": lambda points: points / 200,
}
"""What a user may have done to landmarks (N, 5, 2), by the words it is named with."""

coordinates = st.floats(-50, 250, allow_nan=False, width=32)
face_landmarks = st.builds(
    lambda scale, angle, x, y, noise: (
        scale * TEMPLATE_112 @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        + (x, y)
        + noise
    ),
    st.floats(0.2, 8),
    st.floats(-3, 3),
    coordinates,
    coordinates,
    arrays(np.float64, (5, 2), elements=st.floats(-3, 3)),
)
"""Five landmarks as a similarity puts them, with up to 3 px of noise, (5, 2)."""


def spoil_landmarks(path: Path, looks: str) -> None:
    """Write a landmark file again, its points in a wrong order or unit."""
    keys, points, *_ = read_landmarks(path)
    write_landmarks_csv(path, keys, WRONG_ORDERS[looks](points))


def smooth_image(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return an image that survives JPEG."""
    coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def write_image(path: Path, image: np.ndarray) -> None:
    """Write RGB pixels by suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.ascontiguousarray(image[:, :, ::-1]))


def face_index(folder: Path, count: int, seed: int = 0, landmarks: bool = True) -> FaceIndex:
    """Write `count` PNG images of 100x90 (112x112 without landmarks) in 3 identity folders and index them."""
    rng = np.random.default_rng(seed)
    names = sorted(f"id_{i % 3}/{i:04d}.png" for i in range(count))
    for name in names:
        write_image(folder / name, smooth_image(rng, *((100, 90) if landmarks else (112, 112))))
    points = TEMPLATE_112 * 0.7 + (5, 8) + rng.normal(0, 1, (count, 5, 2))
    return FaceIndex(
        FolderSource(folder, Names.from_strings(names)),
        landmarks=points.astype(np.float32) if landmarks else None,
        labels=rng.uniform(size=count).astype(np.float32),
        identities=np.array([int(name[3]) for name in names], np.int32),
    )


class SlowCrops(FaceCrops):
    """Crops that take 50 ms a batch."""

    def __getitems__(self, wanted):
        """Wait, then cut."""
        time.sleep(0.05)
        return super().__getitems__(wanted)


def crop_by_hand(path, points):
    """Return the aligned crop of a file as cv2 makes it, RGB."""
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    return cv2.warpAffine(image, estimate_similarity(points, TEMPLATE_112), (112, 112), flags=cv2.INTER_LINEAR)
