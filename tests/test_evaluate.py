"""evaluate.py from files to tables: figures equal the core's."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from data.tables.scores import write_scores_csv
from evaluation.measure.accuracy import balanced_accuracy
from evaluation.measure.edc import edc
from evaluation.measure.pooled import POOLED_RULES, PooledSteps, ScoredPairs
from evaluation.measure.thresholds import fixed_threshold
from evaluation.pairs.sets import even_folds
from evaluation.report.text_table import figure, short, signed
from tests.helpers.evaluation import Simulation, csv_rows, run_evaluate
from utils.config import load_config
from utils.config.evaluate import EvaluateConfig

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def simulation(tmp_path):
    return Simulation(tmp_path)


def test_every_combination_is_one_row_in_full_precision(simulation, capsys):
    assert run_evaluate(simulation.folder) == 0
    found = csv_rows(simulation.folder / "out/pauc.csv")
    assert (
        list(found[0])
        == (
            "dataset recognition method alignment p fmr rule discard_limit mated non_mated threshold fnmr0 errors "
            "pauc_raw pauc low high bootstrap_threshold"
        ).split()
    )
    keys = {(r["dataset"], r["recognition"], r["method"], r["discard_limit"]) for r in found}
    assert len(found) == len(keys) == 2 * 2 * 3 * 2
    for row in found:
        want = simulation.pauc(row["dataset"], row["recognition"], row["method"], float(row["discard_limit"]))
        assert float(row["pauc_raw"]) == pytest.approx(want.raw, abs=1e-6)  # similarities are float32 here
        assert float(row["pauc"]) == pytest.approx(want.normalised, abs=1e-5)
        assert float(row["low"]) <= float(row["pauc"]) + 0.2 and float(row["low"]) <= float(row["high"])
        assert (row["alignment"], row["p"], row["rule"]) == ("aligned", "0.0", "fixed_threshold")
        similarity = simulation.similarity[row["dataset"], row["recognition"]][simulation.mated[row["dataset"]]]
        assert float(row["errors"]) == np.count_nonzero(similarity < float(row["threshold"]))
        assert float(row["fnmr0"]) == float(row["errors"]) / int(row["mated"]) and row["bootstrap_threshold"] == "0"
        assert int(row["mated"]) == simulation.mated[row["dataset"]].sum()
    assert all(row["pauc"] == row["low"] == row["high"] == "1.0" for row in found if row["method"] == "constant")
    out = capsys.readouterr().out
    assert "CosFace, aligned: pAUC to 0.3 at FMR 0.01" in out and "report.html" in out


def test_tables_show_mean_best_interval_and_the_published_figure(simulation):
    assert run_evaluate(simulation.folder) == 0
    text = (simulation.folder / "out/pauc.md").read_text()
    table = text.split("### AdaFace, aligned: pAUC to 0.3")[1].split("###")[0]
    lines = {line.split(" | ")[0].strip("| "): line for line in table.splitlines() if line.startswith("|")}
    assert "| LFW | XQLFW | mean |" in lines["method"]
    values = [simulation.pauc(name, "AdaFace", "AI-KD(DifFIQA(R))", 0.3).normalised for name in ("LFW", "XQLFW")]
    cells = lines["AI-KD(DifFIQA(R))"].split(" | ")[1:]
    for cell, value in zip(cells, [*values, np.mean(values)], strict=True):
        assert cell.startswith(f"**{short(value)}** [")
    published = {
        (r["method"], r["dataset"]): float(r["pauc"])
        for r in csv_rows(ROOT / "evaluation/report/published.csv")
        if r["table"] == "proper" and r["fr_model"] == "AdaFace"
    }
    assert f"(published {short(published['AI-KD(DifFIQA(R))', 'LFW'])})" in cells[0]
    assert f"(published {short(published['AI-KD(DifFIQA(R))', 'XQLFW'])})" in cells[1]
    assert "published" not in lines["constant"]
    assert "its protocol is partly unknown" in table
    assert "1.000 [1.000, 1.000]" in lines["constant"]


def test_differences_are_paired_and_signed(simulation):
    assert run_evaluate(simulation.folder) == 0
    every = csv_rows(simulation.folder / "out/differences.csv")
    found = [r for r in every if r["recognition"] == "AdaFace"]
    made = {"method_a": "AI-KD(DifFIQA(R))", "method_b": "DifFIQA(R)"}
    one = next(r for r in found if r["dataset"] == "LFW" and r.items() >= made.items())
    a, b = (simulation.pauc("LFW", "AdaFace", one[key], 0.2).normalised for key in ("method_a", "method_b"))
    assert float(one["difference"]) == pytest.approx(a - b, abs=1e-5)
    assert float(one["low"]) < float(one["difference"]) < float(one["high"])
    assert float(one["difference"]) < 0 and float(one["probability_a_better"]) > 0.95
    for name in ("pauc.md", "summary.md"):  # the same order and sign in every table
        text = (simulation.folder / "out" / name).read_text()
        table = text.split("### Differences of pAUC to 0.3\n\n")[1].split("\n\n")[0].splitlines()[2:]
        shown = {(c[0], c[1], c[5]): c[6] for c in ([cell.strip() for cell in row.split("|")[1:-1]] for row in table)}
        assert shown == {
            (r["dataset"], r["recognition"], f"{r['method_a']} − {r['method_b']}"): signed(float(r["difference"]))
            for r in every
            if r["discard_limit"] == "0.3"
        }


def test_correlation_csv_is_spearman_over_the_images_both_methods_score(simulation):
    name = "AI-KD(DifFIQA(R))"
    scores = {}
    for method, path in ((method, one["LFW"]) for method, one in simulation.config["scores"].items()):
        scores[method] = {row["path"]: float(row["quality"]) for row in csv_rows(Path(path))}
    coarse = {path: float(round(value)) for path, value in list(scores[name].items())[:90]}  # ties, and images missing
    write_scores_csv(simulation.folder / "coarse.csv", list(coarse), np.array(list(coarse.values())))
    simulation.config["scores"][name]["LFW"] = str(simulation.folder / "coarse.csv")
    simulation.save()
    assert run_evaluate(simulation.folder, "evaluation.on_missing=skip", "evaluation.bootstrap=0") == 0
    found = [row for row in csv_rows(simulation.folder / "out/correlation.csv") if row["dataset"] == "LFW"]
    assert [(row["method_a"], row["method_b"], row["images"]) for row in found] == [
        ("DifFIQA(R)", name, "90"),
        ("DifFIQA(R)", "constant", "200"),
        (name, "constant", "90"),
    ]
    want = spearmanr([scores["DifFIQA(R)"][path] for path in coarse], list(coarse.values())).statistic
    assert float(found[0]["spearman"]) == pytest.approx(want, abs=1e-12) and abs(want) > 0.1
    assert found[1]["spearman"] == found[2]["spearman"] == "nan"
    text = (simulation.folder / "out/pauc.md").read_text().split("### LFW: how alike the methods rank")[1]
    assert f"| DifFIQA(R) |  | {figure(want)} | – |" in text
    assert f"| {name} | {figure(want)} |  | – |" in text and "both methods score: 90 to 200." in text
    assert "how alike the methods rank" in (simulation.folder / "out/report.html").read_text()


def test_curves_in_edc_csv_are_those_of_the_core(simulation):
    assert run_evaluate(simulation.folder) == 0
    found = [
        (float(r["discard"]), float(r["fnmr"]))
        for r in csv_rows(simulation.folder / "out/edc.csv")
        if (r["dataset"], r["recognition"], r["method"]) == ("XQLFW", "CosFace", "DifFIQA(R)")
    ]
    mated, similarity = simulation.mated["XQLFW"], simulation.similarity["XQLFW", "CosFace"]
    quality = simulation.quality["XQLFW", "DifFIQA(R)"][mated]
    curve = edc(similarity[mated], quality, fixed_threshold(similarity[~mated], 0.01))
    inside = curve.discard <= 0.3
    np.testing.assert_allclose(found, np.stack([curve.discard[inside], curve.fnmr[inside]], axis=1), atol=1e-9)


def test_same_seed_same_bytes(simulation):
    assert run_evaluate(simulation.folder) == 0
    names = ("pauc.csv", "differences.csv", "correlation.csv", "edc.csv", "pauc.md", "edc.png", "report.html")
    first = {name: (simulation.folder / "out" / name).read_bytes() for name in names}
    assert run_evaluate(simulation.folder) == 0
    for name, content in first.items():
        assert (simulation.folder / "out" / name).read_bytes() == content, name
    assert run_evaluate(simulation.folder, "base.seed=6") == 0
    assert (simulation.folder / "out/pauc.csv").read_bytes() != first["pauc.csv"]


@pytest.mark.parametrize("rule", POOLED_RULES)
def test_pooled_rules_by_name(simulation, rule):
    assert run_evaluate(simulation.folder, f"evaluation.rule={rule}") == 0
    found = csv_rows(simulation.folder / "out/pauc.csv")
    assert {row["rule"] for row in found} == {rule}
    mated, similarity = simulation.mated["LFW"], simulation.similarity["LFW", "AdaFace"]
    quality = simulation.quality["LFW", "DifFIQA(R)"]
    pairs = ScoredPairs(similarity[mated], similarity[~mated], quality[mated], quality[~mated])
    start = PooledSteps(pairs, POOLED_RULES[rule], 0.01, 0.3).full[0]
    row = next(
        r for r in found if r["method"] == "DifFIQA(R)" and (r["dataset"], r["recognition"]) == ("LFW", "AdaFace")
    )
    assert float(row["threshold"]) == pytest.approx(start.threshold, abs=1e-6)
    assert float(row["errors"]) == start.wrong.sum()
    fixed = simulation.pauc("LFW", "AdaFace", "DifFIQA(R)", 0.3).normalised
    other = next(float(r["pauc"]) for r in found if r["method"] == "DifFIQA(R)" and r["discard_limit"] == "0.3")
    assert math.isfinite(other) and other != pytest.approx(fixed, abs=1e-6)
    assert all(float(row["low"]) < float(row["high"]) for row in found if row["method"] != "constant")


def test_several_false_match_rates_are_several_tables(simulation):
    names = ("pauc.csv", "edc.csv", "differences.csv", "robustness.csv", "pauc.md")
    rows, pages = {}, {}
    for fmr in ("[0.05, 0.01]", "0.05", "0.01"):
        assert run_evaluate(simulation.folder, f"evaluation.fmr={fmr}") == 0
        rows[fmr] = {name: csv_rows(simulation.folder / "out" / name) for name in names[:-1]}
        pages[fmr] = (simulation.folder / "out/pauc.md").read_text()
    for name in names[:-1]:
        both = rows["[0.05, 0.01]"][name]
        for fmr in ("0.05", "0.01"):
            assert [row for row in both if row["fmr"] == fmr] == rows[fmr][name], name
        assert {row["fmr"] for row in both} == {"0.05", "0.01"}
    tables_of = {fmr: {part.split("\n")[0]: part for part in page.split("### ")[1:]} for fmr, page in pages.items()}
    for fmr in ("0.05", "0.01"):
        title = f"CosFace, aligned: pAUC to 0.2 at FMR {fmr}"
        assert tables_of["[0.05, 0.01]"][title].strip() == tables_of[fmr][title].strip()
    assert run_evaluate(simulation.folder, "evaluation.fmr=[0.01, 0.01]") == 2


def test_errors_and_balanced_accuracy_are_shown(simulation):
    assert run_evaluate(simulation.folder) == 0
    row = next(r for r in csv_rows(simulation.folder / "out/pauc.csv") if r["dataset"] == "XQLFW")
    errors = f"{float(row['errors']):.0f}"
    text = (simulation.folder / "out/summary.md").read_text()
    assert f"FNMR(0) on XQLFW: {float(row['fnmr0']):.4f}, {errors} of 280 mated pairs." in text
    table = text.split("### Recognition without discarding\n\n")[1].split("\n\n")[0].splitlines()
    header, line = ([c.strip() for c in r.split("|")[1:-1]] for r in (table[0], table[4]))
    cells = dict(zip(header, line, strict=True))
    assert cells["data set"] == "XQLFW" and cells["errors"] == errors
    mated, similarity = simulation.mated["XQLFW"], simulation.similarity["XQLFW", cells["recognition"]]
    want = balanced_accuracy(similarity, mated, even_folds(mated))
    assert cells["balanced accuracy %"] == f"{100 * want:.2f}"
    other = (simulation.folder / "out/pauc.md").read_text().split("### FNMR in % after discarding")[1].splitlines()
    assert [c.strip() for c in other[2].split("|")[1:6]] == ["data set", "recognition", "FMR", "errors", "method"]
    assert errors in [c.strip() for c in next(r for r in other if "XQLFW" in r).split("|")]


def test_direction_is_declared(simulation):
    simulation.config["scores"]["DifFIQA(R)"]["higher_is_better"] = 0
    simulation.save()
    assert run_evaluate(simulation.folder) == 0
    found = {
        r["method"]: float(r["pauc"]) for r in csv_rows(simulation.folder / "out/pauc.csv") if r["dataset"] == "LFW"
    }
    assert found["DifFIQA(R)"] > 1


def test_report_needs_no_file_beside_it(simulation):
    assert run_evaluate(simulation.folder) == 0
    page = (simulation.folder / "out/report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    for text in (
        "Error versus discard",
        "The threshold is set once",
        "What a score means",
        "CosFace, aligned",
        "discard_limits",
    ):
        assert text in page
    assert "<b>" in page and "**" not in page


def test_resolved_configuration_can_be_run_again(simulation):
    assert run_evaluate(simulation.folder) == 0
    first = (simulation.folder / "out/pauc.csv").read_bytes()
    (simulation.folder / "evaluate.yaml").write_text((simulation.folder / "out/config.yaml").read_text())
    assert run_evaluate(simulation.folder) == 0
    assert (simulation.folder / "out/pauc.csv").read_bytes() == first


def test_identities_from_the_names_of_embeddings(simulation):
    simulation.config["datasets"] = {"LFW": {"format": "identities", "mated_per_identity": 4, "non_mated": 500}}
    for section in ("recognition", "scores"):
        for one in simulation.config[section].values():
            (one["embeddings"] if section == "recognition" else one).pop("XQLFW")
    simulation.save()
    assert run_evaluate(simulation.folder) == 0
    found = csv_rows(simulation.folder / "out/pauc.csv")
    assert {(row["mated"], row["non_mated"]) for row in found} == {("160", "500")}


def test_embeddings_of_any_form_give_the_same_figures(simulation):
    with np.load(simulation.folder / "LFW_AdaFace.npz") as archive:
        names, values = archive["names"].tolist(), archive["embeddings"]
    (simulation.folder / "feat.list").write_text(
        "".join(f"{name} {' '.join(map(str, row))} \n" for name, row in zip(names, values.tolist(), strict=True))
    )
    for name, row in zip(names, values, strict=True):
        path = (simulation.folder / "features" / name).with_suffix(".npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, row)
    figures = []
    for form in ("LFW_AdaFace.npz", "feat.list", "features"):
        overrides = [f"recognition.AdaFace.embeddings.LFW={simulation.folder / form}", "evaluation.bootstrap=0"]
        assert run_evaluate(simulation.folder, *overrides) == 0
        figures.append((simulation.folder / "out/pauc.csv").read_bytes())
    assert figures[0] == figures[1] == figures[2]


@pytest.mark.parametrize("direction", [1, 0])
def test_score_meaning(tmp_path, capsys, direction):
    values = np.arange(200.0)
    np.random.default_rng(0).shuffle(values)
    write_scores_csv(tmp_path / "s.csv", [f"{i}.jpg" for i in range(200)], values if direction else -values)
    overrides = [f"thresholds.scores={tmp_path / 's.csv'}", f"thresholds.higher_is_better={direction}"]
    (tmp_path / "evaluate.yaml").write_text("base: {save_path: unused}\n")
    assert run_evaluate(tmp_path, *overrides, "thresholds.discard=[0.1, 0.255]") == 0
    out = capsys.readouterr().out
    assert "| 10 % | 20 | 20 of 200 (10.00 %) |" in out
    assert "| 25.5 % | 51 | 51 of 200 (25.50 %) |" in out
    assert "| 0 | 1.99 | 9.95 | 19.9 | 49.75 | 99.5 |" in out
    assert not (tmp_path / "unused").exists()


def test_shipped_configuration_is_valid():
    cfg = load_config(EvaluateConfig, ROOT / "configs/evaluate_config.yaml")
    assert cfg.evaluation.discard_limits == (0.2, 0.3) and cfg.evaluation.fmr == (1e-3,)
    assert cfg.scores["DifFIQA(R)"].files == {"LFW": {"aligned": "data/lfw_diffiqar.csv"}}
