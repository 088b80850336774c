"""inference.py: right scores beside every kind of bad file, nothing lost, the same bytes after a kill."""

import csv
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
import yaml
from safetensors.torch import save_file
from scipy.stats import percentileofscore

import inference
from data.alignment import TEMPLATE_112, align
from data.labels import read_scores
from data.score_files import percentiles
from model.ai_kd import WrapperModel
from model.compact import CompactNet
from model.mlp import MLP, LinearHead
from tests.helpers_images import (
    crop_pixels,
    jpeg_bytes,
    write_broken,
    write_bytes,
    write_crops,
    write_image,
    write_twins,
)
from utils import cli
from utils.contract import InputContract, save_contract

ROOT = Path(__file__).resolve().parent.parent
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
TINY = {"num_features": 8, "width": 4}
ODD_NAMES = (
    "with blank.png",
    "comma, and 'quote'.png",
    'double "quoted".png',
    "line\nbreak.png",
    "carriage\rreturn.png",
    " leading and trailing .png",
    "Ünïcödé 人脸 🙂.png",
    "semi;colon\ttab.png",
    "-dash=equals.png",
    os.fsdecode(b"latin-1 \xe9t\xe9.png"),
)


def tiny_student(seed: int = 5) -> WrapperModel:
    torch.manual_seed(seed)
    student = WrapperModel(CompactNet(**TINY), MLP(8, 16)).eval()
    for module in student.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return student


STUDENT = tiny_student()


@pytest.fixture
def setup(tmp_path, caplog):
    """Write weights and both YAML files; the model's own weights file does not exist."""
    torch.save(STUDENT.state_dict(), tmp_path / "student.pth")
    model = {
        "features": {"module": "model.compact.CompactNet", "weights": "nowhere/r100.pth", "params": TINY},
        "head": {"module": "model.mlp.MLP", "params": {"hidden_dim": 16}},
    }
    config = {
        "base": {"verbose": 1, "save_path": str(tmp_path / "out"), "seed": 1, "device": "cpu"},
        "dataset": {"loc": str(tmp_path / "faces")},
        "dataloader": {"params": {"batch_size": 4}},
        "model": {"config": str(tmp_path / "model_config.yaml"), "weight": str(tmp_path / "student.pth")},
    }
    caplog.set_level("INFO")
    torch.set_num_threads(1)  # equal bytes need equal threads, and the processes below have one
    (tmp_path / "faces").mkdir()
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump(model))
    (tmp_path / "inference_config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def infer(setup: Path, *overrides: str) -> int:
    return cli.run(lambda: inference.main(["-c", str(setup / "inference_config.yaml"), *overrides]))


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as stream:
        return list(csv.DictReader(stream))


def scores_of(folder: Path) -> dict[str, np.float32]:
    return {row["path"]: np.float32(row["quality"]) for row in rows_of(folder / "quality-scores.csv")}


def expected(pixels: np.ndarray, student: WrapperModel = STUDENT) -> float:
    """Score a crop the long way round, one image at a time."""
    x = torch.from_numpy((pixels.astype(np.float32) / 255 - 0.5) / 0.5).permute(2, 0, 1)[None]
    with torch.no_grad():
        return student(x.contiguous())[1].item()


def assert_scores(found: dict[str, np.float32], wanted: dict[str, float]) -> None:
    assert list(found) == sorted(wanted)
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, abs=1e-5), name


# ---- scores


@pytest.mark.parametrize("count", [1, 4, 5, 9])
def test_every_image_is_scored_whatever_is_left_for_the_last_batch(setup, count):
    names = write_crops(setup / "faces", count)
    assert infer(setup) == 0
    wanted = {name: expected(crop_pixels(int(Path(name).stem))) for name in names}
    assert_scores(scores_of(setup / "out"), wanted)
    assert len(set(wanted.values())) == count  # the oracle tells images apart


def test_the_official_pickle_maps_full_paths_as_walked_to_float32(setup):
    names = write_crops(setup / "faces", 3)
    loc = f"{setup}/faces/"
    assert infer(setup, f"dataset.loc={loc}") == 0
    with open(setup / "out/quality-scores.pkl", "rb") as stream:
        table = pickle.load(stream)
    walked = sorted(os.path.join(top, file) for top, _, files in os.walk(loc) for file in files)
    assert list(table) == walked
    assert {type(value) for value in table.values()} == {np.float32}
    assert list(table.values()) == list(scores_of(setup / "out").values())
    assert len(names) == len(table)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
