"""Speed-ups change no result: losses and gradient norms of a few steps, against values of a plain float64 loop.

Origin of GOLDEN: `plain_losses` below, which knows no channels_last, no partition, no frozen layers without a graph and
no uint8 transport: every tensor float64 and contiguous, gradients for all parameters, only the trained ones used.
Weights and crops are drawn by numpy, so they are the same under any version of torch and OpenCV. The training code
computes in float32: 1e-4 of a value is about a hundred times its rounding.
"""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import train_main
from jobs.methods import load_training
from model.ai_kd import WrapperModel
from model.compact import CompactNet
from model.mlp import MLP
from tests.helpers.training import TINY, write_setup
from utils.config import load_config
from utils.config.sections import ModelConfig
from utils.training.batches import DistillationBatch
from utils.training.run_log import read_metrics

STEPS, BATCH, LIMIT = 5, 4, 9
GOLDEN = [
    (0.9829935935891736, 0.478571076963058, 17.182271424872564),
    (0.9691655687457681, 0.8447125937315847, 83.4967199887231),
    (0.7499983207783099, 0.9368077682636855, 15.822853319326805),
    (1.1064708549007716, 1.0772222539676395, 22.886766701504584),
    (0.8850403184273092, 1.242819985987987, 20.5310796602778),
]
"""(consistency, quality, gradient norm) of each step."""


