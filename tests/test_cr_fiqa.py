"""CR-FIQA: certainty by hand, no gradient through it, what is trained, clipped and saved."""

import math
import re

import numpy as np
import pytest
import torch

import train_main
from jobs.methods import load_training
from model.objectives.cr_fiqa import Certainty, certainty
from model.registry import NetworkBuilder
from tests.helpers.processes import SCALARS, killed
from tests.helpers.recognition import TINY, write_identities, write_run
from tests.helpers.training import ROOT, same_bytes, tensors
from utils.config import load_config
from utils.config.sections import ModelConfig, NetworkConfig
from utils.training.run_log import read_metrics


def make_run(config, *overrides):
    cfg = load_training(config, overrides)
    return train_main.build(cfg, load_config(ModelConfig, cfg.model.config), torch.device("cpu"))


def unit(degrees):
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]


CENTRES = torch.tensor([unit(0), unit(90), unit(200)])


def cosines(*degrees):
    return torch.tensor([unit(d) for d in degrees]) @ CENTRES.T


def test_certainty_of_a_three_class_example_by_hand():
    found = certainty(cosines(30, 60, 190), torch.tensor([0, 0, 2]))
    ccs = [math.cos(math.radians(d)) for d in (30, 60, 10)]
    nnccs = [math.cos(math.radians(d)) for d in (60, 30, 100)]  # centre 1, centre 1, centre 1
    np.testing.assert_allclose(found.ccs, ccs, atol=1e-6)
    np.testing.assert_allclose(found.nnccs, nnccs, atol=1e-6)
    np.testing.assert_allclose(found.ratio("paper"), [c / (n + 1 + 1e-9) for c, n in zip(ccs, nnccs)], rtol=1e-5)
    np.testing.assert_allclose(found.ratio("released")[:2], [c / n for c, n in zip(ccs[:2], nnccs[:2])], rtol=1e-5)


def test_the_own_class_is_never_the_nearest_other():
    cosine = torch.tensor([[0.9, -0.3, -0.2], [0.9, -0.3, -0.2]])
    found = certainty(cosine, torch.tensor([0, 1]))
    np.testing.assert_allclose(found.ccs, [0.9, -0.3])
    np.testing.assert_allclose(found.nnccs, [-0.2, 0.9])


def test_papers_ratio_is_finite_where_the_released_one_explodes():
    negative = Certainty(torch.tensor([0.8, 0.8, -0.5]), torch.tensor([-0.2, -1.0, -1.0]))
    ratio = negative.ratio("paper")
    assert torch.isfinite(ratio).all()
    assert ratio[0].item() == pytest.approx(1.0)
    assert ratio[1].item() == pytest.approx(0.8e9, rel=1e-6) and ratio[2] < 0
    assert abs(negative.ratio("released")[0].item()) == pytest.approx(0.8e12, rel=1e-6)
    rounded = certainty(torch.tensor([[1.0000002, -1.0000002]]), torch.tensor([0]))
    assert rounded.ratio("paper").item() == pytest.approx(1e9, rel=1e-6)  # a cosine below -1 would turn the sign


def test_no_gradient_passes_through_the_certainty():
    cosine = cosines(30, 60).requires_grad_(True)
    found = certainty(cosine, torch.tensor([0, 1]))
    assert not found.ccs.requires_grad and not found.nnccs.requires_grad and not found.ratio("paper").requires_grad


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crfiqa")
    write_identities(folder / "faces", identities=3)
    write_run(folder, "crfiqa")
    return folder