def test_scores_do_not_depend_on_the_batch_size(setup, batch_size):
    write_crops(setup / "faces", 7)
    assert infer(setup, "dataloader.params.batch_size=7", f"base.save_path={setup}/whole") == 0
    assert infer(setup, f"dataloader.params.batch_size={batch_size}") == 0
    one, other = scores_of(setup / "whole"), scores_of(setup / "out")
    assert list(one) == list(other)
    np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=0, atol=1e-5)


def test_scores_do_not_depend_on_the_decoding_processes(setup):
    write_crops(setup / "faces", 9)
    write_broken(setup / "faces")
    assert infer(setup) == 0
    assert infer(setup, "dataloader.params.num_workers=2", f"base.save_path={setup}/two") == 0
    for name in ("quality-scores.csv", "quality-scores.pkl", "failures.csv"):
        assert (setup / "out" / name).read_bytes() == (setup / "two" / name).read_bytes()


def test_percentiles_are_ranks_within_the_run(setup):
    write_crops(setup / "faces", 7)
    assert infer(setup) == 0
    rows = rows_of(setup / "out/quality-scores.csv")
    qualities = [float(row["quality"]) for row in rows]
    wanted = [percentileofscore(qualities, value, kind="rank") for value in qualities]
    assert [float(row["percentile"]) for row in rows] == pytest.approx(wanted, abs=1e-4)
    assert max(wanted) == 100


def test_equal_scores_share_their_mean_rank():
    values = np.float32([0.5, -1, 0.5, 2, 0.5, 2])
    wanted = [percentileofscore(values, value, kind="rank") for value in values]
    np.testing.assert_allclose(percentiles(values), wanted)
    np.testing.assert_allclose(wanted, [50, 100 / 6, 50, 550 / 6, 50, 550 / 6])
    assert percentiles(np.float32([3])).tolist() == [100]


def test_bf16_is_close_and_recorded(setup):
    write_crops(setup / "faces", 5)
    assert infer(setup) == 0
    full = scores_of(setup / "out")
    assert infer(setup, "base.precision=bf16") == 0
    half = scores_of(setup / "out")
    np.testing.assert_allclose(list(half.values()), list(full.values()), atol=0.05)
    assert half != full
    assert json.loads((setup / "out/run.json").read_text())["request"]["precision"] == "bf16"


# ---- image kinds


def test_every_lossless_twin_scores_like_the_plain_png(setup):
    pixels = crop_pixels(3)
    names = write_twins(setup / "faces", pixels)
    assert infer(setup) == 0
    assert_scores(scores_of(setup / "out"), {name: expected(pixels) for name in names})


def test_a_16_bit_grey_png_scores_like_its_8_bit_twin(setup):
    grey = crop_pixels(4)[:, :, 1]
    write_image(setup / "faces/grey8.png", grey)
    write_image(setup / "faces/grey16.png", grey.astype(np.uint16) * 257)
    write_image(setup / "faces/grey16.tif", grey.astype(np.uint16) * 257)
    assert infer(setup) == 0
    wanted = expected(np.repeat(grey[:, :, None], 3, axis=2))
    assert_scores(scores_of(setup / "out"), dict.fromkeys(["grey16.png", "grey16.tif", "grey8.png"], wanted))


def test_lossy_kinds_are_close_to_the_original(setup):
    pixels = crop_pixels(5)
    for name in ("a.JPG", "b.jpeg", "c.Jpe"):
        write_bytes(setup / "faces" / name, jpeg_bytes(pixels))
    write_image(setup / "faces/d.webp", pixels, lossless=False, quality=90)
    assert infer(setup) == 0
    found = scores_of(setup / "out")
    assert list(found) == ["a.JPG", "b.jpeg", "c.Jpe", "d.webp"]
    np.testing.assert_allclose(list(found.values()), expected(pixels), atol=0.05)


def test_exif_rotation_can_be_ignored(setup):
    pixels = crop_pixels(6)
    write_twins(setup / "faces", pixels)
    assert infer(setup, "dataset.exif=0") == 0
    found = scores_of(setup / "out")
    assert found["turned.png"] == pytest.approx(expected(np.rot90(pixels).copy()), abs=1e-5)
    assert found["twin.bmp"] == pytest.approx(expected(pixels), abs=1e-5)


