"""The five long commands, each with inputs small enough for a test: `make(folder)` gives script and configuration."""

from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from model.compact import CompactNet
from tests.helpers import inference as scoring
from tests.helpers.detector import face_image, write_bright_cell_detector
from tests.helpers.evaluation import write_population
from tests.helpers.faces import write_image
from tests.helpers.images import write_crops
from tests.helpers.training import write_faces, write_setup

Make = Callable[[Path], tuple[str, dict]]


def labels(folder: Path) -> tuple[str, dict]:
    """Twelve faces labelled by a student."""
    write_faces(folder, 12)
    torch.save(scoring.STUDENT.state_dict(), folder / "student.pth")
    features = {"module": "model.compact.CompactNet", "weights": None, "params": scoring.TINY}
    model = {"features": features, "head": {"module": "model.mlp.MLP", "params": {"hidden_dim": 16}}}
    (folder / "model_config.yaml").write_text(yaml.safe_dump(model))
    values = {
        "base": {"device": "cpu", "verbose": 0},
        "dataset": {"loc": str(folder / "images"), "input": "landmarks", "landmarks": str(folder / "landmarks.csv")},
        "dataloader": {"params": {"batch_size": 2}},
        "model": {"config": "model_config.yaml", "weight": str(folder / "student.pth")},
        "source": {"name": "student"},
        "output": {"page": 0},
    }
    return "label.py", values


def scores(folder: Path) -> tuple[str, dict]:
    """Twelve crops."""
    scoring.write_setup(folder)
    write_crops(folder / "faces", 12)
    values = yaml.safe_load((folder / "inference_config.yaml").read_text())
    values["base"]["verbose"], values["dataloader"]["params"]["batch_size"] = 0, 2
    return "inference.py", values


def landmarks(folder: Path) -> tuple[str, dict]:
    """140 images, a face in each."""
    for number in range(140):
        write_image(folder / f"images/{number:03d}.png", face_image(32, 40, (1, 2)))
    detector = write_bright_cell_detector(folder / "bright.onnx")
    return "prepare.py", {
        "base": {"task": "landmarks", "verbose": 0},
        "dataset": {"image_location": str(folder / "images")},
        "landmarks": {"detector": str(detector), "score_threshold": 0.9, "num_workers": 2},
    }


def copies(folder: Path) -> tuple[str, dict]:
    """Degraded copies of twelve faces."""
    write_faces(folder, 12)
    given = {"loc": str(folder / "images"), "landmarks": str(folder / "landmarks.csv"), "num_workers": 2}
    return "prepare.py", {"base": {"task": "degrade", "verbose": 0}, "degrade": given}


def people(folder: Path) -> tuple[str, dict]:
    """Three rendered people, two images each."""
    return "prepare.py", {
        "base": {"task": "synthetic", "verbose": 0},
        "synthetic": {"processes": 1, "train": {"identities": 3, "images": 2}, "selection": None, "test": None},
    }


def evaluation(folder: Path) -> tuple[str, dict]:
    """Four people, three images each, by networks, aligned and misaligned."""
    write_population(folder, identities=4, images=3)
    torch.save(scoring.STUDENT.state_dict(), folder / "student.pth")
    features = {"module": "model.compact.CompactNet", "weights": None, "params": scoring.TINY}
    model = {"features": features, "head": {"module": "model.mlp.MLP", "params": {"hidden_dim": 16}}}
    (folder / "model.yaml").write_text(yaml.safe_dump(model))
    torch.save(CompactNet(**scoring.TINY).state_dict(), folder / "net.pth")
    section = {"root": str(folder / "images"), "format": "identities", "landmarks": str(folder / "landmarks.csv")}
    return "evaluate.py", {
        "base": {"device": "cpu", "seed": 5, "verbose": 0},
        "evaluation": {"fmr": 0.1, "discard_limits": [0.3], "bootstrap": 0},
        "datasets": {"toy": {**section, "non_mated": 30}},
        "recognition": {"R": {"module": "CompactNet", "params": scoring.TINY, "weights": str(folder / "net.pth")}},
        "scores": {"Q": {"weights": str(folder / "student.pth"), "config": str(folder / "model.yaml")}},
        "misalignment": {"p": [3], "seeds": [1], "apply": ["both"]},
        "dataloader": {"params": {"batch_size": 4}},
    }


def training(folder: Path) -> tuple[str, dict]:
    """AI-KD, 16 steps, four validations, a resume point every third step; goes on where it was."""
    values = yaml.safe_load(write_setup(folder, count=40).read_text())
    values["base"]["resume"] = "auto"
    return "train_main.py", values


def written(folder: Path, make: Make) -> tuple[str, str, Path]:
    """Write the inputs and the configuration; return the command line."""
    script, values = make(folder)
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return script, "-c", folder / "config.yaml"