def test_terms_and_their_gradients(folder):
    """The quality loss reaches backbone and head, never the class centres; values by hand from the definition."""
    run = make_run(folder / "train.yaml")
    objective = run.objective
    batch = next(run.data.batches_from(0))
    objective.student.eval()
    terms = objective(batch)
    with torch.no_grad():
        x = (batch.images.permute(0, 3, 1, 2).double() / 255 - 0.5) / 0.5
        e, q = (value.double() for value in objective.student.float()(x.float()))
        w = objective.margin.weight.double()
        cosine = torch.nn.functional.normalize(e) @ torch.nn.functional.normalize(w).T
    label, others = batch.identity, cosine.clone()
    own = cosine[torch.arange(len(label)), label]
    others[torch.arange(len(label)), label] = -2
    ratio = own / (others.max(1).values + 1 + 1e-9)
    d = (q - ratio).abs()
    assert terms.quality.item() == pytest.approx(torch.where(d < 0.5, d**2, d - 0.25).mean().item(), rel=1e-4)
    hard = torch.cos(torch.acos(own) + 0.5)
    logits = cosine.clone()
    logits[torch.arange(len(label)), label] = hard
    loss = torch.nn.functional.cross_entropy(16 * logits, label)
    assert (own.acos() < math.pi - 0.5).all() and terms.recognition.item() == pytest.approx(loss.item(), rel=1e-4)
    terms.quality.backward()
    assert objective.margin.weight.grad is None
    assert objective.student.quality_head.weight.grad.abs().sum() > 0
    assert objective.backbone.conv1.weight.grad.abs().sum() > 0
    assert objective.backbone.features.weight.grad.abs().sum() > 0
    assert objective.weights == (1.0, 10.0)


def test_head_sees_the_embedding_before_normalisation(folder):
    student = make_run(folder / "train.yaml").objective.student.eval()
    x = torch.rand(2, 3, 112, 112)
    with torch.no_grad():
        e, q = student(x)
        head = student.quality_head
        assert not torch.allclose(e.norm(dim=1), torch.ones(2))
        torch.testing.assert_close(q, e @ head.weight[0] + head.bias)


def test_backbone_and_quality_head_are_clipped_together_the_margin_is_not(folder, tmp_path):
    short = ("base.max_steps=1", "optimizer.max_grad_norm=0.01", f"base.save_path={tmp_path}")
    run = make_run(folder / "train.yaml", *short)
    clipped = list(run.objective.student.parameters())  # in the original, the head `qs` is part of the backbone
    assert {id(p) for p in run.part.clipped} == {id(p) for p in clipped}
    assert {id(p) for p in run.part.trained} == {
        id(p) for p in [*run.objective.student.parameters(), run.objective.margin.weight]
    }
    batch = next(run.data.batches_from(0))
    train_main.optim.set_train_mode(run.objective.student, run.cfg.optimizer, run.part.slice_ids)
    torch.manual_seed(5)
    rng = torch.get_rng_state()
    state = {k: v.clone() for k, v in run.objective.state_dict().items()}
    terms = run.objective(batch)
    (terms.recognition + 10 * terms.quality).backward()
    norm = math.sqrt(sum(p.grad.double().pow(2).sum().item() for p in clipped))
    tensors_ = {
        "conv": run.objective.backbone.conv1.weight,
        "qs": run.objective.student.quality_head.weight,
        "margin": run.objective.margin.weight,
    }
    wanted = {
        name: t.detach() - 0.02 * (t.grad * (1 if name == "margin" else 0.01 / norm) + 5e-4 * t.detach())
        for name, t in tensors_.items()
    }
    run.objective.load_state_dict(state)
    torch.set_rng_state(rng)
    train_main.fit(run)
    assert norm > 0.01
    for name, t in tensors_.items():
        torch.testing.assert_close(t.detach(), wanted[name], rtol=1e-4, atol=1e-7)


@pytest.fixture(scope="module")
def finished(folder):
    run = make_run(folder / "train.yaml", f"base.save_path={folder / 'whole'}")
    train_main.fit(run)
    return run


def test_saved_in_the_published_layout_and_loaded_from_it(folder, finished):
    path = folder / "whole/crfiqa-last.pth"
    saved = tensors(path)
    backbone = finished.objective.backbone.state_dict()
    assert list(saved) == [*backbone, "qs.weight", "qs.bias"] and saved["qs.weight"].shape == (1, 8)
    assert same_bytes({k: v for k, v in saved.items() if not k.startswith("qs.")}, backbone)
    model_cfg = load_config(ModelConfig, folder / "model.yaml")
    student = NetworkBuilder().trained_student(model_cfg, str(path))
    assert torch.equal(student.quality_head.weight, saved["qs.weight"])
    features = NetworkConfig(module="model.compact.CompactNet", params=TINY, weights=str(path))
    assert same_bytes(NetworkBuilder().pretrained(features).state_dict(), backbone)
    assert not torch.equal(saved["features.weight"], torch.ones(8))  # trained here
    again = NetworkBuilder().student(model_cfg.model_copy(update={"features": features}))
    assert same_bytes(again.feature_extractor.state_dict(), backbone)