# ---- failures


def test_bad_files_are_named_with_a_reason_and_good_ones_scored_right(setup):
    names = write_crops(setup / "faces", 6)
    words = write_broken(setup / "faces")
    write_bytes(setup / "faces/notes.txt", b"not an image by its suffix")
    assert infer(setup) == 0
    assert_scores(scores_of(setup / "out"), {name: expected(crop_pixels(int(Path(name).stem))) for name in names})
    failures = rows_of(setup / "out/failures.csv")
    assert [row["path"] for row in failures] == sorted(words)
    for row in failures:
        assert words[row["path"]] in row["reason"], row
    counts = json.loads((setup / "out/run.json").read_text())["counts"]
    assert counts == {"images": 12, "scored": 6, "failed": 6, "not_square": 0, "other_files": 1}


def test_unscored_images_exit_3_when_strict(setup, capsys):
    write_crops(setup / "faces", 2)
    assert infer(setup, "base.strict=1") == 0
    write_bytes(setup / "faces/empty.jpg", b"")
    assert infer(setup, "base.strict=1") == 3
    assert len(scores_of(setup / "out")) == 2
    assert infer(setup) == 0


def test_odd_names_survive_in_every_file(setup):
    good = {name: crop_pixels(seed) for seed, name in enumerate(ODD_NAMES)}
    for name, pixels in good.items():
        write_image(setup / "faces/good" / name, pixels)
        write_bytes(setup / "faces/bad" / name, b"")
    assert infer(setup, "output.formats=[txt, parquet]") == 0
    wanted = {f"good/{name}": expected(pixels) for name, pixels in good.items()}
    out = setup / "out"
    found = scores_of(out)
    by_bytes = sorted(wanted, key=os.fsencode)
    assert list(found) == by_bytes
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, abs=1e-5)
    failures = {row["path"]: row["reason"] for row in rows_of(out / "failures.csv")}
    assert failures == dict.fromkeys((f"bad/{name}" for name in ODD_NAMES), "empty file")
    with open(out / "quality-scores.pkl", "rb") as stream:
        assert {os.path.relpath(p, setup / "faces"): v for p, v in pickle.load(stream).items()} == found
    ours = read_scores(out / "quality-scores.csv")
    assert dict(zip(ours.keys, ours.values.astype(np.float32))) == found
    text = read_scores(out / "quality-scores.txt")
    one_line = {name: v for name, v in found.items() if "\n" not in name and "\r" not in name}
    assert dict(zip(text.keys, text.values.astype(np.float32))) == one_line
    table = pyarrow.parquet.read_table(out / "quality-scores.parquet").to_pydict()
    assert table["path"] == [os.fsencode(n).decode("utf-8", "backslashreplace") for n in by_bytes]
    assert np.array_equal(np.float32(table["quality"]), list(found.values()))


@pytest.mark.parametrize("broken", [False, True])
def test_nothing_scored_exits_2_after_writing_the_failures(setup, capsys, broken):
    words = write_broken(setup / "faces") if broken else {}
    write_bytes(setup / "faces/notes.txt", b"")
    assert infer(setup) == 2
    assert [row["path"] for row in rows_of(setup / "out/failures.csv")] == sorted(words)
    assert not list((setup / "out").glob("quality-scores.*"))
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(f"error: {setup}/faces: ")
    assert ("failures.csv" if broken else "holds no image") in message


def test_a_network_that_returns_nan_is_a_failure_not_a_score(setup):
    write_crops(setup / "faces", 3)
    state = STUDENT.state_dict()
    state["quality_head.l1.bias"] = torch.full_like(state["quality_head.l1.bias"], 10)
    state["quality_head.l2.weight"] = torch.full_like(state["quality_head.l2.weight"], 3e38)
    torch.save(state, setup / "student.pth")
    assert infer(setup) == 2
    assert [row["reason"] for row in rows_of(setup / "out/failures.csv")] == ["the network returned inf"] * 3


# ---- landmarks


def write_landmarks(folder: Path, names: list[str]) -> None:
    lines = []
    for seed, name in enumerate(names):
        pixels = crop_pixels(seed, 160)
        write_image(folder / "faces" / name, pixels)
        points = TEMPLATE_112 * 0.9 + (20, 12) + seed
        lines.append(",".join([name, *(repr(float(np.float32(v))) for v in points.ravel())]))
    (folder / "landmarks.csv").write_text("\n".join(lines) + "\n")


