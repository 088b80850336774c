"""Trained = zeroed = clipped = averaged: one set of parameters, chosen by the configuration."""

import pytest
import torch
from torch import nn

from model.ai_kd import WrapperModel
from model.iresnet import iresnet18
from model.mlp import MLP
from utils.config.loading import validate
from utils.config.train import OptimizerConfig, SchedulerConfig, TrainBase
from utils.errors import ConfigError
from utils.training.ema import WeightAverage
from utils.training.optim import build_optimizer, check_partition, optimizer_class, partition, set_lr, set_train_mode
from utils.training.schedule import Plan


def student():
    torch.manual_seed(0)
    return WrapperModel(iresnet18(), MLP(512))


def parts(model):
    return {"quality_head": model.quality_head, "feature_extractor": model.feature_extractor}


def config(**values):
    groups = {
        "group_1": {"params": "quality_head", "lr": 0.05, "momentum": 0.9},
        "group_2": {"params": "feature_extractor", "lr": 0.05, "limit": 20},
    }
    return validate(OptimizerConfig, {**groups, **values}, "test")


def test_partition_takes_the_last_tensors_and_frees_no_other():
    model = student()
    part = partition(parts(model), model, config())
    names = {id(p): n for n, p in model.named_parameters()}
    backbone = [n for n, _ in model.named_parameters() if n.startswith("feature_extractor.")]
    wanted = [n for n in backbone[-20:] if n != "feature_extractor.features.weight"]
    assert [names[id(p)] for p in part.groups[1]["params"]] == wanted
    assert len(part.slice_ids) == 24 and len(part.trained) == 23  # features.weight counts and stays
    assert {names[id(p)] for p in part.trained} == {n for n, p in model.named_parameters() if p.requires_grad}
    assert part.clipped == part.trained
    check_partition(model, part.trained)
    next(model.parameters()).requires_grad_(True)
    with pytest.raises(RuntimeError):
        check_partition(model, part.trained)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"group_1": {"params": "margin", "lr": 1}}, "has no part 'margin'"),
        (
            {"group_2": {"params": "feature_extractor", "lr": 1, "limit": 999}},
            r"has \d+ parameter tensors, not 999; set a lower one",
        ),
        ({"group_2": {"params": "quality_head", "lr": 1}}, "already in another group"),
        ({"group_1": {"params": "quality_head", "lr": 1, "momentun": 1}}, "did you mean 'momentum'"),
        ({"group_1": {"params": "quality_head", "lr": 1, "betas": [0.9, 0.99]}}, "SGD does not take it"),
    ],
)
def test_wrong_groups_are_named(values, sentence):
    model = student()
    with pytest.raises(ConfigError, match=sentence):
        partition(parts(model), model, config(**values))


@pytest.mark.parametrize("name", ["os.system", "torch.nn.Linear", "torch.optim.Optimizer", "torch.hub.load", "SGDD"])
def test_only_optimisers_of_torch_can_be_named(name):
    with pytest.raises(ConfigError, match=r"no optimiser of torch\.optim"):
        optimizer_class(name)


def test_adamw_and_bad_values():
    model = student()
    cfg = config(
        module="torch.optim.AdamW", group_1={"params": "quality_head", "lr": 1e-3, "betas": [0.8, 0.9]}, group_2=None
    )
    optimizer = build_optimizer(cfg, partition(parts(model), model, cfg).groups)
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    set_lr(optimizer, 0.25)
    assert optimizer.param_groups[0]["lr"] == 2.5e-4
    cfg = config(
        module="torch.optim.AdamW", group_1={"params": "quality_head", "lr": 1e-3, "betas": [2, 0.9]}, group_2=None
    )
    with pytest.raises(ConfigError, match="refuses its arguments"):
        build_optimizer(cfg, partition(parts(model), model, cfg).groups)


@pytest.mark.parametrize(("freeze_bn", "expected"), [(1, "slice"), (0, "every"), ("all", "none")])
def test_batchnorm_modes(freeze_bn, expected):
    model = student()
    cfg = config(freeze_bn=freeze_bn)
    part = partition(parts(model), model, cfg)
    set_train_mode(model, cfg, part.slice_ids)
    names = [n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)]
    training = [n for n in names if model.get_submodule(n).training]
    last = [n for n, _ in model.feature_extractor.named_parameters()][-20:]
    whole = [n for n in names if {f"{n}.weight"[18:], f"{n}.bias"[18:]} <= set(last)]
    assert training == {"slice": whole, "every": names, "none": []}[expected]
    assert 0 < len(whole) < len(names)


def test_average_is_hand_computed_and_leaves_the_rest_alone():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
    model[0].requires_grad_(False)
    model.train()
    average = WeightAverage(model, alpha=0.1)
    frozen = model[0].weight.clone()
    seen = []
    for step in range(3):
        with torch.no_grad():
            model[2].weight.fill_(float(step + 1))
            model[1].running_mean.fill_(10.0 * step)
            model[1].num_batches_tracked.fill_(step)
        average.update(model)
        seen += [average.network[2].weight[0, 0].item(), average.network[1].running_mean[0].item()]
    # copy, then 0.1 * avg + 0.9 * new: 1, 1.9, 2.89 and 0, 9, 18.9
    assert seen == pytest.approx([1, 0, 1.9, 9, 2.89, 18.9], rel=1e-6)
    assert average.network[1].num_batches_tracked.item() == 2
    assert torch.equal(average.network[0].weight, frozen)
    assert not average.network.training and not any(p.requires_grad for p in average.network.parameters())


def test_plan_of_the_released_recipe():
    """VGGFace2, batch 64: 48,603 steps; hand-computed from the fractions."""
    plan = Plan.make(TrainBase(save_path="x"), 48_603)
    assert (plan.planned, plan.pretrain_end, plan.warmup_end, plan.validate_every) == (48_603, 14_581, 7_290, 4_860)
    constant = SchedulerConfig()
    assert plan.lr_factor(0, constant) == pytest.approx(2.1546e-4, rel=1e-3)  # sin(pi/2 / 7290): never zero
    assert plan.lr_factor(3644, constant) == pytest.approx(0.5**0.5, rel=1e-3)
    assert plan.lr_factor(7289, constant) == 1.0 and plan.lr_factor(48_000, constant) == 1.0
    assert [s for s in range(48_604) if plan.validates_after(s)][:2] == [19_440, 24_300]


def test_tiny_epochs_have_a_validation_interval():
    plan = Plan.make(TrainBase(save_path="x", validate_every=0.1), 3)
    assert plan.validate_every == 1 and plan.validates_after(1)


def test_milestones_drop_the_rate():
    plan = Plan.make(TrainBase(save_path="x", epochs=34, warmup=0), 10)
    schedule = SchedulerConfig(module="torch.optim.lr_scheduler.MultiStepLR", milestones=[20, 28, 32], gamma=0.1)
    factors = [plan.lr_factor(step, schedule) for step in (0, 199, 200, 280, 339)]
    assert factors == pytest.approx([1, 1, 0.1, 0.01, 0.001])
