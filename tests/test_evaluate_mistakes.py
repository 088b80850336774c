"""evaluate.py on what cannot be right: one sentence where it stops, a remark where it goes on."""

import re

import numpy as np
import pytest

from data.tables.scores import read_scores, write_scores_csv
from evaluation.protocol.embeddings import write_embeddings
from tests.helpers.evaluation import Simulation, run_evaluate


@pytest.fixture
def simulation(tmp_path):
    return Simulation(tmp_path)


def no_score(simulation):
    path = simulation.folder / "LFW_constant.csv"
    path.write_text(path.read_text().replace("train/p07/3.jpg", "train/p99/3.jpg"))


def nan_score(simulation):
    path = simulation.folder / "LFW_constant.csv"
    path.write_text(re.sub(r"(train/p07/3.jpg),0.0", r"\1,nan", path.read_text()))


def nan_embedding(simulation):
    path = simulation.folder / "LFW_AdaFace.npz"
    with np.load(path) as archive:
        names, values = archive["names"], archive["embeddings"].copy()
    values[names.tolist().index("p07/3.jpg")] = np.nan
    write_embeddings(path, names, values)


@pytest.mark.parametrize("damage", [no_score, nan_score, nan_embedding])
def test_the_image_without_a_number_is_named(simulation, damage, capsys):
    damage(simulation)
    assert run_evaluate(simulation.folder) == 2
    error = capsys.readouterr().err
    assert "p07/3.jpg" in error and error.count("\n") == 1 and error.startswith("error: ")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("evaluation.fmr=0.0005", "needs at least 2000 non-mated pairs, there are"),
        ("evaluation.discard_limit=0.2", "did you mean 'discard_limits'"),
        ("evaluation.discard_limits=[0.2,1.5]", "discard_limits"),
        ("datasets.LFW.pairs=nowhere.txt", "nowhere.txt: no such pairs file"),
        ("datasets.LFW.format=cfp_fp", "expected CFP's Protocol folder"),
        ("scores.constant.LFW=nowhere.csv", "scores.constant.LFW: nowhere.csv: no such file"),
        ("scores.constant.CALFW=x.csv", "scores.constant.CALFW: no data set of this name; known: LFW, XQLFW"),
        ("scores.constant.higher_is_beter=0", "did you mean 'higher_is_better'"),
        ("scores.constant.weights=x.pth", "exactly one of score files, weights or source"),
        ("recognition.AdaFace.channel=BGR", "did you mean 'channels'"),
        ("recognition.New.weights=x.pth", "recognition.New.weights: x.pth: no such file"),
        ("misalignment.apply=[recognition]", "apply"),
        ("datasets.LFW.landmarks=x.csv", "landmarks and detector need root"),
    ],
)
def test_mistakes_are_one_sentence(simulation, override, words, capsys):
    assert run_evaluate(simulation.folder, override) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not (simulation.folder / "out/pauc.csv").exists()


def spoiled(folder, change):
    """Run an evaluation of files alone whose data set LFW was changed; return the remarks about it."""
    simulation = Simulation(folder)
    change(simulation)
    simulation.config["recognition"].pop("AdaFace")
    simulation.save()
    assert run_evaluate(folder, "evaluation.fmr=0.01") == 0
    report = (folder / "out/pauc.md").read_text()
    return [line for line in report.replace("; ", "\n").splitlines() if "datasets.LFW" in line]


def rewrite(path, change):
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{line}\n" for line in map(change, lines)))


def test_right_inputs_give_no_remark(tmp_path):
    assert spoiled(tmp_path, lambda simulation: None) == []


def test_reversed_flags_are_remarked_on(tmp_path):
    def flags(simulation):
        rewrite(tmp_path / "LFW.txt", lambda line: line[:-1] + str(1 - int(line[-1])))

    remarks = "".join(spoiled(tmp_path, flags))
    assert "CosFace refuses" in remarks and "accuracy of 5" in remarks
    assert (
        "are the mated flags, the names and the order of the embeddings right, or are its comparisons distances?"
        in (tmp_path / "out/pauc.md").read_text()
    )


def test_scores_that_count_downwards_are_remarked_on(tmp_path):
    def reverse(simulation):
        table = read_scores(tmp_path / "LFW_AI-KD(DifFIQA(R)).csv")
        write_scores_csv(tmp_path / "LFW_AI-KD(DifFIQA(R)).csv", list(table.names), -table.values)

    remarks = "".join(spoiled(tmp_path, reverse))
    assert "discarding by AI-KD(DifFIQA(R)) raises the error, normalised pAUC" in remarks
    assert "by DifFIQA(R)" not in remarks and "by constant" not in remarks


@pytest.mark.parametrize("section", ["datasets", "recognition", "scores"])
def test_a_name_that_is_a_path_is_refused(tmp_path, capsys, section):
    simulation = Simulation(tmp_path)
    simulation.config[section]["../../x"] = next(iter(simulation.config[section].values()))
    simulation.save()
    assert run_evaluate(tmp_path) == 2
    assert f"{section}: '../../x' cannot be part of a file's name" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
