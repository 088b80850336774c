"""A disk that is full or read-only: one sentence with the path, exit code 2, and the run goes on afterwards."""

import functools

import pytest
import yaml

import train_main
from tests.helpers import inference as helpers_inference
from tests.helpers.detector import face_image, write_bright_cell_detector
from tests.helpers.evaluation import Simulation
from tests.helpers.faces import write_image
from tests.helpers.processes import finished, finished_on_disk, limit_files
from tests.helpers.training import same_bytes, tensors, write_setup
from utils import cli
from utils.errors import ConfigError
from utils.files import atomic_write, make_folder


def train(folder):
    return "train_main.py", "-c", write_setup(folder), f"base.save_path={folder / 'out'}"


def evaluate(folder):
    Simulation(folder)
    return "evaluate.py", "-c", folder / "evaluate.yaml"


def export(folder):
    pytest.importorskip("safetensors")
    helpers_inference.write_setup(folder)
    values = {
        "base": {"save_path": str(folder / "out")},
        "model": {"weight": str(folder / "student.pth"), "config": str(folder / "model_config.yaml")},
        "output": {"formats": ["safetensors"]},
    }
    (folder / "export.yaml").write_text(yaml.safe_dump(values))
    return "export.py", "-c", folder / "export.yaml"


def prepare(folder, task):
    for number in range(150):
        write_image(folder / f"images/{number:03d}.png", face_image(96, 80, (4, 3)))
    lines = [f"{number:03d},{','.join(['40.123456'] * 10)}\n" for number in range(150)]
    (folder / "landmarks.csv").write_text("".join(lines))
    values = {
        "base": {"task": task, "save_path": str(folder / "out"), "verbose": 0},
        "dataset": {"image_location": str(folder / "images"), "landms_location": str(folder / "landmarks.csv")},
        "convert": {"kind": "landmarks", "source": str(folder / "landmarks.csv")},
    }
    if task == "landmarks":
        detector = write_bright_cell_detector(folder / "bright.onnx")
        values["landmarks"] = {"detector": str(detector), "score_threshold": 0.9}
    (folder / "prepare.yaml").write_text(yaml.safe_dump(values))
    return "prepare.py", "-c", folder / "prepare.yaml"


COMMANDS = {
    "train": (train, {"metrics.jsonl": 4096, "resume.pt": 24_576}),
    "evaluate": (evaluate, {"": 40_960}),
    "export": (export, {"student.safetensors": 4096}),
    "check": (lambda folder: prepare(folder, "check"), {}),
    "convert": (lambda folder: prepare(folder, "convert"), {"landmarks.csv": 4096}),
    "landmarks": (lambda folder: prepare(folder, "landmarks"), {"partial/0.jsonl": 8192}),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_read_only_folder_is_one_sentence(name, tmp_path):
    command, _ = COMMANDS[name]
    out = tmp_path / "out"
    code, said = finished_on_disk("ro", out, *command(tmp_path))
    assert code == 2, said
    assert said.splitlines()[-1] == (
        f"error: base.save_path: cannot write to the folder {out} (Read-only file system); name another one"
    )
    assert "Traceback" not in said


@pytest.mark.parametrize(("name", "file"), [(name, file) for name, (_, files) in COMMANDS.items() for file in files])
def test_a_full_disk_is_one_sentence(name, file, tmp_path):
    command, files = COMMANDS[name]
    code, said = finished_on_disk(f"size={files[file]}", tmp_path / "out", *command(tmp_path))
    assert code == 2, said
    last = said.splitlines()[-1]
    assert last.startswith(f"error: {tmp_path / 'out' / file}"), said
    assert "cannot be written (No space left on device); free space" in last and "Traceback" not in said
    assert ("base.resume=auto" in last) == (name == "train")


def test_training_goes_on_when_there_is_space_again(tmp_path):
    """No file may grow to half the size of resume.pt, as if the disk was full."""
    config = write_setup(tmp_path)
    assert train_main.main(["-c", str(config), f"base.save_path={tmp_path / 'whole'}"]) == 0
    assert train_main.main(["-c", str(config), "base.max_steps=4"]) == 0
    before = (tmp_path / "run/resume.pt").read_bytes()
    limit = functools.partial(limit_files, len(before) // 2)
    code, said = finished("train_main.py", "-c", config, "base.resume=auto", first=limit)
    assert code == 2, said
    assert said == (
        f"error: {tmp_path / 'run/resume.pt'}: cannot be written (File too large); free space or give the permission "
        "and go on with base.resume=auto, or choose another folder\n"
    )
    assert (tmp_path / "run/resume.pt").read_bytes() == before and not list((tmp_path / "run").glob(".*"))
    assert train_main.main(["-c", str(config), "base.resume=auto"]) == 0
    assert same_bytes(tensors(tmp_path / "run/aikd-last.pth"), tensors(tmp_path / "whole/aikd-last.pth"))


@pytest.mark.parametrize(("place", "sentence"), [("file", "create"), ("file/below", "create"), ("/sys", "write to")])
def test_a_folder_is_tried_out(tmp_path, place, sentence):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=rf"^base\.save_path: cannot {sentence} the folder .*; name another one$"):
        make_folder(tmp_path / place, "base.save_path")


@pytest.mark.parametrize("place", ["/sys/kernel/forbidden", "/proc/forbidden"])
def test_a_forbidden_file_is_one_sentence_and_other_errors_are_not_hidden(place, capsys):
    def write():
        with open(place, "w"):
            return 0

    if place.startswith("/proc"):
        with pytest.raises(FileNotFoundError):
            cli.run(write)
        return
    assert cli.run(write) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {place}: cannot be ") and "permission and run again, or choose" in error


def test_errors_that_are_not_the_disk_s_keep_their_name(tmp_path):
    for error in (RuntimeError("a network's"), ValueError("a table's"), FileNotFoundError(2, "no", "other")):
        with pytest.raises(type(error)) as caught, atomic_write(tmp_path / "x"):
            raise error
        assert caught.value is error and getattr(caught.value, "filename", "other") == "other"
    assert not list(tmp_path.iterdir())
