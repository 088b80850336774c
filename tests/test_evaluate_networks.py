"""evaluate.py with networks that run here: crops, cache, misalignment, and images inside a .bin."""

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

import evaluate
from evaluation.protocol.embeddings import write_embeddings
from model.ai_kd import WrapperModel
from model.compact import CompactNet
from model.frozen.load import NetworkLoader
from model.mlp import LinearHead
from tests.helpers.evaluation import csv_rows as rows
from tests.helpers.evaluation import run_evaluate as run
from tests.helpers.evaluation import write_population
from tests.helpers.faces import spoil_landmarks
from tests.helpers.inference import STUDENT, TINY
from utils import cli
from utils.allowed import NOTHING_MORE
from utils.config import load_config
from utils.config.evaluate import EvaluateConfig

ROOT = Path(__file__).resolve().parent.parent
FACES = ROOT.parent / "shared" / "faces"


def test_networks_run_here_and_see_misaligned_crops(tmp_path, capsys):
    points = write_population(tmp_path, identities=8, images=4)
    torch.manual_seed(2)
    torch.save(CompactNet(**TINY).state_dict(), tmp_path / "net.pth")
    torch.save(STUDENT.state_dict(), tmp_path / "student.pth")
    model = {
        "features": {"module": "model.compact.CompactNet", "weights": str(tmp_path / "net.pth"), "params": TINY},
        "head": {"module": "model.mlp.MLP", "params": {"hidden_dim": 16}},
    }
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(model))
    label = {
        "base": {"save_path": "unused", "device": "cpu"},
        "dataset": {"loc": "unused"},
        "model": {"config": "model.yaml"},
        "source": {"name": "sdd_fiqa"},
    }
    (tmp_path / "label.yaml").write_text(yaml.safe_dump(label))
    config = {
        "base": {"save_path": str(tmp_path / "out"), "device": "cpu", "seed": 5},
        "evaluation": {"fmr": 0.05, "discard_limits": [0.3], "bootstrap": 20},
        "datasets": {
            "toy": {
                "root": str(tmp_path / "images"),
                "format": "identities",
                "landmarks": str(tmp_path / "landmarks.csv"),
                "non_mated": 100,
            }
        },
        "recognition": {
            "Compact": {"module": "CompactNet", "params": TINY, "weights": str(tmp_path / "net.pth"), "flip": 1}
        },
        "scores": {
            "X": {"source": str(tmp_path / "label.yaml")},
            "AI-KD(X)": {"weights": str(tmp_path / "student.pth"), "config": str(tmp_path / "model.yaml")},
        },
        "misalignment": {"p": [0, 3, 6], "seeds": [1, 2], "apply": ["quality", "both"]},
        "dataloader": {"params": {"batch_size": 7}},
    }
    (tmp_path / "evaluate.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    assert run(tmp_path) == 0
    found = rows(tmp_path / "out/pauc.csv")
    conditions = [("aligned", "0.0")] + [(f"misaligned_{k}", p) for p in ("3.0", "6.0") for k in ("quality", "both")]
    assert [(r["alignment"], r["p"]) for r in found if r["method"] == "X"] == conditions
    robustness = rows(tmp_path / "out/robustness.csv")
    assert len(robustness) == 2 * (1 + 2 * 2 * 2)
    rho = {(r["method"], r["p"], r["seed"]): float(r["spearman"]) for r in robustness if r["spearman"]}
    assert set(rho) == {(m, p, s) for m in ("X", "AI-KD(X)") for p in ("3.0", "6.0") for s in ("1", "2")}
    assert all(-1 <= value < 1 for value in rho.values())
    for name in ("edc.png", "robustness.png", "examples.png", "report.html", "config.yaml"):
        assert (tmp_path / "out" / name).stat().st_size > 500
    before = {name: (tmp_path / "out" / name).read_bytes() for name in ("pauc.csv", "robustness.csv")}
    first = capsys.readouterr()
    assert "Scores of misaligned crops" in first.out
    assert run(tmp_path, "dataloader.params.batch_size=32") == 0
    for name, content in before.items():
        assert (tmp_path / "out" / name).read_bytes() == content
    assert "img/s" in first.err and "img/s" not in capsys.readouterr().err, "the second run reads its cache"
    (tmp_path / "images" / next(iter(points))).write_bytes(b"broken")
    assert run(tmp_path) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "id0/0.png" in error and error.startswith("error: ")
    assert run(tmp_path, "evaluation.on_missing=skip") == 0


def test_a_bin_needs_no_other_file(tmp_path):
    rng = np.random.default_rng(0)
    bases = rng.integers(0, 256, (60, 112, 112, 3), dtype=np.uint8)
    images, flags = [], []
    for i in range(60):
        other = bases[i] if i % 2 == 0 else bases[(i + 1) % 60]
        for image in (bases[i], np.clip(other + rng.normal(0, 20, other.shape), 0, 255).astype(np.uint8)):
            images.append(cv2.imencode(".png", image)[1].tobytes())
        flags.append(i % 2 == 0)
    (tmp_path / "toy.bin").write_bytes(pickle.dumps((images, flags)))
    torch.save(STUDENT.state_dict(), tmp_path / "student.pth")
    torch.save(STUDENT.feature_extractor.state_dict(), tmp_path / "net.pth")
    model = {
        "features": {"module": "model.compact.CompactNet", "weights": None, "params": TINY},
        "head": {"module": "model.mlp.MLP", "params": {"hidden_dim": 16}},
    }
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(model))
    config = {
        "base": {"save_path": str(tmp_path / "out"), "device": "cpu", "verbose": 0},
        "evaluation": {"fmr": 0.1, "bootstrap": 0},
        "datasets": {"toy": {"pairs": str(tmp_path / "toy.bin"), "format": "bin"}},
        "recognition": {"net": {"module": "CompactNet", "params": TINY, "weights": str(tmp_path / "net.pth")}},
        "scores": {"q": {"weights": str(tmp_path / "student.pth"), "config": "model.yaml"}},
    }
    (tmp_path / "evaluate.yaml").write_text(yaml.safe_dump(config))
    assert run(tmp_path) == 0
    (row, _) = rows(tmp_path / "out/pauc.csv")
    assert (row["mated"], row["non_mated"]) == ("30", "30")
    assert not (tmp_path / "out/images").exists()


