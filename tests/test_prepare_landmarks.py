"""prepare.py, jobs/landmarks.py: the landmarks a detector finds, the same after a kill and in several processes."""

import csv
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.alignment import align
from data.detectors.yunet import YuNetDetector
from data.tables.landmarks import read_landmarks
from jobs.journal_lines import sealed
from tests.helpers import inference as helpers_inference
from tests.helpers import processes
from tests.helpers.detector import POINTS, STRIDE_PX, face_image, write_bright_cell_detector
from tests.helpers.prepare import command, run, write_photographs


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_bright_cell_detector(tmp_path_factory.mktemp("detector") / "bright.onnx")


def at(cell):
    """Return the landmarks that the detector finds for a bright cell (column, row)."""
    return POINTS + np.array(cell) * STRIDE_PX


def rows(path):
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as stream:
        return list(csv.reader(stream))


@pytest.fixture
def photographs(tmp_path):
    return write_photographs(tmp_path / "images")


def detect_sections(photographs, model, **options):
    return {
        "base": {"task": "landmarks"},
        "dataset": {"image_location": str(photographs)},
        "landmarks": {"detector": str(model), "score_threshold": 0.9, **options},
    }


@pytest.fixture
def one_thread(photographs, model):
    return detect_sections(photographs, model, num_workers=1)


@pytest.mark.parametrize("threads", [1, 3])
def test_landmarks_of_a_folder(tmp_path, photographs, model, threads):
    assert run(tmp_path, **detect_sections(photographs, model, num_workers=threads)) == 0
    table = read_landmarks(tmp_path / "out/landmarks.csv")
    cells = {"n1/a.png": (4, 3), "n1/b.jpg": (2, 4), 'n2/é, "x"\n.png': (5, 5)}
    assert list(table.names) == list(cells)
    for points, cell in zip(table.points, cells.values(), strict=True):
        assert np.allclose(points, at(cell), atol=1e-3)
    failures = rows(tmp_path / "out/failures.csv")
    assert failures[0] == ["path", "reason"] and failures[1] == ["n2/dark.png", "no face found"]
    assert failures[2][0] == "n3/broken.jpg" and failures[2][1] and len(failures) == 3
    assert sorted(os.listdir(tmp_path / "out")) == ["failures.csv", "landmarks.csv", "run.json"]
    facts = json.loads((tmp_path / "out/run.json").read_text())
    assert facts["status"] == "finished" and facts["request"]["files"]["count"] == 5
    assert facts["counts"] == {"images": 5, "found": 3, "failed": 2, "resumed": 0}


def test_rotated_photographs_give_landmarks_of_the_pixels_that_training_sees(tmp_path, model):
    from PIL import Image

    root = tmp_path / "images"
    root.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    stored = np.rot90(face_image(96, 80, (4, 3)))
    Image.fromarray(np.ascontiguousarray(stored)).save(root / "a.jpg", exif=exif, quality=100)
    assert run(tmp_path, **detect_sections(root, model)) == 0
    assert np.allclose(read_landmarks(tmp_path / "out/landmarks.csv").points[0], at((4, 3)), atol=1e-3)


def test_a_folder_without_faces_and_one_without_images(tmp_path, photographs, model, capsys):
    for name in ("n1", "n3"):
        shutil.rmtree(photographs / name)
    (photographs / 'n2/é, "x"\n.png').unlink()
    assert run(tmp_path, **detect_sections(photographs, model)) == 2
    assert "no face was found in any of 1 images" in capsys.readouterr().err
    assert rows(tmp_path / "out/failures.csv")[1:] == [["n2/dark.png", "no face found"]]
    (photographs / "n2/dark.png").unlink()
    assert run(tmp_path, **detect_sections(photographs, model)) == 2
    assert "no image below this folder" in capsys.readouterr().err


def test_photographs_are_scored_with_the_landmarks_found(tmp_path, photographs, model, capsys):
    helpers_inference.write_setup(tmp_path)
    assert run(tmp_path, **detect_sections(photographs, model)) == 0
    found = tmp_path / "out/landmarks.csv"
    score = (f"dataset.loc={photographs}", "dataset.input=landmarks", f"dataset.landmarks={found}")
    score += (f"base.save_path={tmp_path / 'scores'}", "dataset.accept_unusual=1")  # the toy faces lie in a corner
    assert helpers_inference.infer(tmp_path, *score) == 2
    assert "2 of 5 images have no landmarks" in capsys.readouterr().err and not (tmp_path / "scores").exists()
    assert helpers_inference.infer(tmp_path, *score, "dataset.on_missing=skip") == 0
    scores = helpers_inference.scores_of(tmp_path / "scores")
    assert list(scores) == ["n1/a.png", "n1/b.jpg", 'n2/é, "x"\n.png']
    crop = align(cv2.imread(str(photographs / "n1/a.png"))[:, :, ::-1].copy(), at((4, 3)))
    assert scores["n1/a.png"] == pytest.approx(helpers_inference.expected(crop), abs=1e-4)
    failures = rows(tmp_path / "scores/failures.csv")[1:]
    assert failures == [["n2/dark.png", "no landmarks"], ["n3/broken.jpg", "no landmarks"]]


JOURNAL = "partial/0.jsonl"


def journal_lines(folder):
    path = folder / JOURNAL
    return path.read_bytes().count(b"\n") if path.exists() else -1


