"""dataset.input: detect: from photographs to scores in one command, faces found once, in any number of processes."""

import base64
import csv
import json
import os

import cv2
import numpy as np
import pyarrow.parquet
import pytest
import torch

from data.alignment import align
from data.images.decode import decode_rgb
from data.tables.faces import FaceTable, read_faces, write_faces
from data.tables.landmarks import read_landmarks
from data.tables.names import Names
from tests.helpers import processes
from tests.helpers.detecting import ALONE, count_detections, picture, wanted, write_detect_setup
from tests.helpers.detector import HEIGHT_PX, POINTS, STRIDE_PX, WIDTH_PX
from tests.helpers.inference import expected, infer, page_content, rows_of, scores_of, tiny_student


@pytest.fixture
def photographs(tmp_path):
    return write_detect_setup(tmp_path)


@pytest.fixture
def looked_at(monkeypatch):
    return count_detections(monkeypatch)


def crop(cells, cell):
    return align(picture(cells), POINTS + np.array(cell) * STRIDE_PX)


def test_photographs_are_scored_in_one_command(photographs, caplog):
    caplog.set_level("INFO")
    assert infer(photographs, *wanted(photographs)) == 0
    out = photographs / "out"
    scores = scores_of(out)
    assert list(scores) == ["a/1.png", "a/2.png", ALONE]
    assert scores["a/1.png"] == pytest.approx(expected(crop([(4, 3)], (4, 3))), abs=1e-4)
    assert scores[ALONE] == pytest.approx(expected(crop([(5, 5)], (5, 5))), abs=1e-4)
    reasons = {row["path"]: row["reason"] for row in rows_of(out / "failures.csv")}
    assert reasons["b/dark.png"] == "no face found" and list(reasons) == ["b/dark.png", "c.jpg"]
    table = read_landmarks(out / "landmarks.csv")
    assert list(table.names) == list(scores)
    assert np.allclose(table.points[0], POINTS + np.array((4, 3)) * STRIDE_PX, atol=1e-3)
    facts = json.loads((out / "run.json").read_text())
    assert facts["counts"]["images"] == 5 == facts["counts"]["scored"] + facts["counts"]["failed"]
    assert len(facts["request"]["preprocessing"]["detection"]["detector_sha256"]) == 64
    assert "scored 3 of 5 images" in caplog.text


def test_scores_are_those_of_the_landmarks_that_were_found(photographs):
    assert infer(photographs, *wanted(photographs)) == 0
    by_file = [
        "dataset.accept_unusual=1",
        "dataset.input=landmarks",
        f"dataset.landmarks={photographs}/out/landmarks.csv",
    ]
    by_file += ["dataset.on_missing=skip", f"base.save_path={photographs}/again"]
    assert infer(photographs, *by_file) == 0
    for name in ("quality-scores.csv", "quality-scores.pkl"):
        assert (photographs / "again" / name).read_bytes() == (photographs / "out" / name).read_bytes()


def test_faces_that_were_found_are_used_again(photographs, looked_at, caplog):
    caplog.set_level("INFO")
    out = photographs / "out"
    kept = ("landmarks.csv", "landmarks.json", "failures.csv", "quality-scores.csv")
    assert infer(photographs, *wanted(photographs)) == 0
    first = {name: (out / name).read_bytes() for name in kept}
    assert len(looked_at) == 4
    torch.save(tiny_student(6).state_dict(), photographs / "other.pth")
    assert infer(photographs, *wanted(photographs), f"model.weight={photographs}/other.pth") == 0
    assert "landmarks.csv: used again" in caplog.text and len(looked_at) == 4
    assert [first[name] == (out / name).read_bytes() for name in kept] == [True, True, True, False]
    assert infer(photographs, *wanted(photographs)) == 0
    assert {name: (out / name).read_bytes() for name in kept} == first and len(looked_at) == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("touch", "images_sha256 differs"),
        ("threshold", "detection.options.score_threshold differs"),
        ("edit", "it was changed"),
        ("facts", "nothing says what it was made from"),
    ],
)
def test_faces_of_something_else_are_found_anew(photographs, looked_at, caplog, change, said):
    caplog.set_level("INFO")
    assert infer(photographs, *wanted(photographs)) == 0
    more = {}
    if change == "touch":
        os.utime(photographs / "faces/a/1.png", ns=(0, 1))
    elif change == "threshold":
        more["yunet.score_threshold"] = 0.8
    elif change == "edit":
        path = photographs / "out/landmarks.csv"
        path.write_text(path.read_text(encoding="utf-8").replace("a/1.png", "a/3.png"), encoding="utf-8")
    else:
        (photographs / "out/landmarks.json").write_text("{}")
    assert infer(photographs, *wanted(photographs, **more)) == 0
    assert f"landmarks.csv: not used again, {said}" in caplog.text
    assert len(looked_at) == 8 and len(scores_of(photographs / "out")) == 3


