"""A tiny trained student with its files, inference.py run on it, and the scores worked out the long way round."""

import csv
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

import inference
from model.ai_kd import WrapperModel
from model.compact import CompactNet
from model.mlp import MLP
from tests.helpers.images import crop_pixels
from utils import cli

TINY = {"num_features": 8, "width": 4}


def tiny_student(seed: int = 5) -> WrapperModel:
    """Return a student whose BatchNorms have seen something."""
    torch.manual_seed(seed)
    student = WrapperModel(CompactNet(**TINY), MLP(8, 16)).eval()
    for module in student.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return student


STUDENT = tiny_student()


def write_setup(folder: Path) -> Path:
    """Write weights, an empty image folder and both YAML files; the model's own weights file does not exist."""
    torch.save(STUDENT.state_dict(), folder / "student.pth")
    model = {
        "features": {"module": "model.compact.CompactNet", "weights": "nowhere/r100.pth", "params": TINY},
        "head": {"module": "model.mlp.MLP", "params": {"hidden_dim": 16}},
    }
    config = {
        "base": {"verbose": 1, "save_path": str(folder / "out"), "seed": 1, "device": "cpu"},
        "dataset": {"loc": str(folder / "faces")},
        "dataloader": {"params": {"batch_size": 4}},
        "model": {"config": str(folder / "model_config.yaml"), "weight": str(folder / "student.pth")},
    }
    (folder / "faces").mkdir()
    (folder / "model_config.yaml").write_text(yaml.safe_dump(model))
    (folder / "inference_config.yaml").write_text(yaml.safe_dump(config))
    return folder


def write_repeatable_setup(folder: Path) -> Path:
    """Write the setup for scores of equal bytes: these need equal threads, and a process of a test has one."""
    torch.set_num_threads(1)
    return write_setup(folder)


def infer(setup: Path, *overrides: str) -> int:
    """Run inference.py in this process; return its exit code."""
    return cli.run(lambda: inference.main(["-c", str(setup / "inference_config.yaml"), *overrides]))


def rows_of(path: Path) -> list[dict[str, str]]:
    """Read a CSV; names that are no UTF-8 keep their bytes."""
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as stream:
        return list(csv.DictReader(stream))


def page_content(path: Path) -> dict[str, Any]:
    """Return what the script of scores.html reads."""
    page = path.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(found[1])


def scores_of(folder: Path) -> dict[str, np.float32]:
    """Return path -> score in the order of the file."""
    return {row["path"]: np.float32(row["quality"]) for row in rows_of(folder / "quality-scores.csv")}


def expected(pixels: np.ndarray, student: WrapperModel = STUDENT) -> float:
    """Score a crop by itself, from the definition of the preprocessing."""
    x = torch.from_numpy((pixels.astype(np.float32) / 255 - 0.5) / 0.5).permute(2, 0, 1)[None]
    with torch.no_grad():
        return student(x.contiguous())[1].item()


def expected_of(names: list[str], student: WrapperModel = STUDENT) -> dict[str, float]:
    """Score what write_crops wrote under these names."""
    return {name: expected(crop_pixels(int(Path(name).stem)), student) for name in names}


def assert_scores(found: dict[str, np.float32], wanted: dict[str, float]) -> None:
    """Compare names, order and values within 1e-5."""
    assert list(found) == sorted(wanted, key=os.fsencode)
    for name, value in wanted.items():
        assert abs(found[name] - value) <= 1e-5, name
