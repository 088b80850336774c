"""label.py: images without a label and mistakes of a user are named, each in one sentence."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import label
from jobs import labelling
from tests.helpers.faces import spoil_landmarks
from tests.helpers.labelling import COUNT, FAST, labels_of, run, write_label_setup
from utils import cli
from utils.contract import InputContract, save_contract
from utils.errors import DataError


@pytest.fixture
def setup(tmp_path) -> Path:
    return write_label_setup(tmp_path)


def failures(folder: Path) -> dict[str, str]:
    with open(folder / "out" / "failures.csv", newline="") as stream:
        return {row["path"]: row["reason"] for row in csv.DictReader(stream)}


def test_weights_for_another_preprocessing_are_refused(setup, capsys):
    contract = InputContract(channels="BGR")
    save_contract(contract, setup / "backbone.pth")
    argv = ["-c", str(setup / "label_config.yaml"), "source.name=magnitude"]
    assert cli.run(lambda: label.main(argv)) == 2
    assert "trained with channels = BGR" in capsys.readouterr().err


def test_failures_are_named_and_strict_exits_with_3(setup):
    (setup / "images" / "id_0" / "0004.jpg").write_bytes(b"")
    assert run(setup, "magnitude") == 0
    assert list(failures(setup)) == ["id_0/0004.jpg"]
    assert len(labels_of(setup)) == COUNT - 1
    counts = json.loads((setup / "out" / "run.json").read_text())["counts"]
    assert (counts["images"], counts["labelled"], counts["failed"]) == (COUNT, COUNT - 1, 1)
    assert run(setup, "magnitude", "base.strict=1") == 3


def test_sdd_fiqa_lists_images_that_are_alone_with_their_identity(setup):
    (setup / "images" / "id_0" / "0004.jpg").unlink()
    for number in (0, 8):
        (setup / "images" / "id_0" / f"{number:04d}.jpg").write_bytes(b"no image")
    assert run(setup, "sdd_fiqa") == 0  # id_0 keeps 0012 alone
    assert failures(setup).pop("id_0/0012.jpg") == "its identity has no other image"
    assert len(failures(setup)) == 3 and len(labels_of(setup)) == COUNT - 4
    assert not (setup / "out" / "partial").exists()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["source.name=serfiq"], "source.name: input should be 'ser_fiq'"),
        (["source.ser_fiq.pases=3"], "unknown key 'source.ser_fiq.pases'; did you mean 'passes'?"),
        (["source.name=cr_fiqa"], "model.weight is needed by source cr_fiqa"),
        (["source.ser_fiq.dropout.rate=null"], "CompactNet has no active dropout layer"),
        (["source.ser_fiq.dropout.rate=1.0"], "source.ser_fiq.dropout.rate: input should be less than 1"),
        (["source.ser_fiq.dropout.before=neck"], "CompactNet has no module 'neck'"),
        (["source.name=grafiqs", "source.grafiqs.tap=fc"], "no BatchNorm2d of CompactNet follows fc"),
        (["dataset.landmarks=null"], "dataset.landmarks is needed with dataset.input: landmarks"),
        (["model.weight=nowhere.pth"], "nowhere.pth: no such weights file"),
        (["dataset.loc=nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_sentence_with_exit_code_2(setup, capsys, overrides, sentence):
    argv = ["-c", str(setup / "label_config.yaml"), *overrides]
    assert cli.run(lambda: label.main(argv)) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1 and "Traceback" not in error


def test_the_same_label_for_every_image_is_an_error(setup, capsys):
    state = torch.load(setup / "backbone.pth", weights_only=True)
    torch.save({k: v if "running_var" in k else torch.zeros_like(v) for k, v in state.items()}, setup / "dead.pth")
    argv = ["-c", str(setup / "label_config.yaml"), "source.name=ser_fiq", f"model.weight={setup}/dead.pth", *FAST]
    assert cli.run(lambda: label.main(argv)) == 2
    error = capsys.readouterr().err
    assert "source ser_fiq gives all 13 images the label " in error and "so no label is written" in error
    assert not (setup / "out/labels.csv").exists()


def test_labels_differ_by_more_than_rounding():
    where = "faces", "magnitude"
    with pytest.raises(DataError, match=r"faces: source magnitude gives all 3 images the label 1"):
        labelling.require_spread(np.array([1, 1 + 1e-7, 1 - 1e-7]), *where)
    labelling.require_spread(np.array([1, 1 + 1e-5]), *where)
    labelling.require_spread(np.array([5.0]), *where)


def test_photographs_labelled_whole_are_counted(setup, caplog):
    for path in sorted((setup / "images").rglob("*.jpg"))[:2]:
        cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), (150, 150)))
    whole = ("dataset.input=aligned", "dataset.landmarks=null", "dataset.accept_unusual=1", "base.verbose=1")
    with caplog.at_level("INFO"):
        assert run(setup, "magnitude", *whole) == 0
    assert "11 images were not square and have been squeezed" in caplog.text
    assert caplog.text.count("2 images were not 112x112 and were resized; if they are photographs") == 1
    counts = json.loads((setup / "out/run.json").read_text())["counts"]
    assert (counts["not_square"], counts["resized"]) == (11, 2)


def test_landmarks_in_a_wrong_order_are_refused_before_anything_is_written(setup, capsys):
    spoil_landmarks(setup / "landmarks.csv", "left and right are exchanged")
    assert cli.run(lambda: label.main(["-c", str(setup / "label_config.yaml")])) == 2
    error = capsys.readouterr().err
    assert f"{setup}/landmarks.csv: 100% of the landmarks" in error and "left and right are exchanged" in error
    assert error.count("\n") == 1 and not (setup / "out").exists()


def test_a_folder_without_one_good_image_is_an_error_that_keeps_the_reasons(setup, capsys):
    for path in (setup / "images").rglob("*.jpg"):
        path.write_bytes(b"no image")
    argv = ["-c", str(setup / "label_config.yaml"), "source.name=magnitude"]
    assert cli.run(lambda: label.main(argv)) == 2
    assert "none of 13 images could be labelled" in capsys.readouterr().err
    assert len(failures(setup)) == COUNT