def test_all_faces_have_a_row_each(photographs):
    assert infer(photographs, *wanted(photographs, faces="all"), "output.formats=[csv, parquet]") == 0
    out = photographs / "out"
    rows = rows_of(out / "quality-scores.csv")
    assert [(row["path"], row["face"]) for row in rows[:3]] == [("a/1.png", "0"), ("a/2.png", "0"), ("a/2.png", "1")]
    cells = [(4, 3), (2, 4), (6, 8), (5, 5)]
    shown = {"a/1.png": cells[:1], "a/2.png": cells[1:3], ALONE: cells[3:]}
    for row in rows:
        box = np.array([float(row[key]) for key in ("box_x", "box_y", "box_w", "box_h")])
        middle = box[:2] + box[2:] / 2
        cell = min(shown[row["path"]], key=lambda one: np.abs(np.array(one) * STRIDE_PX - middle).sum())
        assert np.allclose(box, [*(np.array(cell) * STRIDE_PX - (WIDTH_PX / 2, HEIGHT_PX / 2)), WIDTH_PX, HEIGHT_PX])
        assert float(row["quality"]) == pytest.approx(expected(crop(shown[row["path"]], cell)), abs=1e-4)
        assert 0.9 < float(row["detector_score"]) <= 1
    assert sorted(float(row["percentile"]) for row in rows) == [25, 50, 75, 100]
    parquet = pyarrow.parquet.read_table(out / "quality-scores.parquet").to_pylist()
    assert [(row["path"], str(row["face"])) for row in parquet] == [(row["path"], row["face"]) for row in rows]
    assert not (out / "quality-scores.pkl").exists()
    assert json.loads((out / "run.json").read_text())["counts"]["faces"] == 4
    page = page_content(out / "scores.html")
    assert page["summary"].startswith("4 faces in 3 of 5 images")
    assert {face["name"] for face in page["faces"]} == {"a/1.png", "a/2.png, face 0", "a/2.png, face 1", ALONE}
    crops = [crop(shown[name], cell) for name in shown for cell in shown[name]]
    for face, row in zip(page["faces"], rows, strict=True):  # its picture is the crop that has its score
        seen = decode_rgb(base64.b64decode(face["jpeg"])).astype(float)
        like = min(crops, key=lambda one: np.abs(seen - one).mean())
        assert face["quality"] == float(row["quality"]) == pytest.approx(expected(like), abs=1e-4)
    first = (out / "quality-scores.csv").read_bytes()
    assert infer(photographs, *wanted(photographs, faces="all")) == 0
    assert (out / "quality-scores.csv").read_bytes() == first


def test_a_photograph_whose_faces_are_too_small_fails_with_that_reason(photographs):
    assert infer(photographs, *wanted(photographs, min_face_px=25)) == 2
    reasons = {row["path"]: row["reason"] for row in rows_of(photographs / "out/failures.csv")}
    assert reasons["a/1.png"] == "no face of 25 px or more found, the largest has 24" and len(reasons) == 5


def test_found_faces_read_back_exactly(tmp_path):
    faces = np.random.default_rng(1).normal(0, 90, (5, 15)).astype(np.float32)
    names = ["a", "a", 'b, "c"\n', "caf\udce9", "caf\udce9"]
    for several in (True, False):
        write_faces(tmp_path / "faces.csv", FaceTable(Names.from_strings(names), faces), several)
        table = read_faces(tmp_path / "faces.csv")
        assert list(table.names) == names and np.array_equal(table.faces, faces)
    assert [row[1] for row in rows_in_bytes(tmp_path, names, faces)] == ["0", "1", "0", "0", "1"]


def rows_in_bytes(folder, names, faces):
    write_faces(folder / "faces.csv", FaceTable(Names.from_strings(names), faces), True)
    with open(folder / "faces.csv", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        return list(csv.reader(stream))[1:]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["dataset.input=detect"], "dataset.detector is needed with dataset.input: detect"),
        (["dataset.detector=yunet:x.onnx"], "dataset.detector has no effect with dataset.input: aligned"),
        (["dataset.input=detect", "dataset.detector=yunet:no.onnx"], "no.onnx: cannot be read"),
        (["dataset.input=detect", "dataset.detector=os.system"], "'os.system' is no detector"),
        (
            ["dataset.input=detect", "dataset.detector=yunet:y", "dataset.landmarks=x"],
            "dataset.landmarks has no effect",
        ),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_is_written(photographs, capsys, overrides, said):
    assert infer(photographs, *overrides) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and said in error[0] and not (photographs / "out").exists()


@pytest.mark.parametrize("faces", ["largest", "all"])
def test_a_killed_run_goes_on_and_two_processes_find_what_one_does(photographs, faces):
    for number in range(20):
        cells = [(2 + number % 9, 2 + number % 7)] + [(8, 8)] * (number % 3 == 0)
        cv2.imwrite(str(photographs / f"faces/{number:02d}.png"), picture(cells))
    arguments = ["-c", str(photographs / "inference_config.yaml"), *wanted(photographs, faces=faces)]
    arguments += ["dataloader.params.batch_size=2", "base.verbose=0"]
    killed = [*arguments, f"base.save_path={photographs}/killed"]
    processes.killed(2, processes.APPEND, "inference.py", *killed)
    assert infer(photographs, *killed[2:]) == 0
    codes, said = processes.finished_in_two("inference.py", *arguments, f"base.save_path={photographs}/two")
    assert codes == [0, 0], said
    assert infer(photographs, *arguments[2:]) == 0
    for name in ("quality-scores.csv", "failures.csv", "landmarks.csv"):
        whole = (photographs / "out" / name).read_bytes()
        assert (photographs / "killed" / name).read_bytes() == whole, name
        assert (photographs / "two" / name).read_bytes() == whole, name
