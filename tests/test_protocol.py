"""The misalignment protocol: the figures of each condition by hand, and what is said of scores and crops not there."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from data.tables.landmarks import write_landmarks_csv
from data.tables.scores import write_scores_csv
from evaluation.measure.comparisons import misalignment_loss
from evaluation.measure.edc import edc
from evaluation.measure.panel import Measure, PairScores, Place
from evaluation.measure.robustness import agreement
from evaluation.measure.thresholds import fixed_threshold
from evaluation.protocol.embeddings import write_embeddings
from evaluation.protocol.face_set import with_second_landmarks
from evaluation.protocol.views import ALIGNED
from evaluation.report.output import Output
from tests.helpers.evaluation import (
    Recorder,
    Thumbnails,
    crop_pass,
    open_population,
    population_config,
    write_population,
)
from tests.helpers.protocol import config, protocol
from utils.errors import DataError
from utils.files import make_folder


def test_agreement_is_spearman_and_mean_absolute_change():
    rng = np.random.default_rng(0)
    a, b = rng.integers(10, size=(2, 200)).astype(float)
    rho, change = agreement(a, b)
    assert rho == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    assert change == pytest.approx(np.abs(a - b).mean())
    assert np.isnan(agreement(np.ones(5), a[:5])[0])


def test_quality_and_both_see_what_they_should(tmp_path):
    write_population(tmp_path)
    both = {key: {"weights": "w", "config": "c"} for key in ("q", "other")}
    misalignment = {"p": [0, 5], "seeds": [1, 2], "apply": ["quality", "both"]}
    cfg = config(tmp_path, scores=both, misalignment=misalignment)
    quality, other, net = Recorder("q"), Recorder("o"), Thumbnails("n", noise=0.3)
    findings = protocol(cfg, tmp_path, {"q": quality, "other": other}, {"net": net}).evaluate(open_population(tmp_path))
    found = {(p.condition.alignment, p.condition.p, p.condition.seed): p for p in findings.seed_panels}
    assert found.keys() == {
        ("aligned", 0.0, None),
        *((f"misaligned_{kind}", 5.0, seed) for kind in ("quality", "both") for seed in (1, 2)),
    }
    aligned = found["aligned", 0.0, None]
    for seed in (1, 2):
        assert found["misaligned_quality", 5.0, seed].threshold == aligned.threshold
        assert found["misaligned_both", 5.0, seed].threshold != aligned.threshold
    for name, crop in quality.seen.items():
        np.testing.assert_array_equal(crop, net.seen[name])
        np.testing.assert_array_equal(crop, other.seen[name])
    merged = next(p for p in findings.panels if p.condition.alignment == "misaligned_both")
    assert merged.aligned.results.keys() == {"q", "other"} and merged.aligned.threshold == aligned.threshold
    per_seed = [found["misaligned_both", 5.0, seed].results["q"] for seed in (1, 2)]
    assert merged.condition.seed is None
    assert merged.results["q"].pauc[0.3].raw == pytest.approx(np.mean([one.pauc[0.3].raw for one in per_seed]))
    np.testing.assert_allclose(
        merged.results["q"].replicates[0.3], np.mean([one.replicates[0.3] for one in per_seed], axis=0)
    )
    assert len(findings.agreements) == 4 and {a.method for a in findings.agreements} == {"q", "other"}


def test_figures_of_a_condition_are_those_of_the_edc_on_its_scores(tmp_path):
    write_population(tmp_path)
    cfg = config(tmp_path, misalignment={"p": [3], "seeds": [9], "apply": ["quality"]})
    net, quality = Thumbnails("n", noise=0.3), Recorder("q")
    faces = open_population(tmp_path)
    findings = protocol(cfg, tmp_path, {"q": quality}, {"net": net}).evaluate(faces)
    panel = findings.panels[1]
    assert (panel.condition.alignment, panel.condition.p) == ("misaligned_quality", 3.0)
    pairs, names = faces.pairs, list(faces.pairs.names)
    aligned = crop_pass(faces, tmp_path / "again")(ALIGNED, {"n": Thumbnails("n", noise=0.3)})["n"].values
    unit = aligned / np.linalg.norm(aligned, axis=1, keepdims=True)
    similarity = (unit[pairs.first] * unit[pairs.second]).sum(1)
    score = {name: crop.astype(np.float64).mean() for name, crop in quality.seen.items()}
    pair_quality = np.array([min(score[names[a]], score[names[b]]) for a, b in zip(pairs.first, pairs.second)])
    threshold = fixed_threshold(similarity[~pairs.mated], 0.1)
    want = edc(similarity[pairs.mated], pair_quality[pairs.mated], threshold).pauc(0.3)
    assert panel.results["q"].pauc[0.3].raw == pytest.approx(want.raw, abs=1e-12) and want.raw > 0


def test_the_loss_to_misalignment_is_paired_with_the_aligned_crops_of_the_same_pairs(tmp_path):
    """A second landmark file that lacks an image: both sides are measured on the pairs that remain."""
    points = write_population(tmp_path)
    del points["id1/1.png"]
    other = {name: value + np.array([4, -3]) for name, value in points.items()}
    write_landmarks_csv(tmp_path / "other.csv", list(other), np.stack(list(other.values())))
    faces = with_second_landmarks(open_population(tmp_path), population_config(tmp_path), str(tmp_path / "other.csv"))
    misalignment = {"p": [4], "seeds": [1, 2], "apply": ["quality"], "second_landmarks": {"toy": "other.csv"}}
    cfg = config(tmp_path, misalignment=misalignment, evaluation={"on_missing": "skip"})
    models = {"q": Recorder("q")}, {"net": Thumbnails("n", noise=0.3)}
    found = protocol(cfg, tmp_path, *models).evaluate(faces)
    aligned, moved, second = found.panels
    assert (moved.aligned.mated, second.aligned.mated) == (aligned.mated, aligned.mated - 3) == (36, 33)
    loss = misalignment_loss(moved, "q", 0.3)
    assert loss.difference == moved.results["q"].pauc[0.3].normalised - aligned.results["q"].pauc[0.3].normalised
    paired = moved.results["q"].replicates[0.3] - aligned.results["q"].replicates[0.3]
    assert (loss.low, loss.high) == pytest.approx(tuple(np.nanpercentile(paired, (2.5, 97.5))), abs=1e-12)
    gone = list(faces.pairs.names).index("id1/1.png")
    keep = ~(faces.pairs.mated & ((faces.pairs.first == gone) | (faces.pairs.second == gone)))  # others need no score
    pairs, scores, similarity = faces.pairs.subset(keep), found.quality["q"], found.similarity["net"][keep]
    made = PairScores.of(similarity, {"q": scores}, pairs)
    want = Measure(cfg.evaluation, 1).panels(Place("toy", "net"), pairs, made)[0].results["q"]
    assert second.aligned.results["q"].pauc == want.pauc and want.pauc[0.3].raw > 0
    np.testing.assert_array_equal(second.aligned.results["q"].replicates[0.3], want.replicates[0.3])


def test_curves_of_several_seeds_are_their_mean(tmp_path):
    write_population(tmp_path)
    cfg = config(tmp_path, misalignment={"p": [5], "seeds": [1, 2, 3], "apply": ["both"]})
    models = {"q": Recorder("q")}, {"net": Thumbnails("n", noise=0.3)}
    found = protocol(cfg, tmp_path, *models).evaluate(open_population(tmp_path))
    seeds = [panel.results["q"].curve for panel in found.seed_panels if panel.condition.p == 5]
    merged = found.panels[1].results["q"]
    at = np.linspace(0, 0.99, 500)
    np.testing.assert_allclose(merged.curve.at(at), np.mean([curve.at(at) for curve in seeds], axis=0), atol=1e-12)
    assert merged.curve.pauc(0.3).raw == pytest.approx(merged.pauc[0.3].raw, abs=1e-12)
    assert merged.band.shape == (2, 61) and (merged.band[0] <= merged.band[1]).all()
    assert merged.curve.fnmr[0] > 0
    results = [result for panel in found.seed_panels + found.panels for result in panel.results.values()]
    assert len(results) == 6 and all(result.heights is None for result in results)


def test_methods_and_models_in_files_are_said_to_be_missing_where_crops_are_misaligned(tmp_path, caplog):
    write_population(tmp_path)
    faces = open_population(tmp_path)
    names = list(faces.pairs.names)
    rng = np.random.default_rng(0)
    write_embeddings(tmp_path / "e.npz", names, rng.normal(size=(len(names), 4)))
    write_scores_csv(tmp_path / "s.csv", names, rng.normal(size=len(names)))
    cfg = config(
        tmp_path,
        recognition={
            "net": {"weights": "w", "module": "m"},
            "stored": {"embeddings": {"toy": str(tmp_path / "e.npz")}},
        },
        scores={"file": {"toy": str(tmp_path / "s.csv")}, "q": {"weights": "w", "config": "c"}},
        misalignment={"p": [4], "seeds": [1]},
    )
    with caplog.at_level("INFO", logger="evaluate"):
        found = protocol(cfg, tmp_path, {"q": Recorder("q")}, {"net": Thumbnails("n")}).evaluate(faces)
    shown = {(p.condition.alignment, p.recognition): set(p.results) for p in found.panels}
    assert shown == {
        ("aligned", "net"): {"file", "q"},
        ("aligned", "stored"): {"file", "q"},
        ("misaligned_quality", "net"): {"q"},
        ("misaligned_quality", "stored"): {"q"},
        ("misaligned_both", "net"): {"q"},
    }
    assert len(found.remarks) == 2 and set(found.remarks) <= set(caplog.messages)
    assert "score files hold no misaligned crops, so file is in tables of aligned crops only" in found.remarks[0]
    assert "so stored is in no table where recognition sees misaligned crops" in found.remarks[1]
    output = Output(make_folder(tmp_path / "out", "out"), cfg)
    output.add(found)
    text = output.finish()
    assert "Not here on toy: file; no scores of these crops." in text
    for name in ("summary.md", "pauc.md", "report.html"):
        page = (tmp_path / "out" / name).read_text()
        assert all(remark in page for remark in found.remarks), name
    table = text.split("What misalignment costs each method: pAUC to 0.3")[1]
    assert table.count("misaligned p = 4 (quality methods only)") == 2 and "| file |" not in table.split("###")[0]


def test_files_only_stay_aligned_and_say_so(tmp_path, caplog):
    caplog.set_level("INFO", logger="evaluate")
    write_population(tmp_path)
    faces = open_population(tmp_path)
    names = list(faces.pairs.names)
    write_embeddings(tmp_path / "e.npz", names, np.random.default_rng(0).normal(size=(len(names), 4)))
    write_scores_csv(tmp_path / "s.csv", names, np.arange(len(names)))
    cfg = config(
        tmp_path,
        recognition={"net": {"embeddings": {"toy": str(tmp_path / "e.npz")}}},
        scores={
            "up": {"toy": str(tmp_path / "s.csv")},
            "down": {"toy": str(tmp_path / "s.csv"), "higher_is_better": 0},
        },
        misalignment={"p": [4], "seeds": [1]},
    )
    findings = protocol(cfg, tmp_path, {}, {}).evaluate(faces)
    assert [panel.condition.alignment for panel in findings.panels] == ["aligned"]
    assert "only aligned" in findings.remarks[0] and findings.remarks[0] in caplog.messages
    np.testing.assert_array_equal(findings.quality["up"], -findings.quality["down"])
    assert not (tmp_path / "out").exists(), "no network ran, nothing was cut"


def test_missing_images_are_named_or_left_out_for_every_method(tmp_path):
    write_population(tmp_path)
    faces = open_population(tmp_path)
    names = list(faces.pairs.names)
    rng = np.random.default_rng(0)
    write_embeddings(tmp_path / "e.npz", names[1:], rng.normal(size=(len(names) - 1, 4)))
    write_scores_csv(tmp_path / "a.csv", names, rng.normal(size=len(names)))
    write_scores_csv(tmp_path / "b.csv", names[:-2], rng.normal(size=len(names) - 2))
    more = {
        "recognition": {"net": {"embeddings": {"toy": str(tmp_path / "e.npz")}}},
        "scores": {"a": {"toy": str(tmp_path / "a.csv")}, "b": {"toy": str(tmp_path / "b.csv")}},
    }
    with pytest.raises(DataError, match=rf"2 of 24 images have no score of b, first '{names[-2]}'"):
        protocol(config(tmp_path, **more), tmp_path, {}, {}).evaluate(faces)
    cfg = config(tmp_path, evaluation={"on_missing": "skip"}, **more)
    findings = protocol(cfg, tmp_path, {}, {}).evaluate(faces)
    gone = {0, len(names) - 2, len(names) - 1}
    keep = np.array([a not in gone and b not in gone for a, b in zip(faces.pairs.first, faces.pairs.second)])
    embedded = (faces.pairs.first > 0) & (faces.pairs.second > 0)  # all that non-mated pairs need
    assert findings.panels[0].mated == int((faces.pairs.mated & keep).sum())
    assert findings.panels[0].non_mated == int((~faces.pairs.mated & embedded).sum())
    assert any("no score of b" in remark for remark in findings.remarks)
    assert any("no embedding of net" in remark and names[0] in remark for remark in findings.remarks)
    assert "left out" in findings.remarks[-1]
    cfg = config(tmp_path, evaluation={"on_missing": "skip", "rule": "pooled_rethreshold"}, **more)
    pooled = protocol(cfg, tmp_path, {}, {}).evaluate(faces).panels[0]
    assert pooled.non_mated == int((~faces.pairs.mated & keep).sum())


def test_images_in_non_mated_pairs_only_need_no_score(tmp_path):
    """SDD-FIQA cannot score an identity's only image; the threshold still rests on all non-mated pairs."""
    write_population(tmp_path, identities=7, images=4)
    for number in range(1, 4):
        (tmp_path / f"images/id3/{number}.png").unlink()
    faces = open_population(tmp_path)
    names = list(faces.pairs.names)
    rng = np.random.default_rng(0)
    values, scores = rng.normal(size=(len(names), 4)), rng.normal(size=len(names))
    alone = names.index("id3/0.png")
    known = [row for row in range(len(names)) if row != alone]
    write_embeddings(tmp_path / "e.npz", names, values)
    write_scores_csv(tmp_path / "all.csv", names, scores)
    write_scores_csv(tmp_path / "sdd.csv", [names[row] for row in known], scores[known])
    cfg = config(
        tmp_path,
        recognition={"net": {"embeddings": {"toy": str(tmp_path / "e.npz")}}},
        scores={"all": {"toy": str(tmp_path / "all.csv")}, "SDD-FIQA": {"toy": str(tmp_path / "sdd.csv")}},
    )
    findings = protocol(cfg, tmp_path, {}, {}).evaluate(faces)
    panel = findings.panels[0]
    assert (panel.mated, panel.non_mated) == (faces.pairs.mated.sum(), (~faces.pairs.mated).sum())
    assert panel.results["SDD-FIQA"].pauc == panel.results["all"].pauc
    assert alone in findings.scored("all") and findings.scored("SDD-FIQA").tolist() == known
    assert len(findings.remarks) == 1
    assert "1 images have no score of SDD-FIQA, first 'id3/0.png'; they are in non-mated" in findings.remarks[0]
    assert findings.correlations[0].images == len(known)
    cfg = config(tmp_path, evaluation={"rule": "pooled_rethreshold"}, recognition=cfg.recognition, scores=cfg.scores)
    with pytest.raises(DataError, match="1 of 25 images have no score of SDD-FIQA"):
        protocol(cfg, tmp_path, {}, {}).evaluate(faces)


def test_second_landmarks_missing_for_an_image(tmp_path):
    points = write_population(tmp_path)
    del points["id1/1.png"]
    write_landmarks_csv(tmp_path / "other.csv", list(points), np.stack(list(points.values())))
    section = population_config(tmp_path)
    faces = with_second_landmarks(open_population(tmp_path), section, str(tmp_path / "other.csv"))
    misalignment = {"p": [], "seeds": [1], "apply": ["both"], "second_landmarks": {"toy": str(tmp_path / "other.csv")}}
    models = {"q": Recorder("q")}, {"net": Thumbnails("n")}
    with pytest.raises(DataError, match=r"first 'id1/1\.png' \(no landmarks\)"):
        protocol(config(tmp_path, misalignment=misalignment), tmp_path, *models).evaluate(faces)
    cfg = config(tmp_path, misalignment=misalignment, evaluation={"on_missing": "skip"})
    aligned, second = protocol(cfg, tmp_path, *models).evaluate(faces).panels
    assert second.condition.alignment == "second_landmarks_both" and second.condition.p is None
    assert second.mated == aligned.mated - 3
