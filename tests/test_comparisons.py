"""Matchers known by comparison scores, thresholds of elsewhere, and the pair lists people have beside LFW's."""

import json

import numpy as np
import pytest
import yaml

from data.tables.scores import read_scores, write_scores_csv
from evaluation.measure.edc import edc
from evaluation.measure.thresholds import fixed_threshold
from evaluation.pairs.lists import Side, reference_probe_pairs
from evaluation.pairs.readers import read_pairs
from evaluation.protocol.embeddings import write_embeddings
from tests.helpers.evaluation import Simulation, csv_rows, run_evaluate
from utils.errors import DataError

DASEC = {
    "fine": {0.1: 0.017762231389531088, 0.2: 0.032349014724152324, 0.3: 0.04430879719544985},
    "coarse": {0.1: 0.01975, 0.2: 0.0395, 0.3: 0.05798021166134185},
}
"""Areas that compute_edc and compute_edc_pauc of dasec/quality-assessment-evaluation (2a66097) give for `dasec_data` at
the threshold 0.3."""


def dasec_data():
    """Draw 120 images with two qualities, one in six steps, and 400 mated comparisons, as dasec's JSON holds them."""
    rng = np.random.default_rng(15)
    quality = {f"s{n:03d}": {"fine": float(rng.normal()), "coarse": int(rng.integers(6))} for n in range(120)}
    pairs = {}
    while len(pairs) < 400:
        a, b = sorted(rng.choice(120, 2, replace=False).tolist())
        worst = min(quality[f"s{a:03d}"]["fine"], quality[f"s{b:03d}"]["fine"])
        pairs[f"s{a:03d}-s{b:03d}"] = round(float(0.45 + 0.08 * worst + 0.1 * rng.normal()), 6)
    by_method = {method: {name: values[method] for name, values in quality.items()} for method in ("fine", "coarse")}
    similarity = {"type": "mated", "scores_by_pair_ids": pairs}
    return {"similarity_scores": similarity, "quality_scores_by_sample_id_per_algorithm": by_method}


