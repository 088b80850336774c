"""The released recipe on the real network: IResNet-100, last 100 of 463 tensors, random weights, CPU."""

import pytest
import torch
import yaml

import train_main
from jobs.methods import load_training
from tests.helpers.training import ROOT, tensors, write_faces
from utils.config import load_config
from utils.config.sections import ModelConfig


def cancelled_biases(network) -> set[str]:
    """List the trained biases that a following BatchNorm in train mode cancels.

    A constant added to every pixel of a channel is removed by the next BatchNorm that uses batch statistics, when
    nothing but 1x1 convolutions, sums and the flattened Linear lies between: the last BatchNorm of each block and
    of its shortcut (through the sums to the final bn2), the final bn2 (through fc) and fc itself.
    """
    names = {"fc.bias", "bn2.bias"}
    for name, _ in network.named_parameters():
        block = name.split(".")
        if block[0].startswith("layer") and name.endswith(("bn3.bias", "downsample.1.bias")):
            names.add(name)
    return names


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("r100")
    write_faces(folder, 9)
    model = yaml.safe_load((ROOT / "configs/model_config.yaml").read_text())
    model["features"]["weights"] = None
    (folder / "model_config.yaml").write_text(yaml.safe_dump(model))
    cfg = load_training(
        ROOT / "configs/train_config.yaml",
        [
            f"base.save_path={folder / 'run'}",
            f"dataset.image_location={folder / 'images'}",
            f"dataset.quality_location={folder / 'labels.csv'}",
            f"dataset.landms_location={folder / 'landmarks.csv'}",
            "dataset.val_percent=0.12",
            "base.device=cpu",
            "base.allow_random_init=1",
            "base.verbose=0",
            "base.max_steps=2",
            "dataloader.train.params={batch_size: 4, shuffle: 1, num_workers: 0}",
            "dataloader.val.params={batch_size: 4}",
        ],
    )
    model_cfg = load_config(ModelConfig, folder / "model_config.yaml")
    run = train_main.build(cfg, model_cfg, torch.device("cpu"))
    run.before = {name: tensor.clone() for name, tensor in run.objective.student.state_dict().items()}
    train_main.fit(run)
    run.saved = tensors(folder / "run/aikd-last.pth")
    return run


def test_losses_are_finite(run):
    assert set(run.metrics) >= {"quality_aligned", "quality_misaligned", "consistency_aligned"}
    assert all(torch.isfinite(torch.tensor(value)) for name, value in run.metrics.items() if "spearman" not in name)


def test_only_the_last_100_tensors_are_trained(run):
    backbone = run.objective.student.feature_extractor
    names = [name for name, _ in backbone.named_parameters()]
    assert len(names) == 463 and names[-100] == "layer3.22.bn3.bias"
    after = run.objective.student.state_dict()
    for name in names[:-100]:
        key = f"feature_extractor.{name}"
        assert torch.equal(run.before[key], after[key]) and torch.equal(run.before[key], run.saved[key]), name
        assert backbone.get_parameter(name).grad is None and not backbone.get_parameter(name).requires_grad, name


def test_of_the_last_100_all_move_but_the_listed(run):
    backbone = run.objective.student.feature_extractor
    names = [name for name, _ in backbone.named_parameters()][-100:]
    cancelled = cancelled_biases(backbone)
    step = {}
    for name in names:
        parameter = backbone.get_parameter(name)
        moved = (parameter.detach() - run.before[f"feature_extractor.{name}"]).abs().max().item()
        step[name] = moved
    assert step.pop("features.weight") == 0
    still = {name for name, size in step.items() if size < 1e-7}
    assert still <= cancelled & set(names), still - cancelled
    largest_cancelled = max(step[name] for name in cancelled & set(names))
    smallest_trained = min(size for name, size in step.items() if name not in cancelled)
    assert largest_cancelled < smallest_trained


def test_batchnorms_outside_the_slice_keep_their_statistics(run):
    for name in ("bn1.running_mean", "layer1.0.bn1.running_var", "layer3.22.bn3.running_mean"):
        key = f"feature_extractor.{name}"
        assert torch.equal(run.before[key], run.saved[key]), name
    assert not torch.equal(
        run.before["feature_extractor.layer3.23.bn1.running_mean"],
        run.saved["feature_extractor.layer3.23.bn1.running_mean"],
    )