@pytest.mark.slow
@pytest.mark.skipif(not FACES.is_dir(), reason="needs ../shared/faces")
def test_lightqnet_on_photographs(tmp_path):
    """Judge LightQNet by stand-in embeddings: its scores are read and matched to the identity folders of LFW."""
    names = [row["path"] for row in rows(FACES / "labels_lightqnet.csv")]
    write_embeddings(tmp_path / "e.npz", names, np.random.default_rng(0).normal(size=(len(names), 8)))
    config = {
        "base": {"save_path": str(tmp_path / "out"), "device": "cpu", "verbose": 0},
        "evaluation": {"bootstrap": 0},
        "datasets": {"LFW": {"format": "identities"}},
        "recognition": {"noise": {"embeddings": {"LFW": str(tmp_path / "e.npz")}}},
        "scores": {"LightQNet": {"LFW": str(FACES / "labels_lightqnet.csv")}},
    }
    (tmp_path / "evaluate.yaml").write_text(yaml.safe_dump(config))
    assert run(tmp_path) == 0
    row = rows(tmp_path / "out/pauc.csv")[0]
    assert (row["mated"], row["non_mated"]) == ("7435", "100000")
    assert float(row["fnmr0"]) > 0.98, "embeddings of noise match nothing"


def test_an_image_a_source_cannot_score_is_named_with_its_reason(tmp_path, capsys):
    points = write_population(tmp_path, identities=5, images=3)
    for name in ("id4/1.png", "id4/2.png"):
        (tmp_path / "images" / name).unlink()
        del points[name]
    (tmp_path / "pairs.txt").write_text(
        "id0/0.png id0/1.png 1\nid0/0.png id4/0.png 0\nid1/0.png id1/1.png 1\nid1/0.png id2/0.png 0\n"
    )
    torch.manual_seed(2)
    torch.save(CompactNet(**TINY).state_dict(), tmp_path / "net.pth")
    net = {"module": "model.compact.CompactNet", "weights": str(tmp_path / "net.pth"), "params": TINY}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump({"features": net}))
    label = {
        "base": {"save_path": "unused", "device": "cpu"},
        "dataset": {"loc": "unused"},
        "model": {"config": str(tmp_path / "model.yaml")},
        "source": {"name": "sdd_fiqa"},
    }
    (tmp_path / "label.yaml").write_text(yaml.safe_dump(label))
    images = {"root": str(tmp_path / "images"), "landmarks": str(tmp_path / "landmarks.csv")}
    config = {
        "base": {"save_path": str(tmp_path / "out"), "device": "cpu", "verbose": 0},
        "datasets": {"toy": {**images, "pairs": str(tmp_path / "pairs.txt")}},
        "recognition": {"net": net},
        "scores": {"SDD-FIQA": {"source": str(tmp_path / "label.yaml")}},
    }
    (tmp_path / "evaluate.yaml").write_text(yaml.safe_dump(config))
    whole = (tmp_path / "landmarks.csv").read_bytes()
    spoil_landmarks(tmp_path / "landmarks.csv", "the nose comes last")
    assert run(tmp_path) == 2
    error = capsys.readouterr().err
    assert "100% of the landmarks" in error and "the nose comes last" in error and not (tmp_path / "out").exists()
    (tmp_path / "landmarks.csv").write_bytes(whole)
    missing = "no score of SDD-FIQA, first 'id4/0.png' (its identity has no other image)"
    assert run(tmp_path, "evaluation.rule=pooled_rethreshold") == 2  # discards non-mated pairs too
    assert missing in capsys.readouterr().err
    assert run(tmp_path, "evaluation.fmr=0.5") == 0
    assert f"{missing}; they are in non-mated pairs only" in (tmp_path / "out/report.html").read_text().replace(
        "&#x27;", "'"
    )


