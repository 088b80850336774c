"""inference.py: nothing is lost. Bad files are named, odd names survive, a killed run ends as if it had not been."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
import yaml

from data.tables.scores import read_scores
from jobs.journal_lines import sealed
from tests.helpers.images import crop_pixels, write_broken, write_bytes, write_crops, write_image
from tests.helpers.inference import (
    STUDENT,
    assert_scores,
    expected,
    expected_of,
    infer,
    rows_of,
    scores_of,
    tiny_student,
    write_repeatable_setup,
)
from tests.helpers.processes import APPEND, finished_in_two, held_lock, killed, last_killed

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


@pytest.fixture
def setup(tmp_path, caplog):
    caplog.set_level("INFO")
    return write_repeatable_setup(tmp_path)


# ---- failures


def test_bad_files_are_named_with_a_reason_and_good_ones_scored_right(setup):
    names = write_crops(setup / "faces", 6)
    words = write_broken(setup / "faces")
    write_bytes(setup / "faces/notes.txt", b"not an image by its suffix")
    assert infer(setup) == 0
    assert_scores(scores_of(setup / "out"), expected_of(names))
    failures = rows_of(setup / "out/failures.csv")
    assert [row["path"] for row in failures] == sorted(words)
    for row in failures:
        assert words[row["path"]] in row["reason"], row
    counts = json.loads((setup / "out/run.json").read_text())["counts"]
    assert counts == {"images": 12, "scored": 6, "failed": 6, "not_square": 0, "resized": 0, "other_files": 1}


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
    assert dict(zip(ours.names, ours.values.astype(np.float32))) == found
    text = read_scores(out / "quality-scores.txt")
    one_line = {name: v for name, v in found.items() if "\n" not in name and "\r" not in name}
    assert dict(zip(text.names, text.values.astype(np.float32))) == one_line
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


# ---- interruption


def final_bytes(folder: Path) -> dict[str, bytes]:
    names = ("quality-scores.csv", "quality-scores.pkl", "failures.csv")
    return {name: (folder / name).read_bytes() for name in names}


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(setup, caplog):
    write_crops(setup / "faces", 101)
    write_broken(setup / "faces")
    batches = ["dataloader.params.batch_size=1"]
    assert infer(setup, *batches, f"base.save_path={setup}/whole") == 0
    partial = setup / "out/partial/0.jsonl"
    killed(20, APPEND, "inference.py", "-c", setup / "inference_config.yaml", *batches)
    assert not (setup / "out/quality-scores.csv").exists()
    with open(partial, "ab") as stream:
        stream.write(b'{"first":0,"values":[[9.0],[9.0],[9')  # what a kill within a write leaves
    caplog.clear()
    assert infer(setup, *batches) == 0
    assert "goes on with the unfinished run" in caplog.text
    assert final_bytes(setup / "out") == final_bytes(setup / "whole")
    facts = json.loads((setup / "out/run.json").read_text())
    assert facts["status"] == "finished"
    assert 0 < facts["last_session"]["images"] <= 107 - 20 + 1
    assert not (setup / "out/partial").exists()


def interrupted(setup: Path) -> Path:
    """Leave an unfinished run whose scores are recognisably wrong, to see whether they are taken over."""
    assert infer(setup) == 0
    facts = json.loads((setup / "out/run.json").read_text())
    (setup / "out/run.json").write_text(json.dumps({"status": "unfinished", "request": facts["request"]}))
    line = {"first": 0, "values": [[123.0]] * 4, "failures": {}}
    return write_bytes(setup / "out/partial/0.jsonl", sealed(json.dumps(line).encode()))


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
    assert_scores(dict(found[3:]), expected_of([name for name, _ in found[3:]]))


def test_two_runs_cannot_share_a_folder(setup, capsys):
    write_crops(setup / "faces", 2)
    with held_lock(setup / "out/partial/.lock"):
        assert infer(setup) == 2
        assert "another run writes there" in capsys.readouterr().err
    assert infer(setup) == 0
    assert len(scores_of(setup / "out")) == 2


# ---- several processes


def firsts_of(partial: Path) -> set[int]:
    """Return the first rows of the batches that one process has recorded."""
    lines = (line.rpartition("\t")[0] for line in partial.read_text().splitlines())
    return {json.loads(line)["first"] for line in lines if line}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_two_processes_give_the_same_rows_and_a_dead_one_leaves_a_run_that_goes_on(setup, processes):
    write_crops(setup / "faces", 101)
    write_broken(setup / "faces")
    arguments = ["-c", str(setup / "inference_config.yaml"), "dataloader.params.batch_size=1"]
    assert infer(setup, arguments[2], f"base.save_path={setup}/whole") == 0
    if processes == 2:
        codes, said = finished_in_two("inference.py", *arguments, f"base.save_path={setup}/two")
        assert codes == [0, 0], said
        assert final_bytes(setup / "two") == final_bytes(setup / "whole")

    partial = setup / "out/partial"
    last_killed(10, APPEND, "inference.py", *arguments)
    assert not (setup / "out/quality-scores.csv").exists()
    assert firsts_of(partial / "0.jsonl") <= set(range(0, 107, 2)) and firsts_of(partial / "1.jsonl") == set(
        range(1, 2 * len(firsts_of(partial / "1.jsonl")), 2)
    )
    if processes == 2:
        codes, said = finished_in_two("inference.py", *arguments)
        assert codes == [0, 0], said
    else:
        assert infer(setup, arguments[2]) == 0
    facts = json.loads((setup / "out/run.json").read_text())
    assert facts["last_session"]["images"] < 107 and facts["processes"] == processes
    assert final_bytes(setup / "out") == final_bytes(setup / "whole")
