"""evaluate.py on settings without effect: named, or refused where the user would wait for it."""

import pytest
import yaml

import evaluate
from tests.helpers.evaluation import run_evaluate as run
from utils.config import load_config
from utils.config.evaluate import EvaluateConfig


def test_a_direction_beside_a_network_is_said_to_have_no_effect(tmp_path):
    values = {
        "base": {"save_path": "out"},
        "datasets": {"toy": {"root": "images", "format": "identities"}},
        "recognition": {"net": {"module": "CompactNet", "weights": "net.pth"}},
        "scores": {
            "q": {"weights": "q.pth", "config": "model.yaml", "higher_is_better": 0},
            "x": {"source": "label.yaml", "higher_is_better": 0},
            "file": {"toy": "q.csv", "higher_is_better": 0},
            "y": {"source": "label.yaml", "higher_is_better": 1},
        },
    }
    (tmp_path / "evaluate.yaml").write_text(yaml.safe_dump(values))
    lines = evaluate.without_effect(load_config(EvaluateConfig, tmp_path / "evaluate.yaml"))
    assert lines == [f"scores.{name}.higher_is_better: without effect; it is about score files" for name in "qx"]


def test_settings_beside_files_are_said_to_have_no_effect(tmp_path):
    values = {
        "base": {"save_path": "out"},
        "datasets": {
            "read": {"pairs": "pairs.txt", "non_mated": 7, "mated_per_identity": 50},
            "drawn": {"format": "identities", "non_mated": 7},
        },
        "recognition": {
            "files": {"embeddings": {"read": "e.npz"}, "channels": "BGR", "flip": 1, "module": "CompactNet"},
            "both": {"embeddings": {"read": "e.npz"}, "channels": "BGR", "module": "CompactNet", "weights": "net.pth"},
        },
        "scores": {"q": {"read": "q.csv"}},
    }
    (tmp_path / "evaluate.yaml").write_text(yaml.safe_dump(values))
    assert evaluate.without_effect(load_config(EvaluateConfig, tmp_path / "evaluate.yaml")) == [
        *(
            f"recognition.files.{key}: without effect; it is about weights, which are not named"
            for key in ("module", "channels", "flip")
        ),
        "datasets.read.non_mated: without effect; it is about pairs that are drawn",
    ]


@pytest.mark.parametrize("key", ["shuffle", "pin_memory"])
def test_a_loader_that_an_evaluation_has_not_is_refused(tmp_path, key, capsys):
    values = {"base": {"save_path": "out"}, "dataloader": {"params": {"batch_size": 7, key: 1}}}
    (tmp_path / "evaluate.yaml").write_text(yaml.safe_dump(values))
    assert run(tmp_path, "thresholds.scores=any.csv") == 2
    error = capsys.readouterr().err
    assert f"{key} has no effect in an evaluation" in error and "remove it" in error and error.count("\n") == 1
    overrides = ["thresholds.scores=any.csv", f"dataloader.params.{key}=0"]  # as the config.yaml of older runs says
    params = load_config(EvaluateConfig, tmp_path / "evaluate.yaml", overrides).dataloader.params
    assert params.model_dump() == {"batch_size": 7, "num_workers": 0}
