"""A small population on disk, and stand-in networks whose numbers are known, for tests of the evaluation."""

from pathlib import Path

import numpy as np
import torch

from data.alignment import TEMPLATE_112
from data.landmarks import write_landmarks_csv
from evaluation.crop_pass import CropPass
from evaluation.face_set import FaceSet, open_faces
from tests.helpers_faces import smooth_image, write_image
from utils.config.evaluate import PairsConfig
from utils.config.sections import LoaderParams

SIZE = (90, 80)
"""Height and width of the images, px."""


def write_population(folder: Path, identities: int = 6, images: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    """Write ID/N.png and landmarks.csv; images of one identity are alike. Return the landmarks by name."""
    rng = np.random.default_rng(seed)
    points = {}
    for i in range(identities):
        base = smooth_image(rng, *SIZE).astype(np.int16)
        for n in range(images):
            name = f"id{i}/{n}.png"
            noise = rng.normal(0, 12, base.shape)
            write_image(folder / "images" / name, np.clip(base + noise, 0, 255).astype(np.uint8))
            points[name] = (TEMPLATE_112 * 0.6 + (5, 8) + rng.normal(0, 1, (5, 2))).astype(np.float32)
    write_landmarks_csv(folder / "landmarks.csv", list(points), np.stack(list(points.values())))
    return points


def population_config(folder: Path, **more) -> PairsConfig:
    """Return the data set section of a written population."""
    values = {
        "root": str(folder / "images"),
        "format": "identities",
        "landmarks": str(folder / "landmarks.csv"),
        "non_mated": 60,
    }
    return PairsConfig(**{**values, **more})


def open_population(folder: Path, **more) -> FaceSet:
    """Open a written population as a data set named `toy`."""
    return open_faces("toy", population_config(folder, **more), seed=1)


def crop_pass(faces: FaceSet, cache: Path, batch_size: int = 5) -> CropPass:
    """Return the pass over its crops."""
    return CropPass(faces, cache, LoaderParams(batch_size=batch_size), verbose=False)


class Recorder:
    """Keep every crop it is given, by name; its number is the mean pixel."""

    def __init__(self, tag: str = "recorder"):
        self.fingerprint = {"tag": tag}
        self.seen: dict[str, np.ndarray] = {}
        self.calls = 0

    def __call__(self, images_BHW3: torch.Tensor, names) -> np.ndarray:
        self.calls += 1
        self.seen |= dict(zip(names, images_BHW3.numpy().copy(), strict=True))
        return images_BHW3.double().mean(dim=(1, 2, 3)).numpy()

    def finish(self, values: np.ndarray, names) -> np.ndarray:
        return values


class Thumbnails(Recorder):
    """Embed a crop as its 4x4 thumbnail."""

    def __call__(self, images_BHW3: torch.Tensor, names) -> np.ndarray:
        super().__call__(images_BHW3, names)
        x = images_BHW3.permute(0, 3, 1, 2).float() / 255 - 0.5
        return torch.nn.functional.adaptive_avg_pool2d(x, 4).flatten(1).numpy()
