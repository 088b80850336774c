"""The registry of training methods: what a new one takes, and what older runs left still loads."""

import shutil
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional

import train_main
from data.index.build import build_identity_index
from data.samples.datasets import IdentityDataset
from data.samples.loader import train_loader, validation_loader
from data.samples.training import TrainingData
from jobs import methods
from jobs.methods import METHODS, Method, load_training
from model.frozen.network import normalise
from model.objectives.base import Objective
from tests.helpers.recognition import write_identities, write_run
from tests.helpers.training import ROOT, same_bytes, tensors, write_setup
from utils.config import load_config
from utils.config.sections import ModelConfig
from utils.config.train import ImagesConfig, LossConfig, TrainConfig
from utils.errors import ConfigError
from utils.training.run_log import read_metrics

# ---- a method, as its two files would hold it: configuration and data, and the objective


class BrightnessLoss(LossConfig):
    """The loss terms."""

    power: int = 2
    """Exponent of the error."""


class BrightnessConfig(TrainConfig):
    """Predict how bright a crop is."""

    PARTS: ClassVar = {"feature_extractor": False, "lamp": True}

    dataset: ImagesConfig
    loss: BrightnessLoss = BrightnessLoss()


@dataclass(frozen=True)
class BrightnessData(TrainingData):
    """Hold also the brightness of all training images."""

    mean: float = 0.0
    """Subtracted from what is predicted."""


def brightness_data(cfg, shard) -> BrightnessData:
    index, coverage = build_identity_index(cfg.dataset)
    dataset = IdentityDataset(index, cfg.base.seed, False, cfg.dataset)
    rows, params = np.arange(len(index)), cfg.dataloader.train.params
    return BrightnessData(
        train=train_loader(dataset, rows[2:], params, cfg.base.seed, shard),
        validation=validation_loader(dataset, rows[:2], params, shard),
        epochs=cfg.base.epochs,
        report=coverage.lines(),
        place=cfg.dataset.image_location,
        facts={"images": len(index)},
        mean=float(np.mean([dataset[0, row].images.double().mean() for row in rows[2:]])),
    )


class BrightnessTerms(NamedTuple):
    """Loss terms."""

    brightness: Tensor


class BrightnessObjective(Objective):
    """Read the brightness off the embedding."""

    terms = BrightnessTerms
    weights = (1.0,)

    @classmethod
    def from_config(cls, cfg, model_cfg, builder, contract):
        backbone = builder.pretrained(model_cfg.features)
        objective = cls(nn.Sequential(backbone, nn.Linear(8, 1)), cfg.loss, contract)
        objective.power = cfg.loss.power
        return objective

    def attach(self, data):
        self.notes.append(f"mean brightness {data.mean:.1f}")
        self.calibration = nn.Linear(1, 1)
        self.calibration.requires_grad_(False)

    def before_first_step(self, run):
        self.filled = bool(self.calibration.bias == torch.tensor(run.data.mean))  # from the resume point
        self.calibration.bias.fill_(run.data.mean)

    def parts(self):
        return {"feature_extractor": self.student[0], "lamp": self.student[1]}

    def kept(self):
        return {"calibration": self.calibration}

    def errors(self, network, batch):
        wanted = (batch.images.float().mean((1, 2, 3)) - self.calibration.bias) / 255
        return (network(normalise(batch.images, self.contract)).flatten() - wanted).abs() ** self.power

    def forward(self, batch):
        return BrightnessTerms(self.errors(self.student, batch).mean())

    def measure(self, network, batch):
        return {"error": self.errors(network, batch)}

    def summarise(self, values):
        return {"error": values["error"].mean().item(), "selection": values["error"].mean().item()}


# ---- its line of the registry


@pytest.fixture
def brightness(monkeypatch):
    line = Method("Brightness", BrightnessConfig, brightness_data, BrightnessObjective)
    monkeypatch.setitem(METHODS, "brightness", line)


@pytest.fixture
def config(tmp_path):
    """Write images and the configuration of a run of the new method."""
    write_identities(tmp_path / "faces", identities=3, images=6)
    values = yaml.safe_load(write_run(tmp_path, "cosface").read_text())
    values["base"] |= {"method": "brightness", "epochs": 1}
    values["dataset"] = {"image_location": str(tmp_path / "faces")}
    values["loss"] = {"power": 1}
    parts = ("lamp", "feature_extractor")
    values["optimizer"] = {f"group_{i}": {"params": part, "lr": 0.1} for i, part in enumerate(parts, 1)}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "train.yaml"


def make_run(config, *overrides):
    cfg = load_training(config, overrides)
    return train_main.build(cfg, load_config(ModelConfig, cfg.model.config), torch.device("cpu"))


