"""What adding takes: a label source or a backbone: a file and a line of a registry; a published network: an entry."""

import json
import pickle

import cv2
import numpy as np
import pytest
import torch
import yaml

import label
from model import label_sources, registry
from model.compact import CompactNet
from model.published.presets import PRESETS, Preset, preset_list
from tests.helpers.networks import TinyBackbone
from utils import cli
from utils.contract import InputContract


@pytest.fixture
def setup(tmp_path):
    """Write three crops, weights of a backbone and both YAML files; return the folder."""
    rng = np.random.default_rng(0)
    for i in range(3):
        (tmp_path / "images").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"images/{i}.png"), rng.integers(0, 80 * (i + 1), (112, 112, 3), dtype=np.uint8))
    torch.manual_seed(0)
    torch.save(TinyBackbone().state_dict(), tmp_path / "net.pth")
    features = {"module": "tests.helpers.networks.TinyBackbone", "weights": str(tmp_path / "net.pth")}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump({"features": features}))
    config = {
        "base": {"save_path": str(tmp_path / "out"), "device": "cpu", "verbose": 0},
        "dataset": {"loc": str(tmp_path / "images")},
        "model": {"config": str(tmp_path / "model.yaml")},
    }
    (tmp_path / "label.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def run(folder, *overrides: str) -> int:
    return cli.run(lambda: label.main(["-c", str(folder / "label.yaml"), *overrides]))


def labels(folder) -> list[float]:
    return list(pickle.loads((folder / "out/labels.pkl").read_bytes()).values())


def images(folder) -> np.ndarray:
    return np.stack([cv2.imread(str(folder / f"images/{i}.png"))[..., ::-1] for i in range(3)])


@pytest.fixture
def backbone(monkeypatch):
    """Add a backbone: its name in the registry is all."""
    monkeypatch.setattr(registry, "BACKBONES", (*registry.BACKBONES, "tests.helpers.networks.TinyBackbone"))
    monkeypatch.setattr(registry, "KNOWN", (*registry.KNOWN, "tests.helpers.networks.TinyBackbone"))


def test_a_label_source_is_a_file_and_a_line(setup, monkeypatch, backbone, capsys):
    monkeypatch.setitem(label_sources.SOURCES, "brightness", "tests.helpers.brightness.Brightness")
    assert run(setup, "source.name=brightness", "source.brightness.power=0.5") == 0
    np.testing.assert_allclose(labels(setup), (images(setup).mean(axis=(1, 2, 3)) / 255) ** 0.5, rtol=1e-6)
    request = json.loads((setup / "out/run.json").read_text())["request"]
    assert request["source"] == {"name": "brightness", "rows_per_pass": 32, "power": 0.5}
    assert run(setup, "source.name=brightness", "source.brightness.powr=2") == 2
    assert "unknown key 'source.brightness.powr'; did you mean 'power'?" in capsys.readouterr().err


def test_without_the_line_there_is_no_such_source(setup, backbone, capsys):
    assert run(setup, "source.name=brightness") == 2
    assert "source.name: input should be 'ser_fiq'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tests.helpers.networks.TinyBackbone", "TinyBackbone"])
def test_a_backbone_is_a_file_and_a_line(setup, backbone, name):
    model = yaml.safe_load((setup / "model.yaml").read_text())
    model["features"]["module"] = name
    (setup / "model.yaml").write_text(yaml.safe_dump(model))
    assert run(setup, "source.name=magnitude") == 0
    network = TinyBackbone().eval()
    network.load_state_dict(torch.load(setup / "net.pth", weights_only=True))
    x = torch.from_numpy((images(setup) / 255 - 0.5) / 0.5).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        np.testing.assert_allclose(labels(setup), network(x).norm(dim=1).numpy(), rtol=1e-5)


@pytest.mark.parametrize("preset", ["mine", "null"])
def test_a_published_network_is_an_entry_of_the_table(setup, monkeypatch, preset):
    params = {"num_features": 16, "width": 4}
    torch.manual_seed(1)
    network = CompactNet(**params).eval()
    torch.save(network.state_dict(), setup / "mine.pth")
    tensors = sum("num_batches" not in key for key in network.state_dict())
    entry = Preset(
        "recognition", "model.compact.CompactNet", params, tensors=tensors, contract=InputContract(channels="BGR")
    )
    monkeypatch.setitem(PRESETS, "mine", entry)
    named = f"model.weight={setup / 'mine.pth'}", f"model.preset={preset}"
    assert run(setup, "source.name=magnitude", "model.config=null", *named) == 0
    x = torch.from_numpy((images(setup)[..., ::-1] / 255 - 0.5) / 0.5).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        np.testing.assert_allclose(labels(setup), network(x).norm(dim=1).numpy(), rtol=1e-5)
    assert "mine              BGR, 112 px, mean 0.5, std 0.5; recognition" in preset_list()


def test_without_the_line_a_backbone_needs_the_command_line(setup, capsys):
    assert run(setup, "source.name=magnitude") == 2
    assert "add --allow-module tests" in capsys.readouterr().err
