"""evaluate.py on how sure a figure is: its interval, the threshold of the replicates, the number of errors."""

import pytest

from evaluation.report import tables
from tests.helpers.evaluation import Simulation, csv_rows, run_evaluate


@pytest.fixture
def simulation(tmp_path):
    return Simulation(tmp_path)


def test_without_bootstrap_there_are_no_intervals(simulation):
    assert run_evaluate(simulation.folder, "evaluation.bootstrap=0") == 0
    assert {row["low"] + row["high"] for row in csv_rows(simulation.folder / "out/pauc.csv")} == {""}
    assert "[" not in (simulation.folder / "out/pauc.md").read_text().split("### Differences")[0]


@pytest.mark.parametrize("redrawn", [0, 1])
def test_every_table_with_intervals_says_what_became_of_the_threshold(simulation, redrawn):
    assert run_evaluate(simulation.folder, f"evaluation.bootstrap_threshold={redrawn}") == 0
    said = ["the threshold held fixed", "the threshold drawn anew with them"]
    for name in ("pauc.md", "summary.md"):
        parts = (simulation.folder / "out" / name).read_text().split("### ")[1:]
        with_intervals = [part for part in parts if "pAUC" in part.splitlines()[0]]
        assert len(with_intervals) >= 3
        for part in with_intervals:
            assert said[redrawn] in part and said[1 - redrawn] not in part
    assert said[redrawn] in (simulation.folder / "out/report.html").read_text()
    for name in ("pauc", "edc", "differences"):
        assert {r["bootstrap_threshold"] for r in csv_rows(simulation.folder / f"out/{name}.csv")} == {str(redrawn)}


def test_a_threshold_drawn_anew_moves_intervals_and_nothing_else(simulation):
    found = []
    for override in ("evaluation.bootstrap_threshold=0", "evaluation.bootstrap_threshold=1"):
        assert run_evaluate(simulation.folder, override, "evaluation.bootstrap=200") == 0
        found.append([r for r in csv_rows(simulation.folder / "out/pauc.csv") if r["method"] == "AI-KD(DifFIQA(R))"])
    held, drawn = found
    same = ("dataset", "recognition", "discard_limit", "threshold", "errors", "pauc")
    assert [[r[key] for key in same] for r in held] == [[r[key] for key in same] for r in drawn]
    assert all(h["low"] != d["low"] and h["high"] != d["high"] for h, d in zip(held, drawn, strict=True))


def test_tables_say_when_few_pairs_are_in_error(simulation, monkeypatch):
    """The count of mated pairs below the threshold is named when it is small, and only then."""
    monkeypatch.setattr(tables, "FEW_ERRORS", 10**9)
    assert run_evaluate(simulation.folder) == 0
    found = [r for r in csv_rows(simulation.folder / "out/pauc.csv") if r["recognition"] == "AdaFace"]
    errors = {r["dataset"]: round(float(r["fnmr0"]) * int(r["mated"])) for r in found}
    named = ", ".join(f"{count} on {dataset}" for dataset, count in errors.items())
    assert f"Mated pairs in error: {named}; too few" in (simulation.folder / "out/pauc.md").read_text()
    monkeypatch.setattr(tables, "FEW_ERRORS", 1)
    assert run_evaluate(simulation.folder) == 0
    assert "Mated pairs in error" not in (simulation.folder / "out/pauc.md").read_text()
