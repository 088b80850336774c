"""prepare.py: check and convert, and its mistakes."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import yaml

import prepare
from data.alignment import TEMPLATE_112
from data.tables.landmarks import read_landmarks
from data.tables.scores import read_scores
from tests.helpers.prepare import command, run, write_photographs
from utils.config import load_config
from utils.config.prepare import DetectorConfig, PrepareConfig

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def photographs(tmp_path):
    return write_photographs(tmp_path / "images")


CENTRED = 0.6 * TEMPLATE_112 + (10, 12)
"""A face in the middle of a photograph."""


def write_inputs(folder, names, suffix=True):
    """Write landmarks_data.pkl and a label pickle of the names below a leading train/."""
    keys = [f"train/{name if suffix else os.path.splitext(name)[0]}" for name in names]
    points = {key: ([0, 0, 9, 9], CENTRED.tolist()) for key in keys}
    (folder / "landmarks_data.pkl").write_bytes(pickle.dumps(points))
    (folder / "labels.pkl").write_bytes(pickle.dumps({key: np.float32(row / 4) for row, key in enumerate(keys)}))
    return {"landms_location": str(folder / "landmarks_data.pkl"), "quality_location": str(folder / "labels.pkl")}


def test_check_reports_and_stops_where_training_would(tmp_path, photographs, capsys):
    names = ["n1/a.png", "n1/b.jpg", "n2/dark.png", "n3/broken.jpg"]
    dataset = {"image_location": str(photographs), **write_inputs(tmp_path, names)}
    assert run(tmp_path, base={"task": "check"}, dataset=dataset) == 2
    out, err = capsys.readouterr()
    assert f"5 images in {photographs} (1 other file: 1 .txt)" in out.splitlines()
    assert "landmarks: 4 of 5 images matched" in out and "labels: from 0 to 0.75, higher is better" in out
    assert err.count("\n") == 1 and "1 of 5 images have no landmarks, first: 'n2/é, \"x\"\\n.png'" in err
    stored = json.loads((tmp_path / "out/coverage.json").read_text())
    assert stored["images"] == 5 and stored["labels"]["matched"] == 4 and stored["report"] == out.splitlines()
    assert run(tmp_path, "dataset.on_missing=skip", base={"task": "check"}, dataset=dataset) == 0
    assert "in use: 4 images, 1 left out" in capsys.readouterr().out


def test_what_a_task_does_not_read_of_its_dataset_section_is_said(tmp_path):
    section = {
        "image_location": "images", "landms_location": "points.csv", "val_percent": 0.02, "misalign": 1, "flip": 1,
        "perturbation": {"radius_px": 5}, "exif": 0, "key_root": "train",
    }  # fmt: skip
    sections = {"dataset": section, "landmarks": {"detector": "yunet.onnx"}}
    said = {
        "check": "dataset.val_percent, dataset.perturbation, dataset.flip: without effect in task check, which reads "
        "image_location, landms_location, quality_location, label_scaling, higher_is_better, key_root, on_missing, "
        "exif, max_pixels, names, accept_unusual, cache, columns, separator, decimal, missing_value, repeats, "
        "landmark_points, landmark_faces",
        "landmarks": "dataset.landms_location, dataset.val_percent, dataset.key_root, dataset.perturbation, "
        "dataset.flip: without effect in task landmarks, which reads image_location, exif, max_pixels, names",
    }
    for task, line in said.items():
        _, config = command(tmp_path, base={"task": task}, **sections)
        assert prepare.without_effect(load_config(PrepareConfig, config)) == [line]
    _, config = command(tmp_path, base={"task": "check"}, dataset={"image_location": "images", "exif": 0})
    assert prepare.without_effect(load_config(PrepareConfig, config)) == []


def test_check_tells_landmarks_in_another_order(tmp_path, photographs, capsys):
    names = ["n1/a.png", "n1/b.jpg"]
    dataset = {"image_location": str(photographs / "n1"), **write_inputs(tmp_path, names), "label_scaling": "none"}
    assert run(tmp_path, base={"task": "check"}, dataset=dataset) == 0
    assert "unlike a face" not in capsys.readouterr().out
    swapped = {"train/n1/a": CENTRED[[1, 0, 2, 4, 3]].tolist(), "train/n1/b": CENTRED.tolist()}
    (tmp_path / "landmarks_data.pkl").write_bytes(pickle.dumps(swapped))
    assert run(tmp_path, base={"task": "check"}, dataset=dataset) == 0
    assert "1 of 2 images have points unlike a face in template order, first: 'a.png'" in capsys.readouterr().out
    for scale, looks in ((1, "left and right are exchanged"), (0.005, "they are fractions of the image")):
        wrong = {f"train/n1/{name}": (CENTRED[[1, 0, 2, 4, 3]] * scale).tolist() for name in "ab"}
        (tmp_path / "landmarks_data.pkl").write_bytes(pickle.dumps(wrong))
        assert run(tmp_path, base={"task": "check"}, dataset=dataset) == 2
        out, err = capsys.readouterr()
        assert "2 of 2 images have points unlike a face" in out
        assert err.count("\n") == 1 and "100% of the landmarks are no face" in err
        assert looks in err


def test_check_of_a_folder_that_matches_nothing_is_a_sentence(tmp_path, photographs, capsys):
    dataset = {"image_location": str(photographs), **write_inputs(tmp_path, ["other/1.jpg"])}
    assert run(tmp_path, base={"task": "check"}, dataset=dataset) == 2
    err = capsys.readouterr().err
    assert "none of the 5 images has" in err and "'train/other/1.jpg'" in err and err.count("\n") == 1


def test_convert_landmarks_and_labels(tmp_path):
    files = write_inputs(tmp_path, ["n1/a, b.jpg", "n1/c.jpg"])
    for kind, key in (("landmarks", "landms_location"), ("labels", "quality_location")):
        assert run(tmp_path, base={"task": "convert"}, convert={"kind": kind, "source": files[key]}) == 0
    table = read_landmarks(tmp_path / "out/landmarks.csv")
    assert list(table.names) == ["train/n1/a, b.jpg", "train/n1/c.jpg"]
    assert np.array_equal(table.points, np.stack([CENTRED] * 2).astype(np.float32))
    assert read_scores(tmp_path / "out/labels.csv").values.tolist() == [0, 0.25]


def test_convert_refuses_to_replace_its_source(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    source = tmp_path / "out/labels.csv"
    source.write_text("path,quality\na.jpg,1\n")
    assert run(tmp_path, base={"task": "convert"}, convert={"kind": "labels", "source": str(source)}) == 2
    assert "would replace this file" in capsys.readouterr().err and source.read_text().endswith("a.jpg,1\n")


def test_convert_refuses_a_pickle_that_runs_code(tmp_path, capsys):
    source = tmp_path / "labels.pkl"
    source.write_bytes(b"cos\nsystem\n(S'touch " + os.fsencode(tmp_path / "ran") + b"'\ntR.")
    assert run(tmp_path, base={"task": "convert"}, convert={"kind": "labels", "source": str(source)}) == 2
    assert f"{source}: refused to build 'os.system' from a pickle" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"base": {"task": "convert"}}, "section 'convert' is needed by task convert"),
        ({"base": {"task": "check"}}, "section 'dataset' is needed by task check"),
        ({"base": {"task": "landmarks"}, "dataset": {"image_location": "x"}}, "section 'landmarks' is needed"),
        ({"base": {"task": "lanmarks"}}, "base.task"),
        ({"base": {"task": "convert"}, "convert": {"kind": "labels", "sorce": "x"}}, "did you mean 'source'?"),
        ({"base": {"task": "convert"}, "convert": {"kind": "boxes", "source": "x"}}, "convert.kind"),
        ({"base": {"task": "convert"}, "convert": {"kind": "labels", "source": "none.csv"}}, "none.csv: cannot be"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_2(tmp_path, sections, said, capsys):
    assert run(tmp_path, **sections) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def test_the_shipped_configuration_is_valid():
    config = load_config(PrepareConfig, ROOT / "configs/prepare_config.yaml")
    shown = yaml.safe_load((ROOT / "configs/prepare_config.yaml").read_text())
    assert set(shown["landmarks"]) == set(DetectorConfig.model_fields)
    assert config.landmarks == DetectorConfig(detector=config.landmarks.detector)  # what is shown is the default
