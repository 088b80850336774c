"""Crops of an evaluation as files, and methods that exist only as score and embedding files of each view."""

import functools
import json
import signal

import cv2
import numpy as np
import pytest
import torch
import yaml

import evaluate
import inference
import prepare
from data.sources.archives import open_tar
from data.tables.landmarks import read_landmarks, write_landmarks_csv
from evaluation.protocol.embeddings import write_embeddings
from evaluation.protocol.views import ALIGNED, View
from jobs.cropping.crops import file_names
from model.ai_kd import WrapperModel
from model.compact import CompactNet
from model.mlp import MLP
from tests.helpers.evaluation import (
    Recorder,
    crop_pass,
    csv_rows,
    run_evaluate,
    write_population,
)
from tests.helpers.processes import at_call, finished, send_self
from tests.helpers.training import TINY
from utils import cli
from utils.errors import DataError

VIEWS = {"aligned": ALIGNED, "p=3/seed=1": View(3.0, 1), "p=3/seed=2": View(3.0, 2), "p=6/seed=1": View(6.0, 1)}
VIEWS |= {"p=6/seed=2": View(6.0, 2), "box": View(None, box=1.5)}


@pytest.fixture
def population(tmp_path):
    """Write people, a recognition network, a student and evaluate.yaml, where all run inside."""
    write_population(tmp_path, identities=8, images=4)
    torch.manual_seed(2)
    torch.save(CompactNet(**TINY).state_dict(), tmp_path / "net.pth")
    torch.save(WrapperModel(CompactNet(**TINY), MLP(8, 16)).state_dict(), tmp_path / "student.pth")
    model = {
        "features": {"module": "model.compact.CompactNet", "weights": str(tmp_path / "net.pth"), "params": TINY},
        "head": {"module": "model.mlp.MLP", "params": {"hidden_dim": 16}},
    }
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(model))
    images = {"root": str(tmp_path / "images"), "landmarks": str(tmp_path / "landmarks.csv")}
    config = {
        "base": {"save_path": str(tmp_path / "inside"), "device": "cpu", "seed": 5, "verbose": 0},
        "evaluation": {"fmr": 0.05, "discard_limits": [0.3], "bootstrap": 20},
        "datasets": {"toy": {**images, "format": "identities", "non_mated": 100}},
        "recognition": {"net": {"module": "CompactNet", "params": TINY, "weights": str(tmp_path / "net.pth")}},
        "scores": {"q": {"weights": str(tmp_path / "student.pth"), "config": str(tmp_path / "model.yaml")}},
        "misalignment": {"p": [0, 3, 6], "seeds": [1, 2], "apply": ["quality", "both"], "box": 1.5},
        "dataloader": {"params": {"batch_size": 32}},
    }
    boxes = "".join(f"id{i}/{n}.png,8,10,64,70\n" for i in range(8) for n in range(4))
    (tmp_path / "boxes.csv").write_text("path,x,y,w,h\n" + boxes)
    config["misalignment"]["boxes"] = {"toy": str(tmp_path / "boxes.csv")}
    write(tmp_path, config)
    return config


