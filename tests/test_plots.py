"""Pictures: every method has a look of its own, every panel is drawn, and what is drawn is the data."""

import posixpath
from dataclasses import replace

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from evaluation.measure.panel import Condition, Measure, PairScores, Place, merge_seeds
from evaluation.measure.robustness import Agreement
from evaluation.pairs.sets import Generation, pairs_from_identities
from evaluation.report import plots
from evaluation.report.page import Section, write_report
from evaluation.report.tables import describe
from evaluation.report.text_table import Table
from utils.config.evaluate import EvaluationSection


def folders_of(names):
    return [posixpath.dirname(name) for name in names]


METHODS = ["plain", "X", "AI-KD(X)"]


@pytest.fixture(scope="module")
def study():
    """Return panels of two data sets and two models, aligned and p = 2, 4 with two seeds each."""
    rng = np.random.default_rng(0)
    names = [f"id{i:02d}/{n}.jpg" for i in range(30) for n in range(4)]
    pairs = pairs_from_identities(names, folders_of(names), Generation(6, 400, 0))
    measure = Measure(EvaluationSection(fmr=0.02, bootstrap=30), seed=0)
    quality = {m: rng.normal(size=len(names)) for m in METHODS}
    panels, agreements = [], []

    def panel(dataset, model, condition):
        noise = rng.normal(0, 0.3, len(pairs.mated))
        scores = PairScores.of(pairs.mated * 0.7 + noise, quality, pairs)
        (made,) = measure.panels(Place(dataset, model, condition), pairs, scores)
        return made

    for dataset in ("LFW", "XQLFW"):
        for model in ("AdaFace", "CosFace"):
            panels.append(aligned := merge_seeds([panel(dataset, model, Condition())]))
            for p in (2.0, 4.0):
                for kind in ("misaligned_quality", "misaligned_both"):
                    seeds = [panel(dataset, model, Condition(kind, p, s)) for s in (1, 2)]
                    panels.append(merge_seeds([replace(one, aligned=aligned) for one in seeds]))
        agreements += [
            Agreement(dataset, method, Condition("misaligned", p, seed), 1 - p / 10, 0.1)
            for method in METHODS
            for p in (2.0, 4.0)
            for seed in (1, 2)
        ]
    return measure, panels, agreements


@pytest.fixture
def figures(monkeypatch):
    """Collect the figures that are saved."""
    kept = []
    save = plots._save

    def keep(figure: Figure, path):
        kept.append(figure)
        save(figure, path)

    monkeypatch.setattr(plots, "_save", keep)
    return kept


def test_methods_look_different_and_always_the_same():
    palette = plots.Palette([f"m{i}" for i in range(32)])
    looks = {(palette[f"m{i}"]["color"], str(palette[f"m{i}"]["linestyle"])) for i in range(32)}
    assert len(looks) == 32
    assert palette["m3"] == plots.Palette([f"m{i}" for i in range(5)])["m3"]


