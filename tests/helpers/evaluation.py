"""A small population on disk, and stand-in networks whose numbers are known, for tests of the evaluation."""

import csv
from pathlib import Path

import numpy as np
import torch
import yaml

import evaluate
from data.alignment import TEMPLATE_112
from data.tables.landmarks import write_landmarks_csv
from data.tables.scores import write_scores_csv
from evaluation.measure.edc import edc
from evaluation.measure.thresholds import fixed_threshold
from evaluation.protocol.embeddings import write_embeddings
from evaluation.protocol.face_set import FaceSet, open_faces
from evaluation.protocol.passes import CropPass
from tests.helpers.faces import smooth_image, write_image
from utils import cli
from utils.config.evaluate import PairsConfig, PassParams
from utils.store import Store

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
    return CropPass(faces, Store(cache), PassParams(batch_size=batch_size), verbose=False)


class Recorder:
    """Keep every crop it is given, by name; its number is the mean pixel."""

    reason = None
    averaging = None

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
    """Embed a crop as its 4x4 thumbnail; with `noise` a part of its own for each name, so that some pairs fail."""

    def __init__(self, tag: str = "thumbnails", noise: float = 0.0):
        super().__init__(tag)
        self.noise = noise

    def __call__(self, images_BHW3: torch.Tensor, names) -> np.ndarray:
        super().__call__(images_BHW3, names)
        x = images_BHW3.permute(0, 3, 1, 2).float() / 255 - 0.5
        embedding_BD = torch.nn.functional.adaptive_avg_pool2d(x, 4).flatten(1).numpy()
        own_BD = [np.random.default_rng(list(name.encode())).normal(size=embedding_BD.shape[1]) for name in names]
        return embedding_BD + self.noise * np.array(own_BD, dtype=np.float32)


def run_evaluate(folder: Path, *overrides: str) -> int:
    """Run evaluate.py on folder/evaluate.yaml in this process; return its exit code."""
    return cli.run(lambda: evaluate.main(["-c", str(folder / "evaluate.yaml"), *overrides]))


def csv_rows(path: Path) -> list[dict[str, str]]:
    """Read a CSV file with a header."""
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


class Simulation:
    """Two data sets of files alone: 40 identities x 5 images, better images have less noise."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.config = {
            "base": {"save_path": str(folder / "out"), "device": "cpu", "seed": 5},
            "evaluation": {"fmr": 0.01, "discard_limits": [0.2, 0.3], "bootstrap": 60},
            "datasets": {},
            "recognition": {"AdaFace": {"embeddings": {}}, "CosFace": {"embeddings": {}}},
            "scores": {"DifFIQA(R)": {}, "AI-KD(DifFIQA(R))": {}, "constant": {}},
        }
        self.similarity, self.quality, self.mated, self.people = {}, {}, {}, {}
        for seed, name in enumerate(("LFW", "XQLFW")):
            self._write(name, np.random.default_rng(seed))
        self.save()

    def _write(self, name: str, rng: np.random.Generator) -> None:
        names = [f"p{i:02d}/{n}.jpg" for i in range(40) for n in range(5)]
        quality = rng.normal(size=200)
        identity = rng.normal(size=(40, 16)).repeat(5, axis=0)
        pairs = [(i, i + d) for i in range(200) for d in (1, 2) if i // 5 == (i + d) // 5]
        pairs += [tuple(pair) for pair in rng.integers(200, size=(900, 2)) if pair[0] // 5 != pair[1] // 5]
        pairs = list({tuple(sorted(pair)): pair for pair in pairs}.values())
        self.mated[name] = np.array([a // 5 == b // 5 for a, b in pairs])
        self.people[name] = np.array([a // 5 for a, b in pairs])[self.mated[name]]
        lines = [f"{names[a]} {names[b]} {int(a // 5 == b // 5)}\n" for a, b in pairs]
        (self.folder / f"{name}.txt").write_text("".join(lines))
        self.config["datasets"][name] = {"pairs": str(self.folder / f"{name}.txt"), "format": "list"}
        first, second = np.array(pairs).T
        for model in ("AdaFace", "CosFace"):
            noise = 0.6 * np.exp(-0.5 * quality)[:, None] * rng.normal(size=(200, 16))
            values = (identity + noise).astype(np.float32)
            write_embeddings(self.folder / f"{name}_{model}.npz", names, values)
            self.config["recognition"][model]["embeddings"][name] = str(self.folder / f"{name}_{model}.npz")
            unit = values / np.linalg.norm(values, axis=1, keepdims=True)
            self.similarity[name, model] = (unit[first] * unit[second]).sum(axis=1)
        scores = {
            "DifFIQA(R)": quality + 2 * rng.normal(size=200),
            "AI-KD(DifFIQA(R))": quality,
            "constant": np.zeros(200),
        }
        for method, values in scores.items():
            path = self.folder / f"{name}_{method}.csv"
            write_scores_csv(path, [f"train/{one}" for one in names], values)
            self.config["scores"][method][name] = str(path)
            self.quality[name, method] = np.minimum(values[first], values[second])

    def save(self) -> None:
        (self.folder / "evaluate.yaml").write_text(yaml.safe_dump(self.config, sort_keys=False))

    def pauc(self, name, model, method, limit):
        mated, similarity = self.mated[name], self.similarity[name, model]
        threshold = fixed_threshold(similarity[~mated], 0.01)
        return edc(similarity[mated], self.quality[name, method][mated], threshold).pauc(limit)
