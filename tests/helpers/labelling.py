"""Faces, a tiny network and the files that label.py needs, label.py run on them, and the labels it writes."""

import pickle
from pathlib import Path

import torch
import yaml

import label
from model.compact import CompactNet
from tests.helpers.tiny_networks import randomised
from tests.helpers.training import TINY, write_faces

COUNT = 13
FAST = ("source.ser_fiq.passes=5", "source.faceqan.copies=2", "source.faceqan.iterations=2", "source.sdd_fiqa.rounds=3")


def network() -> CompactNet:
    """Return the network that gives the labels."""
    return randomised(CompactNet(**TINY), seed=1)


def run(folder: Path, source: str, *overrides: str, allow: str | None = None) -> int:
    """Run label.py in this process with few passes; return its exit code."""
    argv = ["-c", str(folder / "label_config.yaml"), f"source.name={source}", *FAST, *overrides]
    return label.main([*argv, *(("--allow-module", allow) if allow else ())])


def labels_of(folder: Path, run_name: str = "out") -> dict[str, float]:
    """Read the labels of a run, in the order of the file."""
    with open(folder / run_name / "labels.pkl", "rb") as stream:
        return pickle.load(stream)


def write_label_setup(folder: Path) -> Path:
    """Write 13 faces of 4 identities, network weights and both YAML files; return the folder."""
    write_faces(folder, COUNT)
    torch.save(network().state_dict(), folder / "backbone.pth")
    features = {"module": "model.compact.CompactNet", "weights": str(folder / "backbone.pth"), "params": TINY}
    model = {"features": features, "head": {"module": "model.mlp.MLP", "params": {"hidden_dim": 16}}}
    config = {
        "base": {"save_path": str(folder / "out"), "device": "cpu", "verbose": 0, "seed": 3},
        "dataset": {
            "loc": str(folder / "images"),
            "input": "landmarks",
            "landmarks": str(folder / "landmarks.csv"),
        },
        "dataloader": {"params": {"batch_size": 4}},
        "model": {"config": "model_config.yaml"},
        "source": {"ser_fiq": {"dropout": {"rate": 0.3}}},
    }
    (folder / "model_config.yaml").write_text(yaml.safe_dump(model))
    (folder / "label_config.yaml").write_text(yaml.safe_dump(config))
    return folder