def write_config(folder, **sections):
    config = {
        "base": {"save_path": str(folder / "out"), "device": "cpu", "verbose": 0},
        "evaluation": {"discard_limits": [0.1, 0.2, 0.3], "bootstrap": 20},
        **sections,
    }
    (folder / "evaluate.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def areas(folder):
    rows = csv_rows(folder / "out/pauc.csv")
    return {(row["method"], float(row["discard_limit"])): float(row["pauc_raw"]) for row in rows}


def test_areas_are_those_of_dasecs_code(tmp_path):
    file = tmp_path / "data.json"
    file.write_text(json.dumps(dasec_data()))
    write_config(
        tmp_path,
        datasets={"set": {"pairs": str(file), "format": "dasec"}},
        recognition={"matcher": {"comparisons": {"set": str(file)}, "threshold": 0.3}},
        scores={method: {"set": str(file)} for method in DASEC},
    )
    assert run_evaluate(tmp_path) == 0
    found = areas(tmp_path)
    for method, expected in DASEC.items():
        for limit, area in expected.items():
            assert found[method, limit] == pytest.approx(area, abs=1e-12), (method, limit)
    (row, *_) = csv_rows(tmp_path / "out/pauc.csv")
    assert (row["fmr"], row["threshold"], row["mated"], row["non_mated"]) == ("", "0.3", "400", "0")
    assert "pAUC to 0.1 at a fixed threshold" in (tmp_path / "out/pauc.md").read_text()


def test_the_same_comparisons_as_text_give_the_same_areas(tmp_path):
    data = dasec_data()
    listed = [pair.split("-") for pair in data["similarity_scores"]["scores_by_pair_ids"]]
    values = list(data["similarity_scores"]["scores_by_pair_ids"].values())
    (tmp_path / "pairs.csv").write_text("img1,img2,label\n" + "".join(f"{a}.jpg,{b}.jpg,True\n" for a, b in listed))
    swapped = "".join(f"{b}.png,{a}.png,{-v}\n" for (a, b), v in zip(listed, values, strict=True))
    (tmp_path / "distances.csv").write_text("a,b,distance\n" + swapped)
    for method, scores in data["quality_scores_by_sample_id_per_algorithm"].items():
        write_scores_csv(tmp_path / f"{method}.csv", list(scores), np.array([*scores.values()], float))
    matcher = {"comparisons": {"set": str(tmp_path / "distances.csv")}, "threshold": -0.3, "distances": 1}
    write_config(
        tmp_path,
        datasets={"set": {"pairs": str(tmp_path / "pairs.csv")}},
        recognition={"matcher": matcher},
        scores={method: {"set": str(tmp_path / f"{method}.csv")} for method in DASEC},
    )
    assert run_evaluate(tmp_path) == 0
    for key, area in areas(tmp_path).items():
        assert area == pytest.approx(DASEC[key[0]][key[1]], abs=1e-12), key


@pytest.fixture
def simulation(tmp_path):
    return Simulation(tmp_path)


def write_comparisons(simulation, name, model):
    """Write the cosines of one model as a comparison file; return it."""
    lines = (simulation.folder / f"{name}.txt").read_text().splitlines()
    values = simulation.similarity[name, model]
    file = simulation.folder / f"{name}_{model}.csv"
    text = (f"{' '.join(line.split()[:2])} {value!r}\n" for line, value in zip(lines, values.tolist(), strict=True))
    file.write_text("".join(text))
    return str(file)


def test_comparisons_stand_for_embeddings(simulation):
    assert run_evaluate(simulation.folder) == 0
    before = csv_rows(simulation.folder / "out/pauc.csv")
    files = {name: write_comparisons(simulation, name, "AdaFace") for name in ("LFW", "XQLFW")}
    simulation.config["recognition"]["AdaFace"] = {"comparisons": files}
    simulation.save()
    assert run_evaluate(simulation.folder) == 0
    after = csv_rows(simulation.folder / "out/pauc.csv")
    assert [{**row, "threshold": ""} for row in after] == [{**row, "threshold": ""} for row in before]
    assert [float(row["threshold"]) for row in after] == pytest.approx([float(row["threshold"]) for row in before])


def test_a_pair_without_comparison_is_named_or_left_out(simulation, capsys):
    files = {name: write_comparisons(simulation, name, "AdaFace") for name in ("LFW", "XQLFW")}
    lines = (simulation.folder / "LFW_AdaFace.csv").read_text().splitlines(keepends=True)
    first, second, _ = lines.pop(3).split()
    (simulation.folder / "LFW_AdaFace.csv").write_text("".join(lines))
    simulation.config["recognition"]["AdaFace"] = {"comparisons": files}
    simulation.save()
    assert run_evaluate(simulation.folder) == 2
    assert f"pairs have no comparison of AdaFace, first {first!r} and {second!r}" in capsys.readouterr().err
    assert run_evaluate(simulation.folder, "evaluation.on_missing=skip") == 0
    mated = {row["mated"] for row in csv_rows(simulation.folder / "out/pauc.csv") if row["dataset"] == "LFW"}
    assert mated == {str(int(simulation.mated["LFW"].sum()) - 1)}


def test_a_threshold_of_another_data_set(simulation):
    simulation.config["datasets"]["XQLFW"]["threshold_from"] = "LFW"
    simulation.config["evaluation"] |= {"fmr": [0.01, 0.05], "bootstrap_threshold": 1}
    simulation.save()
    assert run_evaluate(simulation.folder) == 0
    rows = csv_rows(simulation.folder / "out/pauc.csv")
    assert "On XQLFW the threshold comes from elsewhere and is held fixed." in (
        simulation.folder / "out/pauc.md"
    ).read_text(encoding="utf-8")
    for model in ("AdaFace", "CosFace"):
        similarity, mated = simulation.similarity["LFW", model], simulation.mated["LFW"]
        for fmr in (0.01, 0.05):
            threshold = fixed_threshold(similarity[~mated], fmr)
            own = [row for row in rows if row["recognition"] == model and float(row["fmr"]) == fmr]
            assert {row["dataset"] for row in own} == {"LFW", "XQLFW"}
            assert [float(row["threshold"]) for row in own] == pytest.approx([threshold] * len(own))
            other = simulation.similarity["XQLFW", model][simulation.mated["XQLFW"]]
            quality = simulation.quality["XQLFW", "DifFIQA(R)"][simulation.mated["XQLFW"]]
            expected = edc(other, quality, threshold).pauc(0.3).normalised
            (row,) = [
                row
                for row in own
                if (row["dataset"], row["method"], row["discard_limit"]) == ("XQLFW", "DifFIQA(R)", "0.3")
            ]
            assert float(row["pauc"]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("datasets.LFW.threshold_from=XQLFW", "'XQLFW' is no data set listed before LFW"),
        ("recognition.CosFace.threshold=0.3 evaluation.rule=pooled_floor", "needs evaluation.rule: fixed_threshold"),
        ("recognition.CosFace.distances=1", "distances goes with comparisons"),
        ("recognition.CosFace.comparisons={LFW: x.csv}", "there are embeddings and comparisons of LFW"),
        ("datasets.LFW.probe=x.txt", "probe goes with format: reference_probe"),
    ],
)
def test_mistakes_are_one_sentence(simulation, override, words, capsys):
    assert run_evaluate(simulation.folder, *override.split(" ", 1 if "pooled" in override else 0)) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.jpg b.jpg\n", "line 1"),
        ("a.jpg,b.jpg,0.5\nb.jpg,a.jpg,high\n", "line 2: expected `imgA,imgB,score`"),
        ("a.jpg,b.jpg,0.5\na.jpg,b.jpg,0.7\n", "have the scores 0.5 and 0.7"),
    ],
)
def test_comparison_files_with_mistakes_are_refused(simulation, text, words, capsys):
    file = simulation.folder / "c.csv"
    file.write_text(text)
    del simulation.config["datasets"]["XQLFW"]
    for one in (*simulation.config["scores"].values(),):
        del one["XQLFW"]
    simulation.config["recognition"] = {"m": {"comparisons": {"LFW": str(file)}}}
    simulation.save()
    assert run_evaluate(simulation.folder) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error and (words in error or "no comparison of m" in error)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data["similarity_scores"].update(type="both"), "is 'both'; expected mated or non-mated"),
        (lambda data: data.pop("similarity_scores"), "similarity_scores is no mapping"),
        (lambda data: data["similarity_scores"]["scores_by_pair_ids"].update({"s1": 1}), "'s1' cannot be parted"),
        (lambda data: data["similarity_scores"]["scores_by_pair_ids"].update({"a-b": None}), "the score of 'a-b' is"),
    ],
)
def test_a_json_of_another_form_is_refused(tmp_path, change, words):
    data = dasec_data()
    change(data)
    (tmp_path / "data.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=words):
        read_pairs(tmp_path / "data.json", "dasec")


def test_other_json_is_a_list_of_scores(simulation):
    assert run_evaluate(simulation.folder) == 0
    before = csv_rows(simulation.folder / "out/pauc.csv")
    table = read_scores(simulation.config["scores"]["constant"]["LFW"])
    file = simulation.folder / "constant.json"
    file.write_text(json.dumps(dict(zip(table.names, table.values.tolist(), strict=True))))
    simulation.config["scores"]["constant"]["LFW"] = str(file)
    simulation.save()
    assert run_evaluate(simulation.folder) == 0
    assert csv_rows(simulation.folder / "out/pauc.csv") == before


def test_hyphens_in_names_are_told_from_those_between_them(tmp_path):
    qualities = {"m": dict.fromkeys(("a-1", "b", "a"), 0.5)}
    similarity = {"type": "Non-Mated", "scores_by_pair_ids": {"a-1-b": 0.2}}
    (tmp_path / "data.json").write_text(
        json.dumps({"similarity_scores": similarity, "quality_scores_by_sample_id_per_algorithm": qualities})
    )
    pairs = read_pairs(tmp_path / "data.json", "dasec")
    assert list(pairs.names) == ["a-1", "b"] and pairs.mated.tolist() == [False]


@pytest.mark.parametrize(
    "text",
    [
        "x/1.jpg x/2.jpg 1\nx/1.jpg y/1.jpg -1\n",
        "x/1.jpg\tx/2.jpg\tTrue\nx/1.jpg\ty/1.jpg\tFalse\n",
        "x/1.jpg,x/2.jpg,TRUE\nx/1.jpg,y/1.jpg,false\n",
        "img_a,img_b,same\nx/1.jpg,x/2.jpg,1\nx/1.jpg,y/1.jpg,0\n",
        "first second mated\nx/1.jpg x/2.jpg 1\nx/1.jpg y/1.jpg 0\n",
        'first\tsecond\t"is same"\n x/1.jpg\tx/2.jpg\t1\nx/1.jpg\ty/1.jpg\t-1\n',
    ],
)
def test_lists_with_titles_and_other_flags(tmp_path, text):
    (tmp_path / "pairs.txt").write_text(text)
    pairs = read_pairs(tmp_path / "pairs.txt", "list")
    named = [(pairs.names[a], pairs.names[b], bool(m)) for a, b, m in zip(pairs.first, pairs.second, pairs.mated)]
    assert named == [("x/1.jpg", "x/2.jpg", True), ("x/1.jpg", "y/1.jpg", False)]


def test_two_lines_of_cplfw_and_calfw_are_a_pair(tmp_path):
    (tmp_path / "pairs_CPLFW.txt").write_text("Ann_Lee_1.jpg 1\nAnn_Lee_3.jpg 1\nAnn_Lee_1.jpg 0\nBo_Ek_2.jpg 0\n")
    pairs = read_pairs(tmp_path / "pairs_CPLFW.txt", "cplfw")
    assert list(pairs.names) == ["Ann_Lee_1.jpg", "Ann_Lee_3.jpg", "Bo_Ek_2.jpg"]
    assert (pairs.first.tolist(), pairs.second.tolist(), pairs.mated.tolist()) == ([0, 0], [1, 2], [True, False])
    assert pairs.identities is not None and pairs.identities.tolist() == [0, 0, 1]
    (tmp_path / "pairs_CALFW.txt").write_text("A_0001.jpg 7\nA_0002.jpg 7\nA_0001.jpg\t0\nB_0001.jpg\t0\n")
    assert read_pairs(tmp_path / "pairs_CALFW.txt", "calfw").mated.tolist() == [True, False]
    (tmp_path / "pairs_CALFW.txt").write_text("A_0001.jpg 7\nA_0002.jpg 0\n")
    with pytest.raises(DataError, match="lines 1 and 2: expected `image flag` twice"):
        read_pairs(tmp_path / "pairs_CALFW.txt", "calfw")


def test_every_reference_meets_every_probe_of_its_person():
    reference = Side(["r/a1", "r/b1", "x/c1"], ["a", "b", "c"])
    probe = Side(["p/a2", "p/a3", "p/b2", "x/c1", "p/d1"], ["a", "a", "b", "c", "d"])
    pairs = reference_probe_pairs(reference, probe, 1000, 1)
    named = [(pairs.names[a], pairs.names[b]) for a, b in zip(pairs.first, pairs.second, strict=True)]
    mated = {pair for pair, same in zip(named, pairs.mated, strict=True) if same}
    assert mated == {("r/a1", "p/a2"), ("r/a1", "p/a3"), ("r/b1", "p/b2")}, "c has no other image"
    assert len(named) == len(set(named)) == 3 + 3 * 5 - 4, "all others where there are fewer than asked for"
    few = reference_probe_pairs(reference, probe, 5, 1)
    drawn = {(few.names[a], few.names[b]) for a, b in zip(few.first[3:], few.second[3:], strict=True)}
    assert len(drawn) == 5 and drawn <= set(named) - mated
    again = reference_probe_pairs(reference, probe, 5, 1)
    assert (again.first.tolist(), again.second.tolist()) == (few.first.tolist(), few.second.tolist())


def test_reference_and_probe_lists_in_an_evaluation(tmp_path):
    rng = np.random.default_rng(3)
    names = [f"id{i}/{n}.png" for i in range(30) for n in range(4)]
    values = rng.normal(size=(30, 8)).repeat(4, axis=0) + 0.5 * rng.normal(size=(120, 8))
    write_embeddings(tmp_path / "e.npz", names, values)
    write_scores_csv(tmp_path / "q.csv", names, rng.normal(size=120))
    (tmp_path / "references.txt").write_text("\n".join(names[::4]))
    (tmp_path / "probes.txt").write_text("\n".join(name for row, name in enumerate(names) if row % 4))
    lists = {"reference": str(tmp_path / "references.txt"), "probe": str(tmp_path / "probes.txt"), "non_mated": 500}
    write_config(
        tmp_path,
        evaluation={"fmr": 0.05, "discard_limits": [0.2], "bootstrap": 0},
        datasets={"set": {"format": "reference_probe", **lists}},
        recognition={"net": {"embeddings": {"set": str(tmp_path / "e.npz")}}},
        scores={"q": {"set": str(tmp_path / "q.csv")}},
    )
    assert run_evaluate(tmp_path) == 0
    (row,) = csv_rows(tmp_path / "out/pauc.csv")
    assert (row["mated"], row["non_mated"]) == ("90", "500")
