"""Options that make a step cheaper leave its numbers where they were, within the rounding of float32."""

import numpy as np
import pytest
import torch
from torch import nn

import train_main
from model.compact import CompactNet
from tests.helpers.training import TINY, observed_run, write_setup
from utils.config.loading import validate
from utils.config.train import OptimizerConfig
from utils.errors import ConfigError
from utils.training.optim import build_optimizer
from utils.training.run_log import read_metrics


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    """Return the configuration of a run whose backbone has BatchNorms that do something, and the plain run's losses."""
    folder = tmp_path_factory.mktemp("fast")
    config = write_setup(folder)
    backbone = CompactNet(**TINY)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.bias, 0, 0.2)
    torch.save(backbone.state_dict(), folder / "backbone.pth")
    return config, train(config, folder / "plain")[1]


def train(config, out, *overrides):
    """Train eight steps; return the run and the losses of each step, (8, 2)."""
    run = observed_run(config, f"base.save_path={out}", "base.max_steps=8", *overrides)
    train_main.fit(run)
    rows = [row for row in read_metrics(out / "metrics.jsonl") if "lr" in row]
    return run, np.array([[row["consistency"], row["quality"]] for row in rows])


def folded_norms(run):
    norms = [
        sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())
        for network in (run.objective.student, run.objective.teacher)
    ]
    return norms[0] - norms[1]


def test_a_folded_teacher_gives_the_losses_of_the_unfolded_one(setup, tmp_path):
    config, plain = setup
    run, losses = train(config, tmp_path / "folded", "model.fold_teacher=1")
    assert folded_norms(run) > 0
    assert losses.shape == plain.shape == (8, 2)
    np.testing.assert_allclose(losses, plain, rtol=1e-4, atol=1e-5)


def test_the_cache_of_a_folded_teacher_is_its_own(setup, tmp_path):
    config, plain = setup
    kept = f"model.teacher_cache={tmp_path / 'kept'}"
    run, losses = train(config, tmp_path / "one", kept, "model.fold_teacher=1")
    filled = sum(run.seen)
    assert filled >= 32
    np.testing.assert_allclose(losses, plain, rtol=1e-3, atol=5e-4)  # kept in fp16
    assert sum(train(config, tmp_path / "two", kept, "model.fold_teacher=1")[0].seen) == 0
    assert sum(train(config, tmp_path / "three", kept)[0].seen) == filled


def test_the_fused_optimiser_takes_the_steps_of_the_plain_one(setup, tmp_path):
    config, plain = setup
    run, losses = train(config, tmp_path / "fused", "optimizer.fused=1")
    assert all(group["fused"] for group in run.optimizer.param_groups)
    np.testing.assert_allclose(losses, plain, rtol=1e-4, atol=1e-5)


def test_an_optimiser_without_a_fused_form_is_refused():
    group = {"params": "quality_head", "lr": 0.1}
    config = validate(OptimizerConfig, {"module": "torch.optim.RMSprop", "fused": 1, "group_1": group}, "test")
    with pytest.raises(ConfigError, match=r"^optimizer\.fused: torch\.optim\.RMSprop has no fused form"):
        build_optimizer(config, [{"params": [nn.Parameter(torch.zeros(2))], "lr": 0.1}])
