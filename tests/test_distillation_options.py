"""Options of AI-KD's loss beside the paper's: both crops in a step, a pairwise ranking loss."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import train_main
from benchmarks import consistency
from jobs.methods import load_training
from model.objectives.losses import PairwiseRankingLoss
from tests.helpers.training import same_bytes, tensors, write_setup
from utils.config import load_config
from utils.config.sections import ModelConfig
from utils.errors import ConfigError
from utils.training.batches import DistillationBatch


def make_run(config, *overrides):
    cfg = load_training(config, overrides)
    return train_main.build(cfg, load_config(ModelConfig, cfg.model.config), torch.device("cpu"))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_setup(tmp_path_factory.mktemp("terms"), count=24)


def batch_of(count=3):
    crops = torch.randint(
        0, 256, (2, count, 112, 112, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return DistillationBatch(crops[0], crops[1], torch.linspace(0.1, 0.9, count), torch.arange(count), ())


def test_both_crops_give_the_mean_of_what_each_gives(config):
    objective = make_run(config, "loss.crops=both").objective.eval()
    alone = make_run(config).objective.eval()
    alone.load_state_dict(objective.state_dict())
    batch = batch_of()
    with torch.no_grad():
        both, misaligned = objective(batch), alone(batch)
        aligned = alone(batch._replace(misaligned=batch.aligned))
    for name in ("consistency", "quality"):
        wanted = (getattr(aligned, name) + getattr(misaligned, name)) / 2
        assert getattr(both, name).item() == pytest.approx(wanted.item(), abs=1e-6)
    assert aligned.consistency.item() == pytest.approx(0, abs=1e-6)
    assert misaligned.consistency.item() > 1e-4


def test_both_crops_train_alike_with_and_without_a_teacher_cache(config, tmp_path):
    folder = config.parent
    losses = []
    for name, extra in (("cached", [f"model.teacher_cache={tmp_path / 'teacher'}"]), ("plain", [])):
        run = make_run(config, "base.epochs=1", "loss.crops=both", f"base.save_path={folder / name}", *extra)
        train_main.fit(run)
        losses.append([parameter.detach().clone() for parameter in run.objective.student.parameters()])
    for one, other in zip(*losses, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-4)  # the cache is fp16


def test_both_crops_of_aligned_data_are_refused(config):
    with pytest.raises(ConfigError, match=r"loss.crops: both needs dataset.misalign: 1"):
        make_run(config, "loss.crops=both", "dataset.misalign=0")


def test_a_scale_of_no_ranking_loss_is_refused(config):
    with pytest.raises(ConfigError, match=r"loss.ranking_scale: without effect unless loss.ranking is above 0"):
        make_run(config, "loss.ranking_scale=0.2")


def test_the_ranking_loss_by_hand():
    quality, label = torch.tensor([0.5, 0.2, 0.2]), torch.tensor([0.1, 0.9, 0.9])
    # the first lies .3 above two that should lie above it; these two have one label and do not count
    assert PairwiseRankingLoss(0.1)(quality, label).item() == pytest.approx(math.log1p(math.exp(3)), abs=1e-6)
    assert PairwiseRankingLoss(0.1)(quality, label[[1, 1, 1]]).item() == 0


@given(st.permutations(range(6)))
def test_the_ranking_loss_is_least_in_the_order_of_the_labels(order):
    quality = torch.linspace(0, 1, 6)
    label = torch.tensor(order, dtype=torch.float32)
    loss = PairwiseRankingLoss()
    sorted_loss = loss(quality, torch.arange(6.0))
    assert sorted_loss <= loss(quality, label) + 1e-6 and loss(quality, label) == loss(quality, 10 * label + 3)


def test_ranking_adds_to_the_quality_term(config):
    batch = batch_of(5)
    with_ranking = make_run(config, "loss.ranking=0.5").objective.eval()
    without = make_run(config).objective.eval()
    without.load_state_dict(with_ranking.state_dict())
    with torch.no_grad():
        _, quality = without.student(((batch.misaligned / 255 - 0.5) / 0.5).permute(0, 3, 1, 2))
        wanted = without(batch).quality + 0.5 * PairwiseRankingLoss(0.1)(quality, batch.label)
        assert with_ranking(batch).quality.item() == pytest.approx(wanted.item(), abs=1e-5)


def test_a_family_and_both_crops_resume_bit_for_bit(config):
    options = ("base.epochs=1", "loss.crops=both", "loss.ranking=1", "dataset.perturbation.family=mixed")
    folder = config.parent
    train_main.main(["-c", str(config), *options, f"base.save_path={folder / 'whole'}"])
    for steps in ("base.max_steps=3", "base.max_steps=null"):
        place = f"base.save_path={folder / 'parts'}"
        train_main.main(["-c", str(config), *options, place, steps, "base.resume=auto"])
    assert same_bytes(*(tensors(folder / name / "aikd-last.pth") for name in ("whole", "parts")))


def test_distances_grow_with_p_and_the_head_gets_no_gradient_of_consistency(config, capsys):
    consistency.main(["-c", str(config), "--images", "8"])
    cells = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    rows = {name: [float(cell) for cell in row] for name, *row in cells if row and row[0][0].isdigit()}
    means = [rows[f"p = {p} template px"][0] for p in (6, 8, 16)]
    assert 0 < means[0] < means[1] < means[2] < 2
    assert rows["quality head"][0] == 0 < rows["quality head"][1]
    run = make_run(config)
    with_terms = run.objective.train()
    sums, names = consistency.gradients(run, consistency.batches(run, run.cfg.dataset.perturbation, 8, 8))
    head = [*with_terms.student.quality_head.parameters()]
    batch = next(consistency.batches(run, run.cfg.dataset.perturbation, 8, 8))
    wanted = torch.autograd.grad(with_terms(batch).quality, head)
    torch.testing.assert_close(sums[1][-1], torch.cat([one.reshape(-1) for one in wanted]))
    assert names[-1] == "quality head"