def aligned_score(seed: int) -> float:
    points = (TEMPLATE_112 * 0.9 + (20, 12) + seed).astype(np.float32)
    return expected(align(crop_pixels(seed, 160), points))


def test_photographs_are_aligned_by_their_landmarks(setup):
    write_landmarks(setup, ["a/1.png", "a/2.png", "b/1.png"])
    extra = ["dataset.input=landmarks", f"dataset.landmarks={setup}/landmarks.csv"]
    assert infer(setup, *extra) == 0
    wanted = {name: aligned_score(seed) for seed, name in enumerate(["a/1.png", "a/2.png", "b/1.png"])}
    assert_scores(scores_of(setup / "out"), wanted)


def test_images_without_landmarks_stop_the_run_or_are_listed(setup, capsys):
    write_landmarks(setup, ["a/1.png", "a/2.png"])
    write_image(setup / "faces/a/3.png", crop_pixels(9))
    extra = ["dataset.input=landmarks", f"dataset.landmarks={setup}/landmarks.csv"]
    assert infer(setup, *extra) == 2
    assert "1 of 3 images have no landmarks, first 'a/3.png'" in capsys.readouterr().err
    assert not (setup / "out").exists()
    assert infer(setup, *extra, "dataset.on_missing=skip") == 0
    assert list(scores_of(setup / "out")) == ["a/1.png", "a/2.png"]
    assert rows_of(setup / "out/failures.csv") == [{"path": "a/3.png", "reason": "no landmarks"}]


def test_a_crop_that_is_not_square_is_squeezed_with_a_warning(setup, caplog):
    write_image(setup / "faces/wide.png", crop_pixels(1, 128)[:100])
    write_image(setup / "faces/large.png", np.full((200, 200, 3), 90, np.uint8))
    assert infer(setup) == 0
    assert "'wide.png' is not square" in caplog.text
    assert scores_of(setup / "out")["large.png"] == pytest.approx(
        expected(np.full((112, 112, 3), 90, np.uint8)), abs=1e-5
    )
    assert json.loads((setup / "out/run.json").read_text())["counts"]["not_square"] == 1


# ---- weights and contract


def test_safetensors_score_the_same(setup):
    write_crops(setup / "faces", 3)
    assert infer(setup) == 0
    before = (setup / "out/quality-scores.csv").read_bytes()
    save_file(STUDENT.state_dict(), setup / "student.safetensors")
    assert infer(setup, f"model.weight={setup}/student.safetensors") == 0
    assert (setup / "out/quality-scores.csv").read_bytes() == before


RENAMES = {
    "eDifFIQA": {"feature_extractor.": "base_model.", "quality_head.": "mlp."},
    "DifFIQA(R)": {"feature_extractor.": "base.", "quality_head.": "linear."},
    "CR-FIQA": {"feature_extractor.": "", "quality_head.": "qs."},
}


@pytest.mark.parametrize("layout", RENAMES)
def test_weights_of_other_quality_models_score(setup, layout):
    student = STUDENT
    if layout != "eDifFIQA":
        student = WrapperModel(STUDENT.feature_extractor, LinearHead(8)).eval()
        model = yaml.safe_load((setup / "model_config.yaml").read_text())
        model["head"] = {"module": "model.mlp.LinearHead"}
        (setup / "model_config.yaml").write_text(yaml.safe_dump(model))
    state = {}
    for key, tensor in student.state_dict().items():
        prefix = key.partition(".")[0] + "."
        state[RENAMES[layout][prefix] + key.removeprefix(prefix)] = tensor
    torch.save(state, setup / "student.pth")
    names = write_crops(setup / "faces", 3)
    assert infer(setup) == 0
    wanted = {name: expected(crop_pixels(int(Path(name).stem)), student) for name in names}
    assert_scores(scores_of(setup / "out"), wanted)


def test_the_contract_beside_the_weights_must_match(setup, capsys, caplog):
    write_crops(setup / "faces", 2)
    assert infer(setup) == 0
    assert caplog.text.count("no contract file student.json") == 1
    save_contract(InputContract(), setup / "student.pth")
    assert infer(setup, "base.verbose=0") == 0
    assert caplog.text.count("no contract file") == 1
    save_contract(InputContract(mean=(0.4, 0.4, 0.4)), setup / "student.pth")
    before = (setup / "out/quality-scores.csv").read_bytes()
    capsys.readouterr()
    assert infer(setup) == 2
    message = capsys.readouterr().err
    assert "mean" in message and "student.json" in message and message.count("\n") == 1
    assert (setup / "out/quality-scores.csv").read_bytes() == before