def test_methods_of_one_trunk_share_one_pass(tmp_path, monkeypatch):
    """Two recognition models, SER-FIQ, magnitude and CR-FIQA over one weights file: two passes per crop, not six."""
    write_population(tmp_path, identities=6, images=4)
    torch.manual_seed(2)
    student = WrapperModel(CompactNet(**TINY), LinearHead(8))
    state = {name.replace("feature_extractor.", ""): tensor for name, tensor in student.state_dict().items()}
    torch.save({name.replace("quality_head.", "qs."): tensor for name, tensor in state.items()}, tmp_path / "net.pth")
    net = {"module": "model.compact.CompactNet", "weights": str(tmp_path / "net.pth")}
    scores = {}
    for name, params in (("ser_fiq", {**TINY, "dropout": 0.4}), ("magnitude", TINY), ("cr_fiqa", TINY)):
        (tmp_path / f"{name}_model.yaml").write_text(yaml.safe_dump({"features": {**net, "params": params}}))
        label = {
            "base": {"save_path": "unused", "device": "cpu"},
            "dataset": {"loc": "unused"},
            "model": {"config": f"{name}_model.yaml", "weight": net["weights"]},
            "source": {"name": name, "ser_fiq": {"passes": 5}},
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(label))
        scores[name] = {"source": str(tmp_path / f"{name}.yaml")}
    images = {"root": str(tmp_path / "images"), "landmarks": str(tmp_path / "landmarks.csv")}
    config = {
        "base": {"device": "cpu", "verbose": 0, "save_path": str(tmp_path / "unused")},
        "evaluation": {"fmr": 0.1, "bootstrap": 0},
        "datasets": {"toy": {**images, "format": "identities", "non_mated": 60}},
        "recognition": {name: {**net, "params": TINY, "flip": flip} for name, flip in (("mirrored", 1), ("plain", 0))},
        "scores": scores,
        "dataloader": {"params": {"batch_size": 7}},
    }
    (tmp_path / "evaluate.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    trunk_rows, build = {"shared": 0, "each": 0}, evaluate.build_models

    def count(module, inputs, output):
        if isinstance(module, torch.nn.Conv2d) and module.in_channels == 3:
            trunk_rows[kind] += len(output)

    def built(*args):
        models = build(*args)
        trunk_rows[kind] = 0  # building looks at the network once or twice
        return models

    monkeypatch.setattr(evaluate, "build_models", built)
    handle = torch.nn.modules.module.register_module_forward_hook(count)
    try:
        for kind in ("shared", "each"):
            if kind == "each":
                monkeypatch.setattr(evaluate, "SharedLoader", lambda builder, device, _: NetworkLoader(builder, device))
            assert run(tmp_path, f"base.save_path={tmp_path / kind}") == 0
    finally:
        handle.remove()
    passes = {kind: count / 24 for kind, count in trunk_rows.items()}
    assert passes == {"shared": 1 + 1, "each": 5 + 1}  # the mirror image is a pass of its own
    for name in ("pauc.csv", "edc.csv", "correlation.csv"):
        assert (tmp_path / "shared" / name).read_bytes() == (tmp_path / "each" / name).read_bytes()


def test_precision_is_fp32_unless_it_is_asked_for(tmp_path, capsys):
    write_population(tmp_path, identities=6, images=4)
    torch.save(STUDENT.state_dict(), tmp_path / "student.pth")
    model = {
        "features": {"module": "model.compact.CompactNet", "weights": None, "params": TINY},
        "head": {"module": "model.mlp.MLP", "params": {"hidden_dim": 16}},
    }
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(model))
    images = {"root": str(tmp_path / "images"), "landmarks": str(tmp_path / "landmarks.csv")}
    config = {
        "base": {"device": "cpu", "verbose": 0, "save_path": str(tmp_path / "out")},
        "evaluation": {"fmr": 0.1, "bootstrap": 0},
        "datasets": {"toy": {**images, "format": "identities", "non_mated": 60}},
        "recognition": {"net": {"module": "CompactNet", "params": TINY, "weights": str(tmp_path / "student.pth")}},
        "scores": {"q": {"weights": str(tmp_path / "student.pth"), "config": "model.yaml"}},
    }
    (tmp_path / "evaluate.yaml").write_text(yaml.safe_dump(config))
    crops, found = torch.randint(0, 256, (6, 112, 112, 3), dtype=torch.uint8), {}
    for overrides in ((), ("base.precision=bf16",), ("base.precision=bf16", "scores.q.precision=fp32")):
        cfg = load_config(EvaluateConfig, tmp_path / "evaluate.yaml", overrides)
        models = evaluate.build_models(cfg, cli.Command(str(tmp_path / "evaluate.yaml"), [], NOTHING_MORE))
        measured = [one(crops, [""] * 6) for one in (models.methods["q"], models.recognisers["net"])]
        found[overrides] = measured, [one.fingerprint["precision"] for one in (*models.methods.values(),)]
    plain, half, mixed = found.values()
    assert [one[1] for one in (plain, half, mixed)] == [["fp32"], ["bf16; on a CPU the network itself"], ["fp32"]]
    assert 0 < np.abs(half[0][0] - plain[0][0]).max() < 0.1 and 0 < np.abs(half[0][1] - plain[0][1]).max() < 0.1
    assert np.array_equal(mixed[0][0], plain[0][0]) and np.array_equal(mixed[0][1], half[0][1])
    (tmp_path / "label.yaml").write_text("{}")
    assert run(tmp_path, "scores.q={source: label.yaml, precision: bf16}") == 2
    assert "scores.q: precision goes with weights" in capsys.readouterr().err