def test_validation_names_the_terms(folder, finished):
    rows = [row for row in read_metrics(folder / "whole/metrics.jsonl") if "val/selection" in row]
    assert set(rows[0]) == {"step", "val/recognition", "val/quality", "val/spearman", "val/selection"}
    assert rows[0]["val/selection"] == pytest.approx(rows[0]["val/recognition"] + 10 * rows[0]["val/quality"])
    steps = [row for row in read_metrics(folder / "whole/metrics.jsonl") if "lr" in row]
    assert {"recognition", "quality"} <= set(steps[0])


def test_killed_and_resumed_equals_uninterrupted(folder, finished, tmp_path):
    """SIGKILL in the middle; dropout, flips, momentum and the class centres must all go on as they were."""
    arguments = ["-c", str(folder / "train.yaml"), f"base.save_path={tmp_path / 'run'}"]
    killed(3, SCALARS, "train_main.py", *arguments)
    train_main.main([*arguments, "base.resume=auto"])
    for name in ("crfiqa-last.pth", "crfiqa-best.pth"):
        assert same_bytes(tensors(tmp_path / "run" / name), tensors(folder / "whole" / name))


def test_released_ratio_by_configuration(folder):
    run = make_run(folder / "train.yaml", "loss.ratio=released")
    assert run.objective.ratio == "released"


@pytest.mark.parametrize("name, depth", [("crfiqa", 50), ("crfiqa_l", 100), ("cosface", 100)])
def test_shipped_configurations_name_the_published_networks(name, depth):
    model_cfg = load_config(ModelConfig, ROOT / f"configs/{name}_model.yaml")
    assert model_cfg.features.module == f"model.iresnet.iresnet{depth}" and model_cfg.features.params["dropout"] == 0.4
    with torch.device("meta"):
        backbone = NetworkBuilder(allow_random_init=True).pretrained(model_cfg.features)
    assert backbone.features.weight.requires_grad == name.startswith("crfiqa")


def test_the_command_for_the_large_network_drops_the_rate_where_the_original_does():
    text = (ROOT / "configs/crfiqa_config.yaml").read_text()
    command = re.search(r"(base\.epochs=\S+ scheduler\.milestones=\S+)", text).group(1)
    cfg = load_training(ROOT / "configs/crfiqa_config.yaml", command.split())
    plan = train_main.Plan.make(cfg.base, 100)
    factors = [plan.lr_factor(step, cfg.scheduler) for step in (699, 700, 1299, 1300, 1799)]
    assert cfg.base.epochs == 18 and factors == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])


def test_shipped_recipe_is_the_published_one():
    cfg = load_training(ROOT / "configs/crfiqa_config.yaml")
    assert (cfg.base.epochs, cfg.scheduler.milestones, cfg.scheduler.gamma) == (34, [19, 27, 31], 0.1)
    assert cfg.dataloader.train.params.batch_size == 512 and cfg.dataset.flip and cfg.loss.ratio == "paper"
    for group in cfg.optimizer.groups.values():
        assert (group.lr, group.momentum, group.weight_decay) == (0.1, 0.9, 5e-4)
        assert group.clip == (group.params != "margin")
    assert cfg.optimizer.max_grad_norm == 5 and cfg.ema.ema_alpha == 0
    assert cfg.loss.recognition.params == {"scale": 64, "margin": 0.5} and cfg.loss.quality.params == {"beta": 0.5}
    plan = train_main.Plan.make(cfg.base, 100)
    factors = [plan.lr_factor(step, cfg.scheduler) for step in (0, 1899, 1900, 2699, 2700, 3099, 3100, 3399)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
