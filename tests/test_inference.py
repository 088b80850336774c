"""inference.py: right scores for every kind of image and of weights, landmarks used, mistakes named."""

import io
import json
import os
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from scipy.stats import percentileofscore

from data.alignment import TEMPLATE_112, align
from data.tables import scores
from data.tables.landmarks import read_landmarks, write_landmarks_csv
from data.tables.scores import percentiles
from model.ai_kd import WrapperModel
from model.mlp import LinearHead
from tests.helpers.faces import spoil_landmarks
from tests.helpers.images import (
    crop_pixels,
    jpeg_bytes,
    write_broken,
    write_bytes,
    write_crops,
    write_image,
    write_twins,
)
from tests.helpers.inference import (
    STUDENT,
    assert_scores,
    expected,
    expected_of,
    infer,
    rows_of,
    scores_of,
    write_setup,
)
from tests.helpers.recognition import write_face_records
from utils.contract import InputContract, save_contract
from utils.pickles import load_restricted_pickle


@pytest.fixture
def setup(tmp_path, caplog):
    caplog.set_level("INFO")
    torch.set_num_threads(1)  # equal bytes need equal threads, and a process of a test has one
    return write_setup(tmp_path)


# ---- scores


@pytest.mark.parametrize("count", [1, 4, 5, 9])
def test_every_image_is_scored_whatever_is_left_for_the_last_batch(setup, count):
    names = write_crops(setup / "faces", count)
    assert infer(setup) == 0
    wanted = expected_of(names)
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


@pytest.mark.parametrize("count", [0, 1, 3, 4, 8])
def test_a_pickle_written_in_parts_is_one_dict(monkeypatch, count):
    monkeypatch.setattr(scores, "_ENTRIES_AT_ONCE", 3)
    wanted = {f"folder/{i}.png": np.float32(i / 7) for i in range(count)}
    stream = io.BytesIO()
    scores.dump_dict(wanted.items(), stream)
    for load in (pickle.loads, lambda content: load_restricted_pickle(io.BytesIO(content))):
        found = load(stream.getvalue())
        assert type(found) is dict and list(found.items()) == list(wanted.items())
        assert all(type(value) is np.float32 for value in found.values())


def test_a_pickle_of_many_entries_is_written_without_holding_them(monkeypatch, tmp_path):
    monkeypatch.setattr(scores, "_ENTRIES_AT_ONCE", 1000)
    tracemalloc.start()
    try:
        with open(tmp_path / "many.pkl", "wb") as stream:
            scores.dump_dict(((f"folder/{i}.png", float(i)) for i in range(40_000)), stream)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1e6  # the dict alone would take more than four times that


def test_bf16_is_close_and_recorded(setup):
    write_crops(setup / "faces", 5)
    assert infer(setup) == 0
    full = scores_of(setup / "out")
    assert infer(setup, "base.precision=bf16") == 0
    half = scores_of(setup / "out")
    np.testing.assert_allclose(list(half.values()), list(full.values()), atol=0.05)
    assert half != full
    assert json.loads((setup / "out/run.json").read_text())["request"]["precision"] == "bf16, the network itself"


# ---- image kinds


def test_every_lossless_twin_scores_like_the_plain_png(setup):
    pixels = crop_pixels(3)
    names = write_twins(setup / "faces", pixels)
    assert infer(setup) == 0
    assert_scores(scores_of(setup / "out"), {name: expected(pixels) for name in names})


def test_files_without_a_suffix_are_what_their_content_is(setup):
    pixels, kinds = crop_pixels(3), ("bmp", "png", "ppm", "tif", "webp")
    for kind in kinds:
        write_image(setup / f"faces/{kind}.{kind}", pixels)
        (setup / f"faces/{kind}.{kind}").rename(setup / f"faces/as_{kind}")
    write_image(setup / "faces/odd.png", pixels)
    (setup / "faces/odd.png").rename(setup / "faces/a.gif")  # another kind than its suffix says
    (setup / "faces/notes").write_text("no image")
    (setup / "faces/README").write_text("nor a candidate")
    assert infer(setup) == 0
    names = ["a.gif", *(f"as_{kind}" for kind in kinds)]
    assert_scores(scores_of(setup / "out"), dict.fromkeys(names, expected(pixels)))
    reasons = {row["path"]: row["reason"] for row in rows_of(setup / "out/failures.csv")}
    assert list(reasons) == ["notes"] and reasons["notes"].startswith("not an image (no JPEG, PNG")
    assert json.loads((setup / "out/run.json").read_text())["counts"]["other_files"] == 1
    assert infer(setup, f"dataset.loc={setup}/faces/as_png", f"base.save_path={setup}/single") == 0
    assert_scores(scores_of(setup / "single"), {"as_png": expected(pixels)})


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