# ---- mistakes


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["dataset.loc=nowhere/faces"], ["nowhere/faces", "dataset.loc"]),
        (["model.weight=nowhere/w.pth"], ["nowhere/w.pth", "weights"]),
        (["model.config=nowhere/m.yaml"], ["nowhere/m.yaml"]),
        (["base.device=cuda:9"], ["cuda:9", "base.device"]),
        (["base.device=tpu"], ["tpu", "base.device"]),
        (["base.strickt=1"], ["base.strickt", "strict"]),
        (["base.precision=fp8"], ["base.precision", "fp8"]),
        (["dataloader.params.batch_size=0"], ["dataloader.params.batch_size", "0"]),
        (["dataset.input=landmarks"], ["dataset.landmarks"]),
        (["dataset.landmarks=x.csv"], ["dataset.input"]),
        (["dataset.input=landmarks", "dataset.landmarks=nowhere.csv"], ["nowhere.csv"]),
        (["output.formats=[xml]"], ["output.formats", "xml"]),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_2(setup, capsys, overrides, words):
    write_crops(setup / "faces", 1)
    assert infer(setup, *overrides) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    assert all(word in lines[0] for word in words), lines
    assert not (setup / "out").exists()


def test_weights_that_do_not_fit_are_named_before_anything_is_written(setup, capsys):
    write_crops(setup / "faces", 1)
    state = STUDENT.state_dict()
    del state["quality_head.l1.weight"]
    torch.save(state, setup / "student.pth")
    assert infer(setup) == 2
    assert "quality_head.l1.weight" in capsys.readouterr().err
    assert not (setup / "out").exists()


# ---- interruption


def start(setup: Path, *overrides: str) -> subprocess.Popen:
    command = [sys.executable, "inference.py", "-c", str(setup / "inference_config.yaml"), *overrides]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=ONE_THREAD)