def test_a_method_is_two_files_and_one_line(brightness, config, tmp_path):
    assert train_main.main(["-c", str(config)]) == 0
    steps = [row for row in read_metrics(tmp_path / "run/metrics.jsonl") if "lr" in row]
    assert [row["step"] for row in steps] == [1, 2]  # sixteen images, eight a step
    assert all(row["brightness"] > 0 for row in steps)
    saved = tensors(tmp_path / "run/brightness-last.pth")
    assert {"0.conv1.weight", "1.weight"} <= saved.keys() and not any("calibration" in key for key in saved)
    validated = [row for row in read_metrics(tmp_path / "run/metrics.jsonl") if "val/error" in row]
    assert len(validated) == 1 and validated[0]["val/error"] == validated[0]["val/selection"]
    run = make_run(config)
    fresh, batch = run.objective.student.state_dict(), next(run.data.batches_from(0))
    assert not torch.equal(fresh["1.weight"], saved["1.weight"])
    run.objective.before_first_step(run)
    pixels = batch.images.double()
    wanted = (pixels.mean((1, 2, 3)) - run.data.mean) / 255
    predicted = run.objective.student.eval()(normalise(batch.images, run.contract)).flatten()
    by_hand = functional.l1_loss(predicted.double(), wanted).item()
    assert run.objective(batch).brightness.item() == pytest.approx(by_hand, rel=1e-5)


def test_what_a_hook_computed_is_there_after_a_resume(brightness, config, tmp_path):
    halves, whole = (f"base.save_path={tmp_path / name}" for name in ("halves", "whole"))
    first = make_run(config, halves, "base.max_steps=1")
    train_main.fit(first)
    second = make_run(config, halves, "base.resume=auto")
    train_main.fit(second)
    train_main.fit(make_run(config, whole))
    assert (first.objective.filled, second.objective.filled, second.step) == (False, True, 2)
    assert same_bytes(*(tensors(tmp_path / name / "brightness-last.pth") for name in ("halves", "whole")))


def test_its_keys_and_parts_are_its_own(brightness, config):
    with pytest.raises(ConfigError, match=r"'dataset\.flip' with base\.method: brightness, it belongs to cosface and"):
        load_training(config, ["dataset.flip=1"])
    with pytest.raises(ConfigError, match=r"optimizer: no group trains lamp; add one with params: lamp"):
        load_training(config, ["optimizer.group_1=null"])
    with pytest.raises(ConfigError, match=r"loss\.weights: this method has 1 terms \(brightness\), one factor each"):
        make_run(config, "loss.weights=[1, 2]")
    with pytest.raises(ConfigError, match=r"loss\.weights: every factor is 0"):
        make_run(config, "loss.weights=[0]")
    with pytest.raises(ConfigError, match=r"'loss\.power' with base\.method: cosface, it belongs to brightness"):
        load_training(config, ["base.method=cosface"])
    assert methods.title("brightness") == "Brightness" and methods.title("mine") == "mine"


def test_a_method_must_be_in_the_registry(config):
    with pytest.raises(ConfigError, match=r"base\.method: input should be 'aikd', 'cosface' or 'crfiqa', found 'brigh"):
        load_training(config)


# ---- runs of an earlier version, whose config.yaml names the keys of all methods


OLD = ROOT / "tests/old_configs"
"""config.yaml as the version before the union of configurations wrote it, for a run of each method."""


@pytest.fixture
def old_run(tmp_path, monkeypatch):
    """Write what the old configurations name, relative to the working directory."""
    write_setup(tmp_path)
    write_identities(tmp_path / "faces")
    write_run(tmp_path, "crfiqa")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_kept(old, new, path):
    """Compare what both name: the method's own keys; this version may have further ones."""
    common = old.keys() & new.keys()
    assert common, path
    for key in common:
        if isinstance(old[key], dict) and old[key]:
            assert_kept(old[key], new[key], f"{path}.{key}")
        else:
            assert old[key] == new[key], f"{path}.{key}"


@pytest.mark.parametrize("method", ["aikd", "cosface", "crfiqa"])
def test_the_config_of_an_older_run_trains_again(old_run, method):
    shutil.copy(OLD / f"{method}.yaml", old_run / "old.yaml")
    assert {"consistency", "ratio", "refinement"} <= yaml.safe_load((OLD / f"{method}.yaml").read_text())["loss"].keys()
    assert train_main.main(["-c", "old.yaml"]) == 0
    new = yaml.safe_load((old_run / "run/config.yaml").read_text())
    assert ("misalign" in new["dataset"]) == (method == "aikd") and ("flip" in new["dataset"]) == (method != "aikd")
    steps = [row["step"] for row in read_metrics(old_run / "run/metrics.jsonl") if "lr" in row]
    assert steps == [1, 2, 3] and (old_run / f"run/{method}-last.pth").exists()
    old = yaml.safe_load((OLD / f"{method}.yaml").read_text())
    for section in ("base", "dataset", "dataloader", "model", "ema", "scheduler", "grad_scaler", "optimizer", "loss"):
        assert_kept(old[section], new[section], section)


def test_an_unfinished_run_of_another_version_is_one_sentence(old_run):
    run = make_run(OLD / "aikd.yaml")
    train_main.begin(run)
    run.folder.settings = yaml.safe_load((OLD / "aikd.yaml").read_text())
    train_main.save_resume(run)
    with pytest.raises(ConfigError, match=r"^run: another version of this program began the run there, it"):
        train_main.main(["-c", str(OLD / "aikd.yaml"), "base.resume=auto"])
    with pytest.raises(ConfigError, match=r"has base\.method = 'aikd', this one 'cosface'"):
        train_main.main(["-c", str(OLD / "cosface.yaml"), "base.resume=auto"])
