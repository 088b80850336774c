"""dataset.input: detect: from photographs to labels and evaluations in one command."""

import cv2
import pytest
import torch
import yaml

import label
from data.tables.landmarks import read_landmarks
from data.tables.scores import read_scores
from model.compact import CompactNet
from tests.helpers.detecting import count_detections, picture, wanted, write_detect_setup
from tests.helpers.evaluation import csv_rows, run_evaluate
from tests.helpers.inference import TINY
from utils import cli


@pytest.fixture
def photographs(tmp_path):
    return write_detect_setup(tmp_path)


@pytest.fixture
def looked_at(monkeypatch):
    return count_detections(monkeypatch)


def label_setup(folder):
    torch.save(CompactNet(**TINY).state_dict(), folder / "net.pth")
    model = yaml.safe_load((folder / "model_config.yaml").read_text())
    model["features"]["weights"] = str(folder / "net.pth")
    (folder / "model_config.yaml").write_text(yaml.safe_dump(model))
    config = {
        "base": {"save_path": str(folder / "labels"), "device": "cpu", "verbose": 0},
        "dataset": {"loc": str(folder / "faces")},
        "model": {"config": str(folder / "model_config.yaml")},
        "source": {"name": "magnitude"},
    }
    (folder / "label.yaml").write_text(yaml.safe_dump(config))


def run_label(folder, *overrides):
    return cli.run(lambda: label.main(["-c", str(folder / "label.yaml"), *overrides]))


@pytest.mark.parametrize("source", ["magnitude", "sdd_fiqa"])
def test_photographs_are_labelled_in_one_command(photographs, looked_at, source):
    label_setup(photographs)
    overrides = [f"source.name={source}", "source.sdd_fiqa.rounds=2"]
    assert run_label(photographs, *overrides, *wanted(photographs)) == 0
    by_file = [
        "dataset.accept_unusual=1",
        "dataset.input=landmarks",
        f"dataset.landmarks={photographs}/labels/landmarks.csv",
    ]
    by_file += ["dataset.on_missing=skip", f"base.save_path={photographs}/again"]
    assert run_label(photographs, *overrides, *by_file) == 0
    for name in ("labels.csv", "labels.pkl"):
        assert (photographs / "labels" / name).read_bytes() == (photographs / "again" / name).read_bytes()
    assert len(read_scores(photographs / "labels/labels.csv").names) >= 2
    assert run_label(photographs, *overrides, *wanted(photographs)) == 0 and len(looked_at) == 4


def test_a_label_belongs_to_one_face(photographs, capsys):
    label_setup(photographs)
    assert run_label(photographs, *wanted(photographs, faces="all")) == 2
    assert "use largest or central" in capsys.readouterr().err


def test_photographs_are_evaluated_in_one_command(photographs, looked_at, caplog):
    caplog.set_level("INFO")
    faces = photographs / "faces"
    for person in range(4):
        for image in range(4):
            path = faces / f"p{person}/{image}.png"
            path.parent.mkdir(exist_ok=True)
            cv2.imwrite(str(path), picture([(3 + person, 3 + image)]))
    label_setup(photographs)
    section = {
        "root": str(faces),
        "format": "identities",
        "non_mated": 40,
        "detector": f"yunet:{photographs}/bright.onnx",
    }
    section |= {"input": "detect", "yunet": {"score_threshold": 0.9}}
    student = {"weights": str(photographs / "student.pth"), "config": str(photographs / "model_config.yaml")}
    config = {
        "base": {"save_path": str(photographs / "result"), "device": "cpu"},
        "evaluation": {"fmr": 0.1, "discard_limits": [0.3], "bootstrap": 0, "on_missing": "skip"},
        "datasets": {"toy": section},
        "recognition": {"net": {"module": "CompactNet", "params": TINY, "weights": str(photographs / "net.pth")}},
        "scores": {"student": student},
    }
    (photographs / "evaluate.yaml").write_text(yaml.safe_dump(config))
    assert run_evaluate(photographs) == 0
    assert "(no face found)" in caplog.text and len(looked_at) == 20
    found = photographs / "result/landmarks/toy/landmarks.csv"
    assert len(read_landmarks(found).names) == 19
    assert run_evaluate(photographs) == 0 and len(looked_at) == 20
    assert "landmarks.csv: used again" in caplog.text
    for key in ("detector", "input", "yunet"):
        del section[key]
    section["accept_unusual"] = 1  # faces of 24 px in a corner
    section["landmarks"], config["base"]["save_path"] = str(found), str(photographs / "by_file")
    (photographs / "evaluate.yaml").write_text(yaml.safe_dump(config))
    assert run_evaluate(photographs) == 0
    assert csv_rows(photographs / "by_file/pauc.csv") == csv_rows(photographs / "result/pauc.csv")