def kill_after(process: subprocess.Popen, partial: Path, lines: int) -> None:
    """Kill the process without warning once its partial file has so many lines."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if partial.exists() and partial.read_bytes().count(b"\n") >= lines:
            break
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"


def final_bytes(folder: Path) -> dict[str, bytes]:
    names = ("quality-scores.csv", "quality-scores.pkl", "failures.csv")
    return {name: (folder / name).read_bytes() for name in names}


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(setup, caplog):
    write_crops(setup / "faces", 101)
    write_broken(setup / "faces")
    batches = ["dataloader.params.batch_size=1"]
    assert infer(setup, *batches, f"base.save_path={setup}/whole") == 0
    partial = setup / "out/partial/0.jsonl"
    kill_after(start(setup, *batches), partial, 20)
    done = partial.read_bytes().count(b"\n")
    assert not (setup / "out/quality-scores.csv").exists()
    with open(partial, "ab") as stream:
        stream.write(b'{"first": 0, "quality": [9.0, 9.0, 9')  # what a kill within a write leaves
    caplog.clear()
    assert infer(setup, *batches) == 0
    assert "goes on with the unfinished run" in caplog.text
    assert final_bytes(setup / "out") == final_bytes(setup / "whole")
    facts = json.loads((setup / "out/run.json").read_text())
    assert facts["status"] == "finished"
    assert 0 < facts["last_session"]["images"] <= 107 - done + 1
    assert not (setup / "out/partial").exists()


def interrupted(setup: Path) -> Path:
    """Leave an unfinished run whose scores are recognisably wrong, to see whether they are taken over."""
    assert infer(setup) == 0
    facts = json.loads((setup / "out/run.json").read_text())
    (setup / "out/run.json").write_text(json.dumps({"status": "unfinished", "request": facts["request"]}))
    line = {"first": 0, "quality": [123.0] * 4, "failures": {}, "not_square": 0}
    return write_bytes(setup / "out/partial/0.jsonl", json.dumps(line).encode() + b"\n")


def test_an_unfinished_run_of_the_same_request_is_taken_over(setup):
    write_crops(setup / "faces", 6)
    interrupted(setup)
    assert infer(setup) == 0
    assert list(scores_of(setup / "out").values())[:4] == [123.0] * 4


def other_weights(setup):
    torch.save(tiny_student(6).state_dict(), setup / "student.pth")
    return "weights_sha256"


def other_files(setup):
    write_image(setup / "faces/zz.png", crop_pixels(50))
    return "files.count"


def other_names(setup):
    (setup / "faces/id_0/000.png").rename(setup / "faces/id_0/0000.png")
    return "files.sha256"


def other_preprocessing(setup):
    model = yaml.safe_load((setup / "model_config.yaml").read_text())
    steps = ("Resize", {"size": 112}), ("ToTensor", {}), ("Normalize", {"mean": 0.4, "std": 0.5})
    model["transform"] = {
        f"t{i}": {"module": f"torchvision.transforms.{n}", "params": p} for i, (n, p) in enumerate(steps)
    }
    (setup / "model_config.yaml").write_text(yaml.safe_dump(model))
    return "preprocessing.mean"


@pytest.mark.parametrize("change", [other_weights, other_files, other_names, other_preprocessing])
def test_another_request_starts_anew_and_says_so(setup, caplog, change):
    write_crops(setup / "faces", 6)
    interrupted(setup)
    key = change(setup)
    assert infer(setup) == 0
    assert 123.0 not in scores_of(setup / "out").values()
    assert f"starts anew: the unfinished run in {setup}/out differs in {key}" in caplog.text


def test_a_finished_run_is_replaced(setup, caplog):
    write_crops(setup / "faces", 2)
    assert infer(setup, "output.formats=[txt]") == 0
    write_crops(setup / "faces", 2, start=10)
    assert infer(setup) == 0
    assert "replaces the finished run" in caplog.text
    assert len(scores_of(setup / "out")) == 4
    assert not (setup / "out/quality-scores.txt").exists()


def test_another_batch_size_goes_on_too(setup):
    write_crops(setup / "faces", 9)
    interrupted(setup)
    assert infer(setup, "dataloader.params.batch_size=3") == 0
    found = list(scores_of(setup / "out").items())
    assert found[0][1] == 123.0  # rows 0-2 were done as a whole, row 3 is scored again with 4 and 5
    wanted = {name: expected(crop_pixels(int(Path(name).stem))) for name, _ in found[3:]}
    assert_scores(dict(found[3:]), wanted)


HOLD_LOCK = "import fcntl, sys; f = open(sys.argv[1], 'wb'); fcntl.lockf(f, fcntl.LOCK_EX); print('held'); input()"


def test_two_runs_cannot_share_a_folder(setup, capsys):
    write_crops(setup / "faces", 2)
    lock = write_bytes(setup / "out/partial/lock", b"")
    command = [sys.executable, "-c", HOLD_LOCK, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        assert infer(setup) == 2
        assert "another run writes there" in capsys.readouterr().err
        holder.communicate("\n")
    assert infer(setup) == 0
    assert len(scores_of(setup / "out")) == 2


# ---- several processes


def torchrun(setup: Path, processes: int, *overrides: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command += ["inference.py", "-c", str(setup / "inference_config.yaml"), *overrides]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=ONE_THREAD)


@pytest.mark.slow
def test_two_processes_give_the_same_rows_and_a_dead_one_leaves_a_run_that_goes_on(setup):
    write_crops(setup / "faces", 101)
    write_broken(setup / "faces")
    batches = ["dataloader.params.batch_size=1"]
    assert infer(setup, *batches, f"base.save_path={setup}/whole") == 0
    two = torchrun(setup, 2, *batches, f"base.save_path={setup}/two")
    errors = two.communicate()[1]
    assert two.returncode == 0, errors
    assert final_bytes(setup / "two") == final_bytes(setup / "whole")

    process = torchrun(setup, 2, *batches)
    partial = setup / "out/partial/1.jsonl"
    deadline = time.monotonic() + 60
    while not (partial.exists() and partial.read_bytes().count(b"\n") >= 10) and time.monotonic() < deadline:
        time.sleep(0.001)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    process.communicate()
    assert process.returncode != 0
    assert not (setup / "out/quality-scores.csv").exists()
    assert infer(setup, *batches) == 0
    facts = json.loads((setup / "out/run.json").read_text())
    assert facts["last_session"]["images"] < 107
    assert final_bytes(setup / "out") == final_bytes(setup / "whole")
