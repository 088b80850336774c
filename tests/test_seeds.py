"""One recipe under several seeds: each is trained, all are evaluated, mean and spread stand in its row."""

import functools
import json
import signal
import subprocess

import numpy as np
import pytest
import torch
import yaml

import seeds
from evaluation.report.seed_table import seed_tables
from jobs.experiment.steps import CommandStep
from tests.helpers.evaluation import csv_rows
from tests.helpers.processes import at_call, finished, send_self
from tests.helpers.training import same_bytes, tensors, write_setup
from utils import cli


@pytest.fixture
def recipe(tmp_path):
    """Write a training, an evaluation and the configuration of two seeds."""
    train = write_setup(tmp_path, 24, epochs=1)
    images = {"root": str(tmp_path / "images"), "landmarks": str(tmp_path / "landmarks.csv")}
    network = {"module": "model.compact.CompactNet", "params": {"num_features": 8, "width": 4}}
    evaluation = {
        "base": {"save_path": str(tmp_path / "elsewhere"), "device": "cpu", "verbose": 0},
        "evaluation": {"fmr": 0.1, "discard_limits": [0.3], "bootstrap": 0},
        "datasets": {"toy": {**images, "format": "identities", "non_mated": 100}},
        "recognition": {"net": {**network, "weights": str(tmp_path / "backbone.pth")}},
        "scores": {"left out": {"toy": "missing.csv"}},
    }
    (tmp_path / "evaluate.yaml").write_text(yaml.safe_dump(evaluation))
    config = {
        "base": {"save_path": str(tmp_path / "seeds"), "verbose": 0},
        "method": "AI-KD(X)",
        "train": str(train),
        "changes": {"dataset.misalign": 0},
        "seeds": [3, 4],
        "weights": "last",
        "evaluation": str(tmp_path / "evaluate.yaml"),
    }
    (tmp_path / "seeds.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def run(folder, *overrides):
    return cli.run(lambda: seeds.main(["-c", str(folder / "seeds.yaml"), *overrides]))


def test_every_seed_is_trained_and_the_row_is_their_mean_and_spread(recipe, capsys, monkeypatch):
    assert run(recipe) == 0
    text = capsys.readouterr().out
    weights = [tensors(recipe / f"seeds/seed-{seed}/aikd-last.pth") for seed in (3, 4)]
    assert not same_bytes(*weights)
    for seed in (3, 4):
        used = yaml.safe_load((recipe / f"seeds/seed-{seed}/config.yaml").read_text())
        assert used["base"]["seed"] == seed and not used["dataset"]["misalign"]
    rows = csv_rows(recipe / "seeds/evaluation/pauc.csv")
    assert [row["method"] for row in rows] == ["AI-KD(X), seed 3", "AI-KD(X), seed 4"]
    areas = np.array([float(row["pauc"]) for row in rows])
    mean, spread = (f"{value:.3f}".replace("0.", ".", 1) for value in (areas.mean(), areas.std(ddof=1)))
    assert f"| **AI-KD(X)** | {mean} ± {spread} |" in text
    assert (recipe / "seeds/seeds.md").read_text() == text
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("all of it is done"))
    assert run(recipe) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seeds=[1, 1]", "seeds names a seed twice"),
        ("seeds=[1]", "seeds"),
        ("changes={base.seed: 4}", "base.seed is set for each seed"),
        ("changes={loss.weigths: [0, 1]}", "did you mean 'weights'?"),
        ("evaluation=missing.yaml", "missing.yaml: no such configuration file"),
    ],
)
def test_mistakes_are_one_sentence_and_nothing_is_trained(recipe, override, words, capsys):
    assert run(recipe, override) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not list(recipe.glob("seeds/seed-*"))


def test_a_training_that_was_killed_while_it_replaced_another_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))  # other sums with other numbers of threads
    config = write_setup(tmp_path, 24, epochs=1)

    def step(folder, seed):
        return CommandStep("train", "train_main.py", config, tmp_path / folder, {"base.seed": seed})

    for one in (step("run", 3), step("whole", 4)):
        assert finished("train_main.py", *one.arguments()) == (0, "")
    (tmp_path / "run/.done.json").write_text(json.dumps(step("run", 3).request))
    replaced = tensors(tmp_path / "run/aikd-last.pth")
    kill = functools.partial(send_self, signal.SIGKILL)
    first = functools.partial(at_call, 2, "utils.training.checkpoint:RunFolder.save_resume", kill)
    assert finished("train_main.py", *step("run", 4).arguments(), first=first)[0] == -signal.SIGKILL
    step("run", 4).run((), False)
    assert same_bytes(tensors(tmp_path / "run/aikd-last.pth"), tensors(tmp_path / "whole/aikd-last.pth"))
    assert not same_bytes(tensors(tmp_path / "run/aikd-last.pth"), replaced)


def test_what_changes_while_a_command_runs_is_not_taken_for_what_it_read(tmp_path, monkeypatch):
    (tmp_path / "labels.csv").write_text("a.jpg,1\n")
    (tmp_path / "config.yaml").write_text("{}")
    step = CommandStep("x", "label.py", tmp_path / "config.yaml", tmp_path, {}, [tmp_path / "labels.csv"])

    def run_meanwhile(*_, **__):
        (tmp_path / "labels.csv").write_text("a.jpg,22\n")
        return subprocess.CompletedProcess([], 0)

    before = step.request
    monkeypatch.setattr("subprocess.run", run_meanwhile)
    step.run((), False)
    assert step.earlier == before != step.request


def test_the_row_by_hand():
    place = {"recognition": "net", "alignment": "misaligned_quality", "p": "4.0", "fmr": "0.01", "discard_limit": "0.3"}
    figures = {("a", "L"): 0.7, ("b", "L"): 0.8, ("a", "X"): 0.5, ("b", "X"): 0.5}
    rows = [{**place, "method": method, "dataset": name, "pauc": str(v)} for (method, name), v in figures.items()]
    (table,) = seed_tables(rows, ["a", "b"], "both")
    assert table.title == "net, misaligned (quality methods only), p = 4: pAUC to 0.3 at FMR 0.01"
    assert table.columns == ["method", "L", "X", "mean"]
    assert table.rows[0] == ["a", ".700", ".500", ".600"]
    assert table.rows[2] == ["**both**", ".750 ± .071", ".500 ± .000", ".625 ± .035"]