def drawn_state(module: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Draw a state_dict in which no layer is an identity and activations keep their size."""
    rng, state = np.random.default_rng(seed), {}
    for name, tensor in module.state_dict().items():
        shape = tuple(tensor.shape)
        if not tensor.is_floating_point() or name.endswith("features.weight"):
            values = tensor.numpy()
        elif tensor.ndim > 1:
            values = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        elif name.endswith(("running_var", ".weight")):
            values = rng.uniform(0.5, 1.5, shape)
        else:
            values = rng.normal(0, 0.1, shape)
        state[name] = torch.from_numpy(np.asarray(values)).to(tensor.dtype)
    return state


def drawn_batch(step: int) -> DistillationBatch:
    """Draw smooth crops, the misaligned ones shifted by two pixels, and labels."""
    rng = np.random.default_rng([1, step])
    coarse = rng.integers(0, 256, (BATCH, 8, 8, 3)).repeat(16, 1).repeat(16, 2)[:, :114, :114].astype(np.uint8)
    aligned, misaligned = (torch.from_numpy(np.ascontiguousarray(coarse[:, at:, at:][:, :112, :112])) for at in (0, 2))
    label = torch.from_numpy(rng.uniform(size=BATCH).astype(np.float32))
    return DistillationBatch(aligned, misaligned, label, torch.arange(BATCH), ())


class DrawnBatches:
    """Stand in for the loader of training batches."""

    def steps_per_epoch(self) -> int:
        return STEPS

    def starting_at(self, position, end_epoch):
        return (drawn_batch(step) for step in range(position[1], STEPS))


def make_run(folder, *overrides):
    config = write_setup(folder, 12)
    overrides = ("base.epochs=1", "base.validate_every=1", *overrides)
    cfg = load_training(config, overrides)
    run = train_main.build(cfg, load_config(ModelConfig, cfg.model.config), torch.device("cpu"))
    run.objective.student.load_state_dict(drawn_state(run.objective.student, 0))
    run.objective.teacher.backbone.load_state_dict(drawn_state(run.objective.teacher.backbone, 1))
    run.data = dataclasses.replace(run.data, train=DrawnBatches())
    run.plan = train_main.Plan.make(cfg.base, STEPS)
    return run


def plain_losses(rate_of_step) -> list[tuple[float, float, float]]:
    """Train in float64 as the paper says, with nothing left out or put together for speed."""
    student = WrapperModel(CompactNet(**TINY), MLP(TINY["num_features"], 16))
    teacher = CompactNet(**TINY)
    student.load_state_dict(drawn_state(student, 0))
    teacher.load_state_dict(drawn_state(teacher, 1))
    student.double(), teacher.double().eval()
    backbone = list(student.feature_extractor.parameters())[-LIMIT:]
    for module in student.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.train(all(any(p is q for q in backbone) for p in (module.weight, module.bias)))
    fixed = student.feature_extractor.features.weight
    groups = [
        (list(student.quality_head.parameters()), 0.9, 5e-4),
        ([p for p in backbone if p is not fixed], 0.1, 0.0),
    ]
    velocity, found = {}, []
    for step in range(STEPS):
        batch = drawn_batch(step)
        aligned, misaligned = (x.permute(0, 3, 1, 2).double() / 255 * 2 - 1 for x in batch[:2])
        reference, (embedding, quality) = teacher(aligned).detach(), student(misaligned)
        cosine = (embedding * reference).sum(1) / embedding.norm(dim=1) / reference.norm(dim=1)
        distance = (quality - batch.label.double()).abs()
        terms = (1 - cosine).mean(), torch.where(distance < 0.5, distance**2, distance - 0.25).mean()
        student.zero_grad()
        sum(terms).backward()
        trained = [p for parameters, _, _ in groups for p in parameters]
        norm = torch.sqrt(sum(p.grad.pow(2).sum() for p in trained))
        with torch.no_grad():
            for parameters, momentum, decay in groups:
                for p in parameters:
                    slope = p.grad * min(1, 5 / (norm + 1e-6)) + decay * p
                    velocity[p] = momentum * velocity[p] + slope if p in velocity else slope
                    p -= 0.05 * rate_of_step(step) * velocity[p]
        found.append((terms[0].item(), terms[1].item(), norm.item()))
    return found


def logged(folder) -> list[tuple[float, float, float]]:
    rows = [row for row in read_metrics(folder / "run/metrics.jsonl") if "lr" in row]
    return [(row["consistency"], row["quality"], row["grad_norm"]) for row in rows]


def test_the_plain_loop_gives_the_golden_values(tmp_path):
    run = make_run(tmp_path)
    found = plain_losses(lambda step: run.plan.lr_factor(step, run.cfg.scheduler))
    np.testing.assert_allclose(found, GOLDEN, rtol=1e-7)


def test_training_gives_the_golden_values(tmp_path):
    train_main.fit(make_run(tmp_path))
    np.testing.assert_allclose(logged(tmp_path), GOLDEN, rtol=1e-4)


def test_bf16_on_a_cpu_is_close_and_only_when_asked_for(tmp_path):
    run = make_run(tmp_path, "base.precision=bf16", "base.amp=1")
    assert run.precision.name == "bf16"
    assert not any("base.amp" in line for line in train_main.ignored(run.cfg, run.precision))
    train_main.fit(run)
    found = np.array(logged(tmp_path))
    np.testing.assert_allclose(found[0, :2], GOLDEN[0][:2], rtol=0.02)  # later steps start from other weights
    assert np.isfinite(found).all() and not np.allclose(found, GOLDEN, rtol=1e-4)
    assert all(p.dtype == torch.float32 for p in run.objective.parameters())


WAITING = {"_local_scalar_dense", "equal", "nonzero", "masked_select"}


class Readings(TorchDispatchMode):
    """Note after which step something was read off a tensor: on a GPU each such reading waits for the device."""

    def __init__(self, run):
        super().__init__()
        self.run, self.steps = run, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__ in WAITING:
            self.steps.add(self.run.step)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("log_every", "read_at"), [(2, {2, 4, 5}), (100, {5})])
@pytest.mark.parametrize("average", [(), ("ema.every=step", "ema.decay=0.9")], ids=["validation", "step"])
def test_numbers_are_read_back_only_when_logging_or_validating(tmp_path, log_every, read_at, average):
    run = make_run(tmp_path, f"base.log_every={log_every}", "base.pretrain=1", "base.save_every=100", *average)
    with Readings(run) as readings:
        train_main.fit(run)
    assert readings.steps == read_at