def test_a_record_file_scores_like_the_files_in_it(setup):
    names = write_crops(setup / "faces", 11)
    write_face_records(setup / "train.rec", [(setup / "faces" / name, 0) for name in names])
    assert infer(setup) == 0
    files = scores_of(setup / "out")
    assert infer(setup, f"dataset.loc={setup}/train.rec") == 0
    records = scores_of(setup / "out")
    assert list(records) == [str(key) for key in range(1, 12)]  # by number, not by text
    assert list(records.values()) == [files[name] for name in names]


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


@pytest.mark.parametrize("looks", ["the eyes are exchanged", "they are fractions of the image, not pixels"])
def test_landmarks_in_a_wrong_order_are_refused_before_anything_is_written(setup, capsys, looks):
    write_landmarks(setup, ["a/1.png", "a/2.png", "b/1.png"])
    spoil_landmarks(setup / "landmarks.csv", looks)
    assert infer(setup, "dataset.input=landmarks", f"dataset.landmarks={setup}/landmarks.csv") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {setup}/landmarks.csv: 100% of the landmarks") and looks in error
    assert not (setup / "out").exists()


def test_landmarks_that_are_often_unlike_a_face_are_said(setup, caplog):
    write_landmarks(setup, ["a/1.png", "a/2.png", "b/1.png"])
    table = read_landmarks(setup / "landmarks.csv")
    table.points[0] = table.points[0, :, ::-1].copy()
    write_landmarks_csv(setup / "landmarks.csv", table.names, table.points)
    assert infer(setup, "dataset.input=landmarks", f"dataset.landmarks={setup}/landmarks.csv") == 0
    assert caplog.text.count("33% of the landmarks are unlike a face in template order, whatever its pose") == 1


def test_a_crop_that_is_not_square_is_squeezed_with_a_warning(setup, caplog):
    write_image(setup / "faces/wide.png", crop_pixels(1, 128)[:100])
    write_image(setup / "faces/large.png", np.full((200, 200, 3), 90, np.uint8))
    assert infer(setup, "dataset.accept_unusual=1") == 0
    assert "'wide.png' is not square" in caplog.text
    assert scores_of(setup / "out")["large.png"] == pytest.approx(
        expected(np.full((112, 112, 3), 90, np.uint8)), abs=1e-5
    )
    counts = json.loads((setup / "out/run.json").read_text())["counts"]
    assert (counts["not_square"], counts["resized"]) == (1, 1)
    assert "1 images were not square and have been squeezed" in caplog.text
    assert caplog.text.count(RESIZED) == 1


RESIZED = (
    "1 images were not 112x112 and were resized; if they are photographs rather than aligned crops, use "
    "dataset.input=landmarks"
)


def test_resizing_is_said_of_photographs_only(setup, caplog):
    write_crops(setup / "faces", 2)
    write_landmarks(setup, ["a/1.png", "a/2.png"])
    assert infer(setup, "dataset.loc=" + str(setup / "faces/a"), "dataset.accept_unusual=1") == 0
    assert RESIZED.replace("1 images", "2 images") in caplog.text
    caplog.clear()
    extra = ["dataset.input=landmarks", f"dataset.landmarks={setup}/landmarks.csv", "dataset.on_missing=skip"]
    assert infer(setup, *extra) == 0 and "resized" not in caplog.text
    for path in (setup / "faces/a").iterdir():
        path.unlink()
    assert infer(setup) == 0 and "resized" not in caplog.text


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
    wanted = expected_of(names, student)
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
