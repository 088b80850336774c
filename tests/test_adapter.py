"""A student whose embeddings have another dimension than the teacher's: a linear adapter, for training only."""

import pytest
import torch
import yaml
from torch.nn import functional

import train_main
from jobs.methods import load_training
from model.compact import CompactNet
from model.registry import NetworkBuilder
from tests.helpers.training import TINY, same_bytes, tensors, write_setup
from utils.config import load_config
from utils.config.sections import ModelConfig
from utils.errors import ConfigError
from utils.training.batches import DistillationBatch

ADAPTER = "optimizer.group_3={params: adapter, lr: 0.05, momentum: 0.9}"
WIDE = {**TINY, "num_features": 12}


def make_run(config, *overrides):
    cfg = load_training(config, overrides)
    return train_main.build(cfg, load_config(ModelConfig, cfg.model.config), torch.device("cpu"))


def train(config, *overrides):
    run = make_run(config, "base.epochs=1", *overrides)
    train_main.fit(run)
    return run


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    """Write a student with 8 numbers and a teacher with 12."""
    folder = tmp_path_factory.mktemp("adapter")
    config = write_setup(folder, count=24)
    torch.manual_seed(8)
    torch.save(CompactNet(**WIDE).state_dict(), folder / "teacher.pth")
    model = yaml.safe_load((folder / "model_config.yaml").read_text())
    model["teacher"] = {
        "module": "model.compact.CompactNet", "weights": str(folder / "teacher.pth"), "params": WIDE,
    }  # fmt: skip
    (folder / "model_config.yaml").write_text(yaml.safe_dump(model))
    return config, folder


def test_other_dimensions_without_an_adapter_are_one_clear_error(setup):
    with pytest.raises(ConfigError, match=r"student embeds in 8 dimensions, the teacher in 12; add a group .*adapter"):
        make_run(setup[0])


def test_equal_dimensions_need_none(tmp_path):
    run = make_run(write_setup(tmp_path, count=24))
    assert run.objective.adapter is None and list(run.objective.parts()) == ["quality_head", "feature_extractor"]


def test_consistency_compares_adapted_embeddings(setup):
    run = make_run(setup[0], ADAPTER)
    objective = run.objective.eval()
    weight = objective.adapter.weight
    assert weight.shape == (12, 8) and weight.requires_grad
    torch.testing.assert_close(weight.T @ weight, torch.eye(8))
    generator = torch.Generator().manual_seed(0)
    crops = torch.randint(0, 256, (2, 3, 112, 112, 3), dtype=torch.uint8, generator=generator)
    batch = DistillationBatch(crops[0], crops[1], torch.tensor([0.1, 0.5, 0.9]), torch.arange(3), ())
    x = [((images / 255 - 0.5) / 0.5).permute(0, 3, 1, 2) for images in crops]
    with torch.no_grad():
        student, quality = objective.student(x[1])
        teacher = objective.teacher(x[0])
        wanted = (1 - functional.cosine_similarity(student @ weight.T, teacher)).mean()
        found = objective(batch)
        measured = objective.measure(objective.student, batch)
    assert found.consistency.item() == pytest.approx(wanted.item(), abs=1e-5)
    assert measured["consistency_misaligned"].mean().item() == pytest.approx(wanted.item(), abs=1e-5)
    assert measured["quality_misaligned"].tolist() == pytest.approx(quality.tolist(), abs=1e-5)


def test_the_adapter_learns_resumes_and_is_not_saved(setup, tmp_path):
    config, folder = setup
    whole = train(config, ADAPTER, f"base.save_path={tmp_path / 'whole'}")
    start = make_run(config, ADAPTER, f"base.save_path={tmp_path / 'none'}").objective.adapter.weight
    assert not torch.equal(whole.objective.adapter.weight, start)
    train(config, ADAPTER, f"base.save_path={tmp_path / 'halves'}", "base.max_steps=2")
    halves = train(config, ADAPTER, f"base.save_path={tmp_path / 'halves'}", "base.resume=auto")
    assert halves.step == whole.step == 5
    assert torch.equal(halves.objective.adapter.weight, whole.objective.adapter.weight)
    saved = tensors(tmp_path / "whole/aikd-last.pth")
    assert same_bytes(saved, tensors(tmp_path / "halves/aikd-last.pth"))
    assert not [key for key in saved if "adapter" in key]
    student = NetworkBuilder().trained_student(
        load_config(ModelConfig, folder / "model_config.yaml"), tmp_path / "whole/aikd-last.pth"
    )
    assert same_bytes(student.state_dict(), saved)


def test_methods_without_a_teacher_have_no_adapter(tmp_path):
    config = write_setup(tmp_path, count=24)
    with pytest.raises(ConfigError, match="no part 'adapter'"):
        make_run(
            config, "base.method=cosface", "loss.recognition={module: model.margins.CosFaceHead}",
            "optimizer.group_1={params: margin, lr: 0.1}", ADAPTER, "dataset.quality_location=null",
        )  # fmt: skip
