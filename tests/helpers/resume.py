"""Runs that stop and go on: trained in this process, compared by their weights and by their metrics without times."""

from pathlib import Path

import train_main
from tests.helpers.training import same_bytes, tensors
from utils.training.run_log import read_metrics

TIMES = {"img_per_s", "data_share"}
LENGTH = ("base.epochs=6", "base.verbose=0")


def train(config: Path, *overrides: str) -> int:
    """Run train_main.py; return its exit code."""
    return train_main.cli.run(lambda: train_main.main(["-c", str(config), *LENGTH, *overrides]))


def metrics(folder: Path) -> list[dict]:
    """Return what was logged, without the times."""
    return [{k: v for k, v in row.items() if k not in TIMES} for row in read_metrics(folder / "metrics.jsonl")]


def assert_same_run(a: Path, b: Path) -> None:
    """Compare the weights of two runs to the last bit, and their metrics."""
    for name in ("aikd-last.pth", "aikd-best.pth"):
        assert same_bytes(tensors(a / name), tensors(b / name)), name
    assert metrics(a) == metrics(b)
