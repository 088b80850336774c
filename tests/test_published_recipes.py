"""DifFIQA(R) and eDifFIQA as recipes of this repository: what their YAMLs say, and that they train."""

import json

import pytest
import torch

import train_main
from jobs.methods import load_training
from model.compact import CompactNet
from model.mlp import MLP, LinearHead
from tests.helpers.training import ROOT, tensors, write_setup
from utils.config import load_config
from utils.config.sections import ModelConfig


def test_diffiqar_is_the_published_recipe():
    cfg = load_training(ROOT / "configs/diffiqar_config.yaml")
    assert cfg.optimizer.module == "torch.optim.Adam"
    head, backbone = cfg.optimizer.group_1, cfg.optimizer.group_2
    assert (head.params, head.lr, head.limit) == ("quality_head", 1e-3, None)
    assert (backbone.params, backbone.lr, backbone.limit) == ("feature_extractor", 1e-4, 100)
    assert (cfg.base.epochs, cfg.dataloader.train.params.batch_size, cfg.ema.alpha) == (1, 128, 0)
    assert (cfg.dataset.misalign, cfg.dataset.label_scaling) == (False, "minmax")
    assert (cfg.loss.quality.module, cfg.loss.weights, cfg.loss.refinement) == ("torch.nn.L1Loss", [0, 1], None)
    model = load_config(ModelConfig, ROOT / cfg.model.config)
    assert (model.features.module, model.head.module) == ("model.iresnet.iresnet100", "model.mlp.LinearHead")


def test_ediffiqa_is_the_published_recipe():
    cfg = load_training(ROOT / "configs/ediffiqa_config.yaml")
    assert (cfg.optimizer.module, cfg.base.epochs, cfg.dataset.misalign) == ("torch.optim.Adam", 3, False)
    refined = cfg.loss.refinement
    assert (refined.theta, refined.epsilon, refined.top, refined.min_images) == (0.5, 0.5, 0.2, 10)
    assert (cfg.loss.quality.module, cfg.loss.weights) == ("torch.nn.L1Loss", [1, 1])
    assert load_config(ModelConfig, ROOT / cfg.model.config).head.module == "model.mlp.MLP"


@pytest.mark.parametrize(
    ("name", "head", "trained"),
    [("diffiqar", "LinearHead", LinearHead(8)), ("ediffiqa", "MLP", MLP(8))],
)
def test_the_yaml_trains_for_two_steps(tmp_path, name, head, trained):
    write_setup(tmp_path, 60)
    model = {
        "features": {
            "module": "model.compact.CompactNet", "weights": str(tmp_path / "backbone.pth"),
            "params": {"num_features": 8, "width": 4},
        },
        "head": {"module": f"model.mlp.{head}"},
    }  # fmt: skip
    (tmp_path / "small.yaml").write_text(json.dumps(model))
    refine = ["loss.refinement.min_images=1"] if name == "ediffiqa" else []
    overrides = [
        *(f"base.save_path={tmp_path / 'run'}", "base.device=cpu", "base.max_steps=2", "base.verbose=0"),
        *(f"dataset.image_location={tmp_path / 'images'}", f"dataset.quality_location={tmp_path / 'labels.csv'}"),
        *(f"dataset.landms_location={tmp_path / 'landmarks.csv'}", "dataset.val_percent=0.1"),
        *("dataloader.train.params.num_workers=0", "dataloader.val.params.num_workers=0", "base.log_every=1"),
        *("dataloader.train.params.batch_size=16", f"model.config={tmp_path / 'small.yaml'}"),
        *("optimizer.group_2.limit=null", *refine),
    ]
    assert train_main.main(["-c", str(ROOT / f"configs/{name}_config.yaml"), *overrides]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "quality" in row]
    assert [row["step"] for row in steps] == [1, 2]
    assert all(0 < row["quality"] < 5 for row in steps)
    saved = tensors(tmp_path / "run/aikd-last.pth")
    own = {f"quality_head.{key}" for key in trained.state_dict()}
    assert own == {key for key in saved if key.startswith("quality_head.")}
    before = {f"feature_extractor.{key}": value for key, value in torch.load(tmp_path / "backbone.pth").items()}
    assert set(before) == set(saved) - own
    weight = next(iter(f"feature_extractor.{key}" for key, _ in CompactNet(num_features=8, width=4).named_parameters()))
    step = (saved[weight] - before[weight]).abs().max().item()
    assert 1e-4 < step <= 2.01e-4  # Adam moves a parameter by its rate at most, 1e-4 a step
