"""Threshold tables, thinned curves and the published figures."""

from pathlib import Path

import numpy as np
import pytest

from evaluation.measure.panel import Measure, PairScores, Place
from evaluation.pairs.sets import Generation, pairs_from_identities
from evaluation.report import csv_files, tables
from evaluation.report.meaning import threshold_table
from evaluation.report.published import published_figures
from tests.helpers.evaluation import csv_rows as rows
from utils.config.evaluate import EvaluationSection

ROOT = Path(__file__).resolve().parent.parent


def test_a_threshold_never_discards_more_than_wanted_with_ties():
    table = threshold_table("t", np.array([1.0] * 5 + [2.0] * 5), [0.3, 0.5, 0.7])
    assert [row[1:] for row in table.rows] == [
        ["1", "0 of 10 (0.00 %)"],
        ["2", "5 of 10 (50.00 %)"],
        ["2", "5 of 10 (50.00 %)"],
    ]


def test_dense_curves_are_thinned():
    discard = np.arange(100_000) / 100_000
    kept = csv_files.thinned(discard, 0.3)
    assert len(kept) <= csv_files.CURVE_POINTS and kept[0] == 0 and discard[kept[-1]] == pytest.approx(0.3, abs=1e-4)
    assert csv_files.thinned(np.array([0, 0.2, 0.5]), 0.3).tolist() == [0, 1]


def test_differences_are_shown_among_a_source_and_what_was_made_of_it():
    measure = Measure(EvaluationSection(fmr=0.01, discard_limits=(0.3,), bootstrap=0), 0)
    names, people = [f"{i}/{j}.jpg" for i in range(6) for j in range(4)], [str(i) for i in range(6) for _ in range(4)]
    pairs = pairs_from_identities(names, people, Generation(6, 300))
    rng = np.random.default_rng(0)
    methods = ["AI-KD(A)", "A", "plain(A)", "DifFIQA(R)", "AI-KD(DifFIQA(R))", "R2"]
    quality = {name: rng.random(len(pairs.names)) for name in methods}
    scores = PairScores.of(rng.random(len(pairs.mated)), quality, pairs)
    (panel,) = measure.panels(Place("d", "r"), pairs, scores)
    shown = [row[5] for row in tables.difference_table([panel], 0.3, measure.section).rows]
    assert shown == ["AI-KD(A) − A", "plain(A) − AI-KD(A)", "plain(A) − A", "AI-KD(DifFIQA(R)) − DifFIQA(R)"]


def test_published_figures_are_those_of_the_paper():
    found = published_figures()
    assert len(found) == 560
    assert found["proper", "adaface", "ai-kd(diffiqa(r))", "mean"] == "0.725"
    assert found["misaligned", "cosface", "diffiqa(r)", "mean"] == "0.785"
    notes = {(r["method"], r["note"]) for r in rows(ROOT / "evaluation/report/published.csv")}
    assert all(note.startswith("published, protocol partly unknown") for _, note in notes)
    assert {method for method, note in notes if "duplicate" in note} == {"SER-FIQ", "SDD-FIQA"}
