"""A training set small enough for a test: real files, a real (tiny) network, the real script."""

import csv
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
import yaml

import train_main
from data.alignment import TEMPLATE_112
from jobs.methods import load_training
from model.compact import CompactNet
from utils.config import load_config
from utils.config.sections import ModelConfig
from utils.config.train import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
TINY = {"num_features": 8, "width": 4}


def write_faces(folder: Path, count: int, seed: int = 0, identities: int = 4) -> None:
    """Write `count` smooth 72x80 JPEGs with landmarks.csv and labels.csv beside the folder `images`."""
    rng = np.random.default_rng(seed)
    landmarks, labels = [], []
    for i in range(count):
        name = f"id_{i % identities}/{i:04d}.jpg"
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        cv2.imwrite(str(path), cv2.resize(coarse, (72, 80), interpolation=cv2.INTER_CUBIC))
        points = TEMPLATE_112 * 0.5 + (8, 10) + rng.normal(0, 0.5, (5, 2))
        landmarks.append([name, *points.ravel().round(3)])
        labels.append([name, round(float(rng.uniform()), 4)])
    for name, rows in (("landmarks.csv", landmarks), ("labels.csv", labels)):
        with open(folder / name, "w", newline="") as stream:
            csv.writer(stream).writerows(rows)


def write_setup(folder: Path, count: int = 40, **base) -> Path:
    """Write faces, teacher weights and the two YAML files of a CPU run; return the training YAML."""
    write_faces(folder, count)
    torch.manual_seed(7)
    torch.save(CompactNet(**TINY).state_dict(), folder / "backbone.pth")
    model = {
        "features": {"module": "model.compact.CompactNet", "weights": str(folder / "backbone.pth"), "params": TINY},
        "head": {"module": "model.mlp.MLP", "params": {"hidden_dim": 16}},
    }
    train = {
        "base": {
            "epochs": 2,
            "save_path": str(folder / "run"),
            "seed": 3,
            "device": "cpu",
            "amp": 0,
            "validate_every": 0.5,
            "verbose": 0,
            "save_every": 3,
            "log_every": 1,
            **base,
        },
        "dataset": {
            "image_location": str(folder / "images"),
            "quality_location": str(folder / "labels.csv"),
            "landms_location": str(folder / "landmarks.csv"),
            "val_percent": 0.2,
        },
        "dataloader": {
            "train": {"params": {"batch_size": 4, "shuffle": 1, "num_workers": 0}},
            "val": {"params": {"batch_size": 8}},
        },
        "model": {"config": str(folder / "model_config.yaml")},
        "optimizer": {
            "group_1": {"params": "quality_head", "lr": 0.05, "weight_decay": 5e-4, "momentum": 0.9},
            "group_2": {"params": "feature_extractor", "lr": 0.05, "limit": 9, "momentum": 0.1},
        },
    }
    (folder / "model_config.yaml").write_text(yaml.safe_dump(model))
    (folder / "train_config.yaml").write_text(yaml.safe_dump(train))
    return folder / "train_config.yaml"


def run_script(script: str, *arguments: str, **options) -> subprocess.CompletedProcess:
    """Run a script of the repository as a user does."""
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a state_dict."""
    return torch.load(path, weights_only=True)


def same_bytes(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Tell whether two state_dicts are equal to the last bit."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def configs(config: Path, *overrides: str) -> tuple[TrainConfig, ModelConfig]:
    """Read the configurations of a run and of its model."""
    cfg = load_training(config, overrides)
    return cfg, load_config(ModelConfig, cfg.model.config)


def make_run(config: Path, *overrides: str) -> train_main.Run:
    """Build a run on the CPU."""
    return train_main.build(*configs(config, *overrides), torch.device("cpu"))


def observed_run(config: Path, *overrides: str) -> train_main.Run:
    """Build a run on the CPU whose `seen` lists how many crops each pass of the teacher takes."""
    run = make_run(config, *overrides)
    run.seen = []
    run.objective.teacher.register_forward_hook(lambda module, inputs, output: run.seen.append(len(output)))
    return run