def test_colours_stay_apart_for_colour_blind_eyes():
    """Simulate deuteranopia and protanopia (Machado et al. 2009, severity 1) in linear RGB; compare in CIE Lab."""
    deuteranopia = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    protanopia = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    srgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in plots.COLOURS[:6]])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    for matrix in (deuteranopia, protanopia):
        seen = np.clip(linear @ np.array(matrix).T, 0, 1)
        encoded = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
        lab = cv2.cvtColor(encoded[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0]
        distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 1e3 * np.eye(6)
        assert distance.min() > 10, f"colours {np.unravel_index(distance.argmin(), distance.shape)}"


def test_edc_has_a_panel_per_data_set_and_model(study, figures, tmp_path):
    measure, panels, _ = study
    aligned = [panel for panel in panels if panel.condition == Condition()]
    plots.plot_edc(tmp_path / "edc.png", aligned, measure.grid)
    (figure,) = figures
    titles = [ax.get_title().split("\n")[0] for ax in figure.axes if ax.get_visible()]
    assert titles == ["LFW, AdaFace", "XQLFW, AdaFace", "LFW, CosFace", "XQLFW, CosFace"]
    ax, curve = figure.axes[0], aligned[0].results["X"].curve
    line = next(line for line in ax.lines if line.get_label() == "X")
    inside = curve.discard < 0.3
    np.testing.assert_allclose(line.get_xdata(), [*(100 * curve.discard[inside]), 30])
    np.testing.assert_allclose(line.get_ydata()[:-1], 100 * curve.fnmr[inside])
    assert line.get_drawstyle() == "steps-post"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [*METHODS, "best possible"]
    assert len(ax.collections) == len(METHODS), "one uncertainty band each"
    image = cv2.imread(str(tmp_path / "edc.png"))
    assert image.shape[1] > 900 and image.std() > 5


def test_edc_has_a_column_per_condition_where_crops_are_misaligned(study, figures, tmp_path):
    measure, panels, _ = study
    plots.plot_edc(tmp_path / "edc.png", panels, measure.grid)
    (figure,) = figures
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert len(shown) == len(panels) == 4 * 5
    assert len({round(ax.get_position().y0, 3) for ax in shown}) == 4, "a row per data set and model"
    first = [panel for panel in panels if (panel.dataset, panel.recognition) == ("LFW", "AdaFace")]
    first = [first[i] for i in (0, 1, 3, 2, 4)]  # quality at p = 2 and 4, then both
    for ax, panel in zip(shown[:5], first, strict=True):
        title = ax.get_title().split("\n")
        assert title[0] == "LFW, AdaFace" and title[-1].endswith(f" {panel.errors:g} errors")
        assert title[1:-1] == ([] if panel.aligned is None else [describe(panel.condition)])
        line = next(line for line in ax.lines if line.get_label() == "X")
        curve = panel.results["X"].curve
        np.testing.assert_allclose(line.get_ydata()[:-1], 100 * curve.fnmr[curve.discard < 0.3])
        assert ax.get_ylim() == shown[0].get_ylim(), "one scale per row"


def test_robustness_draws_means_over_seeds_against_p(study, figures, tmp_path):
    _, panels, agreements = study
    plots.plot_robustness(tmp_path / "robustness.png", panels, agreements, 0.3)
    (figure,) = figures
    assert len(figure.axes) == 2 * (1 + 2 * 2)
    line = next(line for line in figure.axes[0].lines if line.get_label() == "plain")
    np.testing.assert_allclose(line.get_xdata(), [0, 2, 4])
    np.testing.assert_allclose(line.get_ydata(), [1, 0.8, 0.6])
    pauc = next(line for line in figure.axes[1].lines if line.get_label() == "X")
    chosen = [p for p in panels if (p.dataset, p.recognition) == ("LFW", "AdaFace")]
    chosen = [p for p in chosen if p.condition.alignment in ("aligned", "misaligned_quality")]
    np.testing.assert_allclose(pauc.get_ydata(), [p.results["X"].pauc[0.3].normalised for p in chosen])


def test_examples_show_the_crops_in_order(figures, tmp_path):
    crops = np.stack([np.full((112, 112, 3), 17 * i, np.uint8) for i in range(15)])
    row = plots.ExampleRow("LFW, X", crops, np.arange(15) / 10)
    plots.plot_examples(tmp_path / "examples.png", [row, row])
    (figure,) = figures
    shown = [ax.images[0].get_array()[0, 0, 0] for ax in figure.axes]
    assert shown == [17 * i for i in range(15)] * 2
    lefts = [ax.get_position().x0 for ax in figure.axes[:15]]
    assert lefts == sorted(lefts) and lefts[5] - lefts[4] > 1.2 * (lefts[4] - lefts[3]), "groups are set apart"
    texts = [text.get_text() for text in figure.texts]
    assert {"lowest", "around the median", "highest", "LFW, X", "1.4"} <= set(texts)


def test_report_escapes_what_it_shows(tmp_path):
    table = Table("a < b", ["**head**"], [["<script>"], ["**.5** [.4, .6]"]], "note & more")
    write_report(tmp_path / "r.html", "T <x>", [Section("S", "text <b>", [table], code="a: <1>")])
    page = (tmp_path / "r.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "<td><b>.5</b> [.4, .6]</td>" in page and "note &amp; more" in page and "a: &lt;1&gt;" in page
