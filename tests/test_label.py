"""label.py: the labels of every source, right and ready for training, whatever the batches and the sample."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import train_main
from data.alignment import align
from data.images.decode import decode_rgb
from data.tables.landmarks import read_landmarks
from data.tables.scores import read_scores
from model.ai_kd import WrapperModel
from model.label_sources import label_schema
from model.mlp import MLP, LinearHead
from tests.helpers.labelling import COUNT, labels_of, network, run, write_label_setup
from tests.helpers.tiny_networks import randomised
from tests.helpers.training import ROOT, write_setup
from utils.config import load_config


@pytest.fixture
def setup(tmp_path) -> Path:
    return write_label_setup(tmp_path)


def crops(folder: Path) -> tuple[list[str], torch.Tensor]:
    """The aligned crops in the order of their names, cut here."""
    table = read_landmarks(folder / "landmarks.csv")
    points = {table.names[i]: table.points[i] for i in range(len(table.names))}
    names = sorted(points)
    images = [align(decode_rgb((folder / "images" / name).read_bytes()), points[name]) for name in names]
    return names, torch.from_numpy(np.stack(images))


def write_student(folder: Path, head: torch.nn.Module, prefixes: tuple[str, str]) -> WrapperModel:
    """Save a trained student in one of the published layouts."""
    student = WrapperModel(network(), randomised(head, seed=2)).eval()
    state = {}
    for name, tensor in student.state_dict().items():
        part, _, rest = name.partition(".")
        state[prefixes[part == "quality_head"] + rest] = tensor
    torch.save(state, folder / "student.pth")
    return student


SOURCES = ("ser_fiq", "faceqan", "magnitude", "sdd_fiqa", "grafiqs", "cr_fiqa", "student")


@pytest.mark.parametrize("source", SOURCES)
def test_labels_of_every_source_train_aikd_as_they_are(tmp_path, source):
    config = write_setup(tmp_path, count=COUNT, max_steps=2)
    head = LinearHead(8) if source == "cr_fiqa" else MLP(8, 16)
    write_student(tmp_path, head, ("", "qs.") if source == "cr_fiqa" else ("feature_extractor.", "quality_head."))
    settings = {
        "base": {"save_path": str(tmp_path / "out"), "device": "cpu", "verbose": 0},
        "dataset": {
            "loc": str(tmp_path / "images"),
            "input": "landmarks",
            "landmarks": str(tmp_path / "landmarks.csv"),
        },
        "model": {"config": str(tmp_path / "model_config.yaml")},
        "source": {"ser_fiq": {"dropout": {"rate": 0.3}}},
    }
    if source in ("cr_fiqa", "student"):
        settings["model"]["weight"] = str(tmp_path / "student.pth")
    (tmp_path / "label_config.yaml").write_text(yaml.safe_dump(settings))
    assert run(tmp_path, source) == 0
    labels = labels_of(tmp_path)
    assert len(labels) == COUNT and len(set(labels.values())) > COUNT / 2
    trained = []
    for kind in ("pkl", "csv"):
        overrides = [f"dataset.quality_location={tmp_path / 'out' / f'labels.{kind}'}", "base.validate_every=1"]
        assert train_main.main(["-c", str(config), *overrides]) == 0
        trained.append((tmp_path / "run" / "aikd-last.pth").read_bytes())
    assert trained[0] == trained[1]


def test_both_files_hold_the_same_numbers_under_relative_names(setup):
    assert run(setup, "magnitude") == 0
    names, images = crops(setup)
    x = (images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    with torch.no_grad():
        wanted = network()(x).norm(dim=1).numpy()
    labels = labels_of(setup)
    assert list(labels) == names and all(type(value) is float for value in labels.values())
    np.testing.assert_allclose(list(labels.values()), wanted, rtol=1e-5)
    assert any(round(value, 3) != value for value in labels.values())  # all digits of a float32 are kept
    for kind in ("pkl", "csv"):
        table = read_scores(setup / "out" / f"labels.{kind}")
        assert list(table.names) == names
        assert table.values.tolist() == list(labels.values())


@pytest.mark.parametrize(
    ("source", "head", "prefixes"),
    [
        ("cr_fiqa", LinearHead(8), ("", "qs.")),
        ("student", LinearHead(8), ("base.", "linear.")),
        ("student", MLP(8, 16), ("base_model.", "mlp.")),
        ("student", MLP(8, 16), ("feature_extractor.", "quality_head.")),
    ],
)
def test_published_layouts_label(setup, source, head, prefixes):
    student = write_student(setup, head, prefixes)
    model = yaml.safe_load((setup / "model_config.yaml").read_text())
    model["features"]["weights"] = None  # only model.weight is read
    if isinstance(head, LinearHead) and source == "student":
        model["head"] = {"module": "model.mlp.LinearHead"}
    (setup / "model_config.yaml").write_text(yaml.safe_dump(model))
    assert run(setup, source, f"model.weight={setup / 'student.pth'}") == 0
    names, images = crops(setup)
    with torch.no_grad():
        features = student.feature_extractor((images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5)
        wanted = head(features).flatten().numpy()
    labels = labels_of(setup)
    np.testing.assert_allclose([labels[name] for name in names], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("source", SOURCES)
def test_batch_size_does_not_change_labels(setup, source):
    (setup / "images" / "id_1" / "0001.jpg").write_bytes(b"no image")  # shifts the others within their batch
    head = LinearHead(8) if source == "cr_fiqa" else MLP(8, 16)
    write_student(setup, head, ("", "qs.") if source == "cr_fiqa" else ("feature_extractor.", "quality_head."))
    weight = [f"model.weight={setup / 'student.pth'}"] if source in ("cr_fiqa", "student") else []
    assert run(setup, source, *weight) == 0
    four = labels_of(setup)
    spread = np.ptp(list(four.values()))  # random heads give labels in the hundreds
    for size in (1, 7, 64):
        assert run(setup, source, f"dataloader.params.batch_size={size}", *weight) == 0
        again = labels_of(setup)
        assert list(again) == list(four)
        np.testing.assert_allclose(list(again.values()), list(four.values()), rtol=0, atol=1e-5 * max(1, spread))


def test_a_sample_is_seeded_and_gets_the_labels_of_the_whole(setup):
    assert run(setup, "ser_fiq") == 0
    whole = labels_of(setup)
    samples = []
    for overrides in (["base.seed=3"], ["base.seed=3"], ["base.seed=4"]):
        assert run(setup, "ser_fiq", "dataset.sample=6", *overrides) == 0
        samples.append(labels_of(setup))
    assert samples[0] == samples[1] and list(samples[0]) != list(samples[2])
    assert [len(sample) for sample in samples] == [6, 6, 6]
    for name, value in samples[0].items():
        assert value == pytest.approx(whole[name], abs=1e-5)


def test_a_network_of_the_users_own_labels(setup):
    features = {"module": "tests.helpers.tiny_networks.tiny_net", "weights": None, "params": {"size_px": 112}}
    model = {"features": features}
    (setup / "model_config.yaml").write_text(yaml.safe_dump(model))
    overrides = ("base.allow_random_init=1", "source.grafiqs.tap=bn1")
    assert run(setup, "grafiqs", *overrides, allow="tests") == 0
    assert len(labels_of(setup)) == COUNT and max(labels_of(setup).values()) < 0


def test_the_imposed_dropout_is_said_once(setup, caplog):
    with caplog.at_level("INFO"):
        assert run(setup, "ser_fiq", "base.verbose=1") == 0
    said = [record for record in caplog.records if "dropout 0.3 is imposed before fc of CompactNet" in record.message]
    assert len(said) == 1


def test_the_shipped_configuration_is_valid():
    schema = label_schema()
    cfg = load_config(schema, ROOT / "configs" / "label_config.yaml")
    least = {"base": {"save_path": "x"}, "dataset": {"loc": "x"}, "model": {"config": "x"}}
    assert cfg.source == schema.model_validate(least).source


class OneNumber(torch.nn.Module):
    """A user's method: the mean of the first channel."""

    def forward(self, x):
        return x[:, 0].mean((1, 2))


@pytest.mark.parametrize("higher", [1, 0])
def test_any_network_whose_output_is_the_quality_labels(setup, higher):
    model = {"features": {"module": "tests.test_label.OneNumber", "weights": None}, "channels": "BGR"}
    (setup / "model_config.yaml").write_text(yaml.safe_dump(model))
    assert run(setup, "module", f"source.module.higher_is_better={higher}", allow="tests") == 0
    names, images = crops(setup)
    wanted = ((images.double() / 255 - 0.5) / 0.5)[..., 2].mean((1, 2)).numpy() * (1 if higher else -1)
    labels = labels_of(setup)
    np.testing.assert_allclose([labels[name] for name in names], wanted, atol=1e-5)
