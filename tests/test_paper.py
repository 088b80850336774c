"""The paper's experiment as a row of commands, on stand-ins of its data, and its tables."""

import os

import cv2
import numpy as np
import pytest
import torch
import yaml

import paper
import train_main
from data.alignment import TEMPLATE_112
from evaluation.report.paper_tables import SETS, paper_tables
from examples import paper_standins
from jobs.experiment.config import PaperConfig
from jobs.experiment.paper import Paper
from jobs.methods import load_training
from model.compact import CompactNet
from tests.helpers.evaluation import csv_rows
from tests.helpers.faces import smooth_image
from tests.helpers.training import ROOT, tensors
from utils import cli
from utils.config import load_config

YAML = ROOT / "configs/paper/paper.yaml"
GIVEN = "labels: {files: [diffiqar_baseline_quality.pkl], origin: x}, weights: {files: [none.pth], origin: x}"
ONE_X = f"sources={{DifFIQA(R): {{{GIVEN}, label: {{source: {{name: student}}}}}}}}"
QUICK = "small.evaluation={evaluation: {fmr: 0.2, bootstrap: 0}, misalignment: {seeds: [1]}}"


def faces(people, images, seed):
    """Draw people whose images are alike, as the renderer's: content, landmarks, person."""
    rng = np.random.default_rng(seed)
    for person in range(1, people + 1):
        base = smooth_image(rng, 90, 80).astype(np.int16)
        for _ in range(images):
            pixels = np.clip(base + rng.normal(0, 12, base.shape), 0, 255).astype(np.uint8)
            points = (TEMPLATE_112 * 0.6 + (5, 8) + rng.normal(0, 1, (5, 2))).astype(np.float32)
            yield paper_standins.Face(cv2.imencode(".jpg", pixels)[1].tobytes(), points, person)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Write a data folder under the names and in the forms of the real one."""
    folder = tmp_path_factory.mktemp("data")
    paper_standins.write_training_images(folder, list(faces(8, 6, 0)))
    (folder / "weights").mkdir()
    torch.manual_seed(1)
    network = CompactNet().eval()
    torch.save(network.state_dict(), folder / "weights/r100.pth")
    paper_standins.write_labels(folder, network)
    for seed, name in enumerate(paper_standins.SETS, 1):
        paper_standins.write_test_set(folder, name, list(faces(5, 6, seed)), 6)
    return folder


def load(data, out, *overrides):
    own = [f"base.data={data}", f"base.save_path={out}", "base.device=cpu", "base.small=1", "base.verbose=0"]
    return load_config(PaperConfig, YAML, [*own, "base.num_workers=0", *overrides])


def run(data, out, *overrides):
    own = [f"base.data={data}", f"base.save_path={out}", "base.device=cpu", "base.small=1", "base.verbose=0"]
    return cli.run(lambda: paper.main(["-c", str(YAML), *own, "base.num_workers=0", *overrides]))


def test_every_recipe_of_every_x_is_trained_and_compared(data, tmp_path):
    found = Paper(load(data, tmp_path))
    steps = found.steps()
    xs = ("SER-FIQ", "CR-FIQA", "DifFIQA(R)")
    three = {f"{recipe}({x})" for recipe in ("AI-KD", "plain", "augmented") for x in xs}
    single = ("p = 1", "p = 6", "template pixels", "L1", "last 20 tensors", "random student")
    assert set(found.trainings) == three | {f"AI-KD, {one}(DifFIQA(R))" for one in single}
    assert [step.script for step in steps] == ["label.py", *["train_main.py"] * 15, "evaluate.py"]
    content = yaml.safe_load(steps[-1].config.read_text())
    assert set(content["scores"]) == {*found.trainings, "SER-FIQ"} and set(content["datasets"]) == set(SETS)
    assert list(content["recognition"]) == ["CosFace"]
    assert content["evaluation"]["fmr"] == 0.01 and content["misalignment"] == {
        "p": [0, 4], "seeds": [1], "apply": ["quality"],
    }  # fmt: skip
    for origin in ("github.com/fdbtrs/CR-FIQA", "github.com/lxq1000/SwinFace", "github.com/IrvingMeng/MagFace"):
        assert any(origin in line for line in found.missing), origin
    assert not any(line.startswith(SETS) for line in found.missing)


def test_the_controls_and_single_changes_are_what_they_are_called(data, tmp_path):
    found = Paper(load(data, tmp_path, "base.small=0"))
    cfg = {name: load_training(step.config, step.arguments()[2:]) for name, step in found.trainings.items()}
    released = load_training(ROOT / "configs/train_config.yaml")
    aikd = cfg["AI-KD(DifFIQA(R))"]
    for section in ("optimizer", "loss", "scheduler"):
        assert getattr(aikd, section) == getattr(released, section), section
    assert aikd.dataset.perturbation == released.dataset.perturbation and aikd.ema.alpha == released.ema.alpha
    assert (aikd.base.epochs, aikd.base.pretrain, aikd.base.warmup) == (1, 0.3, 0.5)
    seen = {
        name: (one.dataset.misalign, one.loss.weights)
        for name, one in cfg.items()
        if name.endswith("(DifFIQA(R))") and "," not in name
    }
    assert seen == {
        "AI-KD(DifFIQA(R))": (True, [1, 1]),
        "plain(DifFIQA(R))": (False, [0, 1]),
        "augmented(DifFIQA(R))": (True, [0, 1]),
    }
    changed = {
        "p = 1": lambda one: one.dataset.perturbation.radius_px == 1,
        "p = 6": lambda one: one.dataset.perturbation.radius_px == 6,
        "template pixels": lambda one: one.dataset.perturbation.unit == "template",
        "L1": lambda one: one.loss.quality.module == "torch.nn.L1Loss",
        "last 20 tensors": lambda one: one.optimizer.group_2.limit == 20,
        "random student": lambda one: one.base.allow_random_init,
    }
    for name, holds in changed.items():
        one = cfg[f"AI-KD, {name}(DifFIQA(R))"]
        assert holds(one) and not holds(aikd), name
        sections = ("base", "dataset", "optimizer", "loss", "ema")
        differing = [key for key in sections if getattr(one, key) != getattr(aikd, key)]
        assert len([key for key in differing if key != "base"]) <= 1, name


def test_each_recipe_trains_for_two_steps(data, tmp_path):
    before = {f"feature_extractor.{key}": value for key, value in tensors(data / "weights/r100.pth").items()}
    for name, step in Paper(load(data, tmp_path, ONE_X)).trainings.items():
        quick = ["base.max_steps=2", "base.verbose=0", "dataloader.train.params.batch_size=8"]
        assert train_main.main([*step.arguments(), *quick]) == 0, name
        saved = tensors(step.folder / "aikd-best.pth")
        same = torch.equal(saved["feature_extractor.conv1.weight"], before["feature_extractor.conv1.weight"])
        assert same == (name.startswith("AI-KD, last 20")), f"{name}: the first layer is trained, or is not"
        moved = saved["feature_extractor.conv1.weight"] - before["feature_extractor.conv1.weight"]
        assert (moved.abs().max() > 0.3) == (name.startswith("AI-KD, random")), f"{name}: the weights it starts from"


def test_end_to_end_with_score_files_and_again(data, tmp_path, capsys, monkeypatch):
    names = [f"Person_L{person:03d}/Person_L{person:03d}_{n:04d}" for person in range(5) for n in range(1, 7)]
    folder = data / "scores/FaceQnet/LFW"
    folder.mkdir(parents=True)
    (folder / "aligned.csv").write_text(
        "".join(f"{name}.jpg,{len(name) + row % 7}\n" for row, name in enumerate(names))
    )
    changes = [ONE_X, QUICK, "recipes={AI-KD: {}}", "single_changes={of: x, recipes: {}}"]
    assert run(data, tmp_path, *changes) == 0
    text = capsys.readouterr().out
    rows = {(r["method"], r["dataset"], r["alignment"]): r for r in csv_rows(tmp_path / "evaluation/pauc.csv")}
    assert {key[:2] for key in rows if key[0] == "FaceQnet"} == {("FaceQnet", "LFW")}
    assert ("AI-KD(DifFIQA(R))", "Adience", "misaligned_quality") in rows
    proper = text.split("### CosFace, misaligned")[0]
    (line,) = [line for line in proper.splitlines() if line.startswith("| AI-KD(DifFIQA(R)) |")]
    assert "(.746)" in line, "the printed figure on LFW stands beside ours"
    assert "missing: SwinFace: weights/swinface.onnx" in text
    assert (tmp_path / "tables.md").read_text() == text
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("all of it is done"))
    assert run(data, tmp_path, *changes) == 0
    assert capsys.readouterr().out == text


def test_a_changed_input_is_done_anew_and_nothing_else(data, tmp_path):
    steps = Paper(load(data, tmp_path, ONE_X)).steps()
    requests = [step.request for step in steps]
    labels = data / "diffiqar_baseline_quality.pkl"
    os.utime(labels, ns=(labels.stat().st_atime_ns, labels.stat().st_mtime_ns + 10**9))
    after = [step.request for step in Paper(load(data, tmp_path, ONE_X)).steps()]
    changed = [step.script for step, one, other in zip(steps, requests, after, strict=True) if one != other]
    assert changed == ["train_main.py"] * 9
    again = [step.request for step in Paper(load(data, tmp_path, ONE_X)).steps()]
    assert again == after, "configurations that are written anew are not another request"


@pytest.mark.parametrize("there", [False, True])
def test_nothing_to_run_is_one_sentence(tmp_path, there, capsys):
    if there:
        (tmp_path / "data").mkdir()
    assert run(tmp_path / "data", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and ("holds nothing that can be run" if there else "no such folder") in error


def test_a_command_that_fails_ends_the_row(data, tmp_path, capfd):
    assert run(data, tmp_path, ONE_X, "recipes={AI-KD: {changes: {loss.weights: [1]}}}") == 2
    error = capfd.readouterr().err
    assert "train AI-KD(DifFIQA(R)): train_main.py ended with exit code 2" in error and "Traceback" not in error


def test_the_papers_layout():
    figures = {"AI-KD(DifFIQA(R))": 0.7, "DifFIQA(R)": 0.8, "plain(DifFIQA(R))": 0.9}
    place = {"recognition": "AdaFace", "alignment": "aligned", "p": "0.0", "fmr": "0.001", "discard_limit": "0.3"}
    rows = [
        {**place, "dataset": name, "method": method, "pauc": str(value + 0.002 * column)}
        for column, name in enumerate(SETS)
        for method, value in figures.items()
        if (method, name) != ("plain(DifFIQA(R))", "XQLFW")
    ]
    (table,) = paper_tables([*rows, {**rows[0], "discard_limit": "0.2", "pauc": "0.1"}], 0.3)
    assert table.columns == ["method", "Adience", "LFW", "CPLFW", "CFP-FP", "CALFW", "XQLFW", "mean"]
    cells = {row[0]: row[1:] for row in table.rows}
    assert cells["AI-KD(DifFIQA(R))"][1] == "**.702** (.746)" and cells["AI-KD(DifFIQA(R))"][-1] == "**.705** (.725)"
    assert cells["DifFIQA(R)"][0].startswith("*.800* (") and cells["DifFIQA(R)"][-1] == "*.805* (.735)"
    assert cells["plain(DifFIQA(R)), ours"][0] == ".900" and cells["plain(DifFIQA(R)), ours"][-2:] == ["–", "–"]
    assert cells["SER-FIQ †"][-1] == "– (.803)" and cells["SER-FIQ †"] == cells["SDD-FIQA †"]