def test_a_killed_run_goes_on_and_ends_like_an_uninterrupted_one(tmp_path, model):
    root = tmp_path / "images"
    root.mkdir()
    for number in range(40):
        image = face_image(96, 80, (1 + number % 7, 2 + number % 6)) * (number % 5 > 0)
        image = cv2.resize(image.astype(np.uint8), (800, 960), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(root / f"{number:03d}.png"), image)
    sections = detect_sections(root, model)
    sections["base"]["save_path"] = str(tmp_path / "killed")
    processes.killed(10, processes.APPEND, "prepare.py", *command(tmp_path, **sections))
    before = (tmp_path / "killed" / JOURNAL).read_bytes()
    assert before.count(b"\n") == 10
    with open(tmp_path / "killed" / JOURNAL, "ab") as stream:
        stream.write(b'{"first":0,"val')  # a line the kill cut short

    seen = []
    real = YuNetDetector.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(YuNetDetector, "__call__", lambda self, image: seen.append(1) or real(self, image))
        assert run(tmp_path, **sections) == 0
    assert len(seen) == 40 - before.count(b"\n")
    sections["base"]["save_path"] = str(tmp_path / "whole")
    assert run(tmp_path, **sections) == 0
    for name in ("landmarks.csv", "failures.csv"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len(rows(tmp_path / "whole/landmarks.csv")) == 33 and len(rows(tmp_path / "whole/failures.csv")) == 9


CHANGES = {"threshold": "options.score_threshold", "files": "files.count", "detector": "detector_sha256", "none": None}


@pytest.mark.parametrize("change", CHANGES)
def test_a_journal_of_another_request_is_not_continued(tmp_path, one_thread, change, monkeypatch, capsys):
    sections = one_thread
    real, seen = YuNetDetector.__call__, []

    def interrupted(self, image):
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(self, image)

    monkeypatch.setattr(YuNetDetector, "__call__", interrupted)
    assert run(tmp_path, **sections) == 130
    assert journal_lines(tmp_path / "out") == 2 and not (tmp_path / "out/landmarks.csv").exists()
    if change == "threshold":
        sections["landmarks"]["score_threshold"] = 0.8
    elif change == "files":
        shutil.copy(tmp_path / "images/n1/a.png", tmp_path / "images/n1/c.png")
    elif change == "detector":
        copy, model = tmp_path / "other.onnx", Path(sections["landmarks"]["detector"])
        copy.write_bytes(model.read_bytes() + b"\x32\x00")  # an empty domain: the same network, other bytes
        sections["landmarks"]["detector"] = str(copy)
    seen += [1] * 10
    start = len(seen)
    assert run(tmp_path, "base.verbose=1", **sections) == 0
    differs = f"starts anew: the unfinished run in {tmp_path}/out differs in {CHANGES[change]}"
    goes_on = f"goes on with the unfinished run in {tmp_path}/out"
    assert (differs if CHANGES[change] else goes_on) in capsys.readouterr().err.splitlines()
    assert len(seen) - start == {"none": 2, "files": 5}.get(change, 4)  # the broken file never reaches the detector


def test_a_damaged_journal_costs_only_its_bad_lines(tmp_path, photographs, model, monkeypatch):
    sections = detect_sections(photographs, model, num_workers=1)
    assert run(tmp_path, **sections) == 0
    whole = {name: (tmp_path / "out" / name).read_bytes() for name in ("landmarks.csv", "failures.csv")}
    facts = json.loads((tmp_path / "out/run.json").read_text())
    (tmp_path / "out/run.json").write_text(json.dumps({"status": "unfinished", "request": facts["request"]}))
    (first, *_) = rows(tmp_path / "out/landmarks.csv")[1:]
    points = [float(cell) for cell in first[1:]]
    assert np.allclose(points[:10], at((4, 3)).ravel(), atol=1e-3) and len(points) == 15
    lines = [
        json.dumps({"first": 0, "values": [points], "failures": {}}).encode(),  # the one good line
        json.dumps({"first": 1, "values": [points[:14]], "failures": {}}).encode(),
        json.dumps({"first": 2, "values": [None], "failures": {}}).encode(),
        json.dumps({"first": 3, "values": [["38.3"] * 15], "failures": {}}).encode(),
        json.dumps({"first": 4, "values": [None], "failures": {"0": 7}}).encode(),
        b'["n1/a.png", "no face found"]',
        b'{"first":1,"values":[null],"failures":{"0":"\xff"}}',
    ]
    (tmp_path / "out/partial").mkdir()
    (tmp_path / "out" / JOURNAL).write_bytes(b"".join(map(sealed, lines)))
    seen, real = [], YuNetDetector.__call__
    monkeypatch.setattr(YuNetDetector, "__call__", lambda self, image: seen.append(1) or real(self, image))
    assert run(tmp_path, **sections) == 0
    assert {name: (tmp_path / "out" / name).read_bytes() for name in whole} == whole
    assert len(seen) == 3  # of five images one was done and one is broken


def test_two_detections_cannot_share_a_folder(tmp_path, photographs, model, capsys):
    with processes.held_lock(tmp_path / "out/partial/.lock"):
        assert run(tmp_path, **detect_sections(photographs, model)) == 2
        assert f"{tmp_path}/out: another run writes there" in capsys.readouterr().err
    assert run(tmp_path, **detect_sections(photographs, model)) == 0


@pytest.mark.slow
def test_two_processes_detect_what_one_does(tmp_path, photographs, model):
    sections = detect_sections(photographs, model)
    assert run(tmp_path, **sections) == 0
    arguments = command(tmp_path, f"base.save_path={tmp_path / 'two'}", **sections)
    codes, said = processes.finished_in_two("prepare.py", *arguments)
    assert codes == [0, 0], said
    for name in ("landmarks.csv", "failures.csv"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert json.loads((tmp_path / "two/run.json").read_text())["processes"] == 2
