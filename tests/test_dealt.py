"""Containers dealt to processes: each names its own, and the results are those of one process over a folder."""

import functools
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

import label
import prepare
from data.sources import dealt, registry
from data.sources.registry import open_dealt, open_source
from tests.helpers import processes
from tests.helpers.containers import write_tar, write_zip
from tests.helpers.detector import face_image, write_bright_cell_detector
from tests.helpers.images import crop_pixels, png_bytes
from tests.helpers.inference import STUDENT, TINY, infer, page_content, rows_of, write_setup
from utils.errors import DataError

FILES = ("quality-scores.csv", "quality-scores.pkl", "failures.csv")


def spread(folder: Path, images: dict[str, bytes], count: int, write=write_tar) -> str:
    """Write the images into so many containers, the last of them empty, names far apart; return their pattern."""
    folder.mkdir(exist_ok=True)
    turned = sorted(images, key=lambda name: name[::-1])
    for number in range(count):
        some = turned[number :: count - 1] if number < count - 1 else []
        write(folder / f"part-{number:03d}.{write.__name__[-3:]}", {name: images[name] for name in some})
    return f"{folder}/part-{{000..{count - 1:03d}}}.{write.__name__[-3:]}"


@pytest.mark.parametrize("at_once", [1, 4, 7, 1 << 19])
def test_names_are_sorted_whatever_fits_into_memory(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(dealt, "_AT_ONCE", at_once)
    monkeypatch.setattr(dealt, "_SAMPLED", 3)
    draws = np.random.default_rng(at_once)
    images = {f"{draws.integers(9)}/é{n:x}.jpg": b"%d" % n for n in draws.permutation(60).tolist()}
    pattern = spread(tmp_path / "tars", images, 6)
    found, whole = open_dealt(pattern, tmp_path / "out"), open_source(pattern)
    names, rows = found.sorted
    assert list(names) == sorted(images, key=os.fsencode) == list(whole.names)
    assert names.digest() == whole.names.digest() and names[-1] == whole.names[-1]
    assert sorted(rows.tolist()) == list(range(60)) and found.begins.tolist() == [0, 12, 24, 36, 48, 60, 60]
    places = found.here(rows)
    assert [found.source.read(place) for place in places.tolist()] == [images[name] for name in names]
    assert os.listdir(tmp_path / "out") == [], "what was sorted on disk is gone"


def test_an_image_in_two_containers_is_an_error(tmp_path, monkeypatch):
    write_zip(tmp_path / "1.zip", {"a.jpg": b"1", "b.jpg": b"2", "c.jpg": b""})
    write_zip(tmp_path / "2.zip", {"0.jpg": b"1", "c.jpg": b"2"})
    for at_once in (1 << 19, 2):
        monkeypatch.setattr(dealt, "_AT_ONCE", at_once)
        with pytest.raises(DataError, match=r"2\.zip: holds 'c\.jpg', as .*1\.zip does; give the images of all files"):
            open_dealt(tmp_path / "?.zip", tmp_path / "out")


def note_opened(path: Path) -> None:
    """Have this process note which containers it opens."""
    opener = registry._open

    def noting(location):
        with open(path, "a") as stream:
            stream.write(f"{Path(location).name}\n")
        return opener(location)

    registry._open = noting


@pytest.fixture
def folder(tmp_path):
    """Write the setup of a run, 13 images of which one is broken as a folder, and its scores in `whole`."""
    write_setup(tmp_path)
    images = {f"id{n % 4}/{n:02d}.png": png_bytes(crop_pixels(n)) for n in range(12)}
    images["id1/broken.png"] = images["id1/01.png"][:200]
    for name, content in images.items():
        (tmp_path / "faces" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "faces" / name).write_bytes(content)
    spread(tmp_path / "tars", images, 4)
    write_zip(tmp_path / "one-1.zip", images)
    assert infer(tmp_path, f"base.save_path={tmp_path}/whole", "base.verbose=0") == 0
    return tmp_path


def arguments(folder: Path, pattern: str, out: str) -> list[str]:
    config = str(folder / "inference_config.yaml")
    return ["-c", config, f"dataset.loc={folder}/{pattern}", f"base.save_path={folder}/{out}", "base.verbose=0"]


def assert_as_whole(folder: Path, out: str) -> None:
    """Compare everything with the scores of the folder: the same bytes, and the same faces on the page."""
    assert len(rows_of(folder / out / "quality-scores.csv")) == 12
    for name in FILES[::2]:
        assert (folder / out / name).read_bytes() == (folder / "whole" / name).read_bytes(), name
    pages = [page_content(folder / place / "scores.html") for place in (out, "whole")]
    assert pages[0]["faces"] == pages[1]["faces"] and all(face["jpeg"] for face in pages[0]["faces"])
    assert pages[0]["failures"] == pages[1]["failures"] != []


def test_each_process_opens_its_own_containers(folder):
    note = functools.partial(note_opened, folder / "opened")
    given = arguments(folder, "tars/part-{000..003}.tar", "two")
    codes, said = processes.finished_in_two("inference.py", *given, second=note)
    assert codes == [0, 0], said
    assert (folder / "opened").read_text().split() == ["part-001.tar", "part-003.tar"]
    assert_as_whole(folder, "two")
    assert infer(folder, *given[2:], f"base.save_path={folder}/one") == 0
    assert_as_whole(folder, "one")


def test_one_container_is_shared_by_two_processes(folder):
    codes, said = processes.finished_in_two("inference.py", *arguments(folder, "one-?.zip", "two"))
    assert codes == [0, 0], said
    assert_as_whole(folder, "two")


def test_a_killed_run_over_containers_goes_on_with_any_number_of_processes(folder, caplog):
    given = arguments(folder, "tars/part-*.tar", "two")
    processes.killed(2, processes.APPEND, "inference.py", *given)
    codes, said = processes.finished_in_two("inference.py", *given, "base.verbose=1")
    assert codes == [0, 0] and "goes on with the unfinished run" in said
    assert_as_whole(folder, "two")
    (folder / "tars/part-000.tar").rename(folder / "tars/part-004.tar")  # the same images, counted otherwise
    processes.killed(2, processes.APPEND, "inference.py", *given)
    write_tar(folder / "tars/part-000.tar", {})
    with caplog.at_level("INFO"):
        assert infer(folder, *given[2:]) == 0
    assert "differs in files.containers" in caplog.text
    assert_as_whole(folder, "two")


def label_arguments(folder: Path, place: str, out: str, source: str) -> list[str]:
    """Write the configuration of a label source over the features of the student; return the arguments of label.py."""
    features = {"module": "model.compact.CompactNet", "weights": str(folder / "features.pth"), "params": TINY}
    torch.save(STUDENT.feature_extractor.state_dict(), folder / "features.pth")
    config = {
        "base": {"save_path": str(folder / out), "device": "cpu", "verbose": 0, "seed": 3},
        "dataset": {"loc": str(folder / place)},
        "dataloader": {"params": {"batch_size": 4}},
        "model": {"config": "label_model.yaml"},
        "source": {"name": source, "ser_fiq": {"passes": 5, "dropout": {"rate": 0.3}}, "sdd_fiqa": {"rounds": 3}},
    }
    (folder / "label_model.yaml").write_text(yaml.safe_dump({"features": features}))
    (folder / f"label_{out}.yaml").write_text(yaml.safe_dump(config))
    return ["-c", str(folder / f"label_{out}.yaml")]


def assert_same_files(folder: Path, out: str, names: tuple[str, ...]) -> None:
    for name in names:
        assert (folder / out / name).read_bytes() == (folder / "all" / name).read_bytes(), name


def test_labels_are_those_of_the_folder_killed_and_dealt(folder):
    assert label.main(label_arguments(folder, "faces", "all", "ser_fiq")) == 0
    given = label_arguments(folder, "tars/part-{000..003}.tar", "two", "ser_fiq")
    processes.killed(1, processes.APPEND, "label.py", *given)
    note = functools.partial(note_opened, folder / "opened")
    codes, said = processes.finished_in_two("label.py", *given, "base.verbose=1", second=note)
    assert codes == [0, 0] and "goes on with the unfinished run" in said, said
    assert (folder / "opened").read_text().split() == ["part-001.tar", "part-003.tar"]
    files = ("labels.csv", "labels.pkl", "failures.csv")
    assert_same_files(folder, "two", files)
    assert len(rows_of(folder / "two/labels.csv")) == 12
    pages = [page_content(folder / place / "scores.html") for place in ("two", "all")]
    assert pages[0]["faces"] == pages[1]["faces"] and all(face["jpeg"] for face in pages[0]["faces"])
    assert label.main([*given, f"base.save_path={folder}/one"]) == 0
    assert_same_files(folder, "one", files)


@pytest.mark.parametrize("more", [("source.name=sdd_fiqa",), ("dataset.sample=7",)])
def test_what_compares_or_draws_images_names_all_of_them(folder, more):
    """There the rows are those of the names, not counted container by container: nothing differs from a folder."""
    assert label.main([*label_arguments(folder, "faces", "all", "ser_fiq"), *more]) == 0
    assert label.main([*label_arguments(folder, "tars/part-*.tar", "one", "ser_fiq"), *more]) == 0
    assert_same_files(folder, "one", ("labels.csv", "labels.pkl", "failures.csv"))
    request = json.loads((folder / "one/run.json").read_text())["request"]
    assert "containers" not in request["files"] and request["files"]["count"] == (13 if "sdd" in more[0] else 7)


def write_photographs(folder: Path) -> str:
    """Write 12 photographs, one of them without a face, as a folder and as three .zip files; return their pattern."""
    write_bright_cell_detector(folder / "bright.onnx")
    cells = {f"{n % 5}/{n}.png": [(3 + n % 6, 4)] + [(5, 8)] * (n % 2) for n in range(11)}
    images = {name: face_image(96, 104, *places) for name, places in cells.items()}
    images["3/dark.png"] = face_image(96, 104)
    shaded = {name: np.maximum(image, np.uint8(n)) for n, (name, image) in enumerate(images.items())}
    encoded = {name: cv2.imencode(".png", image)[1].tobytes() for name, image in shaded.items()}
    for name, content in encoded.items():
        (folder / "faces" / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / "faces" / name).write_bytes(content)
    return spread(folder / "zips", encoded, 3, write_zip)


def test_landmarks_are_detected_container_by_container(tmp_path):
    pattern = write_photographs(tmp_path)
    config = {
        "base": {"task": "landmarks", "verbose": 0},
        "dataset": {"image_location": str(tmp_path / "faces")},
        "landmarks": {"detector": f"yunet:{tmp_path}/bright.onnx", "score_threshold": 0.9},
    }
    (tmp_path / "prepare.yaml").write_text(yaml.safe_dump(config))
    given = ["-c", str(tmp_path / "prepare.yaml")]
    assert prepare.main([*given, f"base.save_path={tmp_path}/all"]) == 0
    given.append(f"dataset.image_location={pattern}")
    processes.killed(2, processes.APPEND, "prepare.py", *given, f"base.save_path={tmp_path}/two")
    note = functools.partial(note_opened, tmp_path / "opened")
    codes, said = processes.finished_in_two("prepare.py", *given, f"base.save_path={tmp_path}/two", second=note)
    assert codes == [0, 0], said
    assert (tmp_path / "opened").read_text().split() == ["part-001.zip"]
    assert prepare.main([*given, f"base.save_path={tmp_path}/one"]) == 0
    for out in ("one", "two"):
        assert_same_files(tmp_path, out, ("landmarks.csv", "failures.csv"))
    assert len(rows_of(tmp_path / "one/landmarks.csv")) == 11
    assert json.loads((tmp_path / "two/run.json").read_text())["counts"]["resumed"] >= 2


def test_faces_are_found_container_by_container_and_used_again(tmp_path, caplog):
    write_setup(tmp_path)
    pattern = write_photographs(tmp_path)
    more = [
        "dataset.input=detect", f"dataset.detector=yunet:{tmp_path}/bright.onnx", "dataset.yunet.score_threshold=0.9",
        "dataset.faces=all",
    ]  # fmt: skip
    assert infer(tmp_path, *more, f"base.save_path={tmp_path}/whole") == 0
    given = ["-c", str(tmp_path / "inference_config.yaml"), f"dataset.loc={pattern}", *more]
    for again in (False, True):
        codes, said = processes.finished_in_two("inference.py", *given, f"base.save_path={tmp_path}/two")
        assert codes == [0, 0] and ("landmarks.csv: used again" in said) == again, said
        for name in ("quality-scores.csv", "failures.csv", "landmarks.csv"):
            assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
        pages = [page_content(tmp_path / place / "scores.html")["faces"] for place in ("two", "whole")]
        assert pages[0] == pages[1] and len(pages[0]) == len(rows_of(tmp_path / "whole/quality-scores.csv")) == 16
    with caplog.at_level("INFO"):
        assert infer(tmp_path, f"dataset.loc={pattern}", *more, f"base.save_path={tmp_path}/two") == 0
    assert "landmarks.csv: used again" in caplog.text
    assert (tmp_path / "two/landmarks.csv").read_bytes() == (tmp_path / "whole/landmarks.csv").read_bytes()