def write(folder, config):
    (folder / "evaluate.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def run_crops(folder, *overrides):
    config = {"base": {"task": "crops", "save_path": str(folder / "crops"), "verbose": 0}}
    config["crops"] = {"evaluation": str(folder / "evaluate.yaml")}
    (folder / "prepare.yaml").write_text(yaml.safe_dump(config))
    return cli.run(lambda: prepare.main(["-c", str(folder / "prepare.yaml"), *overrides]))


def decoded(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def test_crops_are_those_the_methods_see(tmp_path, population):
    assert run_crops(tmp_path) == 0
    faces = evaluate.open_set(evaluate.load_config(evaluate.EvaluateConfig, tmp_path / "evaluate.yaml"), "toy")
    for key, view in VIEWS.items():
        seen = Recorder()
        crop_pass(faces, tmp_path / "cache")(view, {"q": seen})
        folder = tmp_path / "crops/toy" / key
        assert {str(path.relative_to(folder)) for path in folder.rglob("*.*")} == seen.seen.keys()
        for name, crop in seen.seen.items():
            np.testing.assert_array_equal(decoded(folder / name), crop)
    assert json.loads((tmp_path / "crops/toy/p=3/seed=1.json").read_text())["crops"] == 32


def test_one_file_for_each_view_holds_the_same_pictures(tmp_path, population):
    assert run_crops(tmp_path) == 0
    assert run_crops(tmp_path, "crops.container=tar", f"base.save_path={tmp_path / 'tars'}") == 0
    for key in VIEWS:
        source = open_tar(tmp_path / f"tars/toy/{key}.tar")
        assert len(source) == 32
        for row, name in enumerate(source.names):
            assert source.read(row) == (tmp_path / "crops/toy" / key / name).read_bytes()


def test_what_is_there_stays_and_what_another_program_wrote_is_not_replaced(tmp_path, population, capsys):
    assert run_crops(tmp_path) == 0
    aligned = tmp_path / "crops/toy/aligned/id0/0.png"
    before = aligned.stat().st_mtime_ns
    population["misalignment"]["border"] = "replicate"
    write(tmp_path, population)
    moved = tmp_path / "crops/toy/p=6/seed=1"
    first = {path: path.read_bytes() for path in moved.rglob("*.png")}
    assert run_crops(tmp_path) == 0
    assert aligned.stat().st_mtime_ns == before
    assert any(path.read_bytes() != content for path, content in first.items())
    (tmp_path / "crops/toy/aligned.json").unlink()
    assert run_crops(tmp_path) == 2
    assert "holds something else than crops of an earlier run" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["jobs.cropping.crops:_png", "jobs.cropping.crops:atomic_write", "json:dump"])
def test_a_kill_leaves_no_crops_that_the_next_run_takes_for_another_programs(tmp_path, population, where):
    population["misalignment"] = None
    write(tmp_path, population)
    assert run_crops(tmp_path) == 0
    whole = {path.name: path.read_bytes() for path in (tmp_path / "crops/toy/aligned/id0").iterdir()}
    population["datasets"]["toy"]["landmarks"] = str(tmp_path / "moved.csv")
    names, points, _ = read_landmarks(tmp_path / "landmarks.csv")
    write_landmarks_csv(tmp_path / "moved.csv", names, points + 3)
    write(tmp_path, population)
    kill = functools.partial(at_call, 1, where, functools.partial(send_self, signal.SIGKILL))
    assert finished("prepare.py", "-c", tmp_path / "prepare.yaml", first=kill)[0] == -signal.SIGKILL
    assert run_crops(tmp_path) == 0
    moved = {path.name: path.read_bytes() for path in (tmp_path / "crops/toy/aligned/id0").iterdir()}
    assert whole.keys() == moved.keys() and all(whole[name] != moved[name] for name in whole)
    assert sorted(path.name for path in (tmp_path / "crops/toy").iterdir()) == ["aligned", "aligned.json"]


def test_an_image_without_a_crop_is_named_beside_them(tmp_path, population):
    (tmp_path / "images/id3/1.png").write_bytes(b"broken")
    assert run_crops(tmp_path) == 0
    note = json.loads((tmp_path / "crops/toy/aligned.json").read_text())
    assert note["crops"] == 31 and list(note["failures"]) == ["id3/1.png"] and note["failures"]["id3/1.png"]


def test_names_keep_their_folders_and_may_not_leave_them():
    assert file_names(["a/1.jpg", "a/1.b.JPEG", "c"], "toy") == ["a/1.png", "a/1.b.png", "c.png"]
    with pytest.raises(DataError, match=r"'a/1.jpg' and 'a/1.png' differ in their suffix alone"):
        file_names(["a/1.jpg", "a/1.png"], "toy")
    for name in ("../1.jpg", "/etc/1.jpg", "a//1.jpg"):
        with pytest.raises(DataError, match="no file may be"):
            file_names([name], "toy")


def score_elsewhere(folder, key):
    """Score a folder of crops with inference.py, as any other program would; return the score file."""
    config = {
        "base": {"save_path": str(folder / "elsewhere" / key), "device": "cpu", "verbose": 0},
        "dataset": {"loc": str(folder / "crops/toy" / key)},
        "dataloader": {"params": {"batch_size": 32}},
        "model": {"config": str(folder / "model.yaml"), "weight": str(folder / "student.pth")},
        "output": {"page": 0},
    }
    (folder / "inference.yaml").write_text(yaml.safe_dump(config))
    assert cli.run(lambda: inference.main(["-c", str(folder / "inference.yaml")])) == 0
    return str(folder / "elsewhere" / key / "quality-scores.csv")


def embed_elsewhere(folder, key):
    """Embed a folder of crops without this repository's evaluation; return the .npz."""
    network = CompactNet(**TINY).eval()
    network.load_state_dict(torch.load(folder / "net.pth"))
    paths = sorted((folder / "crops/toy" / key).rglob("*.png"))
    pixels = np.stack([decoded(path) for path in paths])
    with torch.no_grad():
        values = network((torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5).numpy()
    target = folder / f"{key.replace('/', '_')}.npz"
    write_embeddings(target, [str(path.relative_to(folder / "crops/toy" / key)) for path in paths], values)
    return str(target)


def test_files_of_each_view_give_the_figures_of_the_method_that_runs_inside(tmp_path, population):
    assert run_evaluate(tmp_path) == 0
    assert run_crops(tmp_path) == 0
    population["base"]["save_path"] = str(tmp_path / "outside")
    population["scores"] = {"q": {"toy": {key: score_elsewhere(tmp_path, key) for key in VIEWS}}}
    population["recognition"] = {"net": {"embeddings": {"toy": {key: embed_elsewhere(tmp_path, key) for key in VIEWS}}}}
    del population["datasets"]["toy"]["root"], population["datasets"]["toy"]["landmarks"]
    del population["misalignment"]["boxes"], population["misalignment"]["box"]
    population["misalignment"]["second_landmarks"] = {}
    write(tmp_path, population)
    assert run_evaluate(tmp_path) == 0
    for table in ("pauc.csv", "robustness.csv", "losses.csv"):
        inside = [row for row in csv_rows(tmp_path / "inside" / table) if not row["alignment"].startswith("box")]
        outside = csv_rows(tmp_path / "outside" / table)
        assert len(inside) == len(outside) > 0
        for one, other in zip(inside, outside, strict=True):
            assert one.keys() == other.keys()
            for column in one:
                if column in ("dataset", "recognition", "method", "alignment", "rule") or not one[column]:
                    assert one[column] == other[column], column
                else:
                    assert float(one[column]) == pytest.approx(float(other[column]), abs=1e-5), (table, column)
    assert not (tmp_path / "outside/cache").exists(), "no network ran"


def test_a_condition_needs_the_files_of_all_its_seeds(tmp_path, population):
    assert run_crops(tmp_path) == 0
    files = {key: score_elsewhere(tmp_path, key) for key in ("aligned", "p=3/seed=1", "p=3/seed=2", "p=6/seed=1")}
    population["base"]["save_path"] = str(tmp_path / "out")
    population["scores"]["file"] = {"toy": files}
    population["misalignment"]["apply"] = ["quality"]
    write(tmp_path, population)
    assert run_evaluate(tmp_path) == 0
    shown = {(row["alignment"], row["p"]) for row in csv_rows(tmp_path / "out/pauc.csv") if row["method"] == "file"}
    assert shown == {("aligned", "0.0"), ("misaligned_quality", "3.0")}
    said = "toy: no file holds the scores of file for p=6/seed=2, box; without all seeds"
    assert said in (tmp_path / "out/summary.md").read_text()
    figures = {row["method"]: row["pauc"] for row in csv_rows(tmp_path / "out/pauc.csv") if row["p"] == "3.0"}
    assert figures["file"] == figures["q"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"p=3/seed=1": "x.csv"}, "names no file of the view aligned"),
        ({"aligned": "x.csv", "p=3": "x.csv"}, "'p=3' is no view; expected aligned, p=4/seed=1"),
        ({"aligned": "missing.csv"}, "scores.file.toy: missing.csv: no such file"),
    ],
)
def test_mistakes_in_views_are_one_sentence(tmp_path, population, files, words, capsys):
    population["scores"]["file"] = {"toy": files}
    write(tmp_path, population)
    assert run_evaluate(tmp_path) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error


def test_files_of_views_that_are_not_evaluated_are_said_to_have_no_effect(tmp_path, population):
    population["scores"]["file"] = {"toy": {"aligned": "a.csv", "p=3.0/seed=1": "b.csv", "p=9/seed=1": "c.csv"}}
    write(tmp_path, population)
    cfg = evaluate.load_config(evaluate.EvaluateConfig, tmp_path / "evaluate.yaml")
    assert evaluate.without_effect(cfg) == [
        "scores.file.toy.p=9/seed=1: without effect; misalignment asks for no such view"
    ]
