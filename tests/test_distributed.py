"""Several processes: what one process computes, written once; nobody waits for the dead."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.multiprocessing
from torch import nn

import train_main
from tests.helpers.processes import finished_in_two, forkserver, last_killed, torchrun
from tests.helpers.training import tensors, write_setup
from utils import cli, distributed
from utils.training.run_log import read_metrics

TIMES = {"img_per_s", "data_share"}
SLOW = ("optimizer.group_1.lr=0.001", "optimizer.group_2.lr=0.001")
"""Rates at which a rounding error stays one."""
LENGTH = ("base.epochs=3", "dataloader.train.params.batch_size=6", "optimizer.freeze_bn=all")
WITHIN = 1e-5


def train(config, *overrides):
    return cli.run(lambda: train_main.main(["-c", str(config), *LENGTH, *overrides]))


def train_in_two(config, *overrides):
    """Return the exit code, 0 when both processes ended well, and what was said."""
    codes, said = finished_in_two("train_main.py", "-c", config, *LENGTH, *overrides)
    return max(codes, key=abs), said


def train_by_torchrun(config, *overrides):
    done = torchrun(2, "train_main.py", "-c", config, *LENGTH, *overrides)
    said = done.communicate(timeout=300)[1]
    return done.returncode, said


def said(stderr):
    return [line for line in stderr.splitlines() if line.startswith("error: ")]


def assert_same_run(a, b):
    """Compare metrics, line by line, and weights."""
    logs = [read_metrics(folder / "metrics.jsonl") for folder in (a, b)]
    rows = [[{key: value for key, value in row.items() if key not in TIMES} for row in log] for log in logs]
    assert [list(row) for row in rows[0]] == [list(row) for row in rows[1]]
    for first, second in zip(*rows, strict=True):
        assert first == {k: pytest.approx(v, abs=WITHIN, rel=WITHIN, nan_ok=True) for k, v in second.items()}
    for name in ("aikd-best.pth", "aikd-last.pth"):
        first, second = tensors(a / name), tensors(b / name)
        assert list(first) == list(second)
        for key in first:
            torch.testing.assert_close(first[key], second[key], atol=WITHIN, rtol=0)


@pytest.fixture
def restored(monkeypatch):
    """List the steps from which runs of this process go on."""
    steps, restore = [], train_main.Run.restore

    def noted(run, state):
        steps.append(state["step"])
        restore(run, state)

    monkeypatch.setattr(train_main.Run, "restore", noted)
    return steps


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    """Train in one process: 17 images, in steps of 6, 6 and 5."""
    folder = tmp_path_factory.mktemp("distributed")
    config = write_setup(folder, count=22)
    assert train(config, f"base.save_path={folder / 'one'}") == 0
    assert [row["step"] for row in read_metrics(folder / "one/metrics.jsonl") if "lr" in row] == list(range(1, 10))
    return config, folder


@pytest.mark.slow
def test_two_processes_compute_what_one_does_and_write_it_once(setup):
    config, folder = setup
    code, stderr = train_in_two(config, f"base.save_path={folder / 'two'}", "base.verbose=1")
    assert code == 0, stderr
    assert_same_run(folder / "two", folder / "one")
    assert stderr.count("finished at step 9") == 1
    assert {path.name for path in (folder / "two").iterdir()} == {path.name for path in (folder / "one").iterdir()}


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(setup, tmp_path, restored):
    config, folder = setup
    out = (f"base.save_path={tmp_path / 'run'}", "base.resume=auto")
    assert train(config, *out, "base.max_steps=2") == 0
    code, stderr = train_in_two(config, *out, "base.max_steps=5")
    assert code == 0, stderr
    assert train(config, *out) == 0
    assert restored == [5]
    assert_same_run(tmp_path / "run", folder / "one")


@pytest.mark.slow
def test_refined_labels_in_two_processes(setup, tmp_path):
    config, _ = setup
    on = ("loss.refinement={min_images: 2, top: 0.5}", "base.epochs=1")
    assert train(config, f"base.save_path={tmp_path / 'one'}", *on) == 0
    code, stderr = train_in_two(config, f"base.save_path={tmp_path / 'two'}", *on)
    assert code == 0, stderr
    assert_same_run(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_a_dead_process_leaves_a_run_that_goes_on(setup, tmp_path, restored):
    config, _ = setup
    slow = ("base.epochs=20", *SLOW)
    assert train(config, *slow, f"base.save_path={tmp_path / 'whole'}") == 0
    out = (*slow, f"base.save_path={tmp_path / 'run'}", "base.resume=auto")
    last_killed(9, "utils.training.optim:set_lr", "train_main.py", "-c", config, *LENGTH, *out)
    finished = [row["step"] for row in read_metrics(tmp_path / "run/metrics.jsonl")][-1]
    assert 6 <= finished < 60
    assert train(config, *out) == 0
    assert len(restored) == 1 and 3 <= restored[0] <= finished
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_fill_one_teacher_cache(setup, tmp_path):
    config, _ = setup
    one, two = (
        (f"base.save_path={tmp_path / name}", f"model.teacher_cache={tmp_path / name}-cache") for name in ("one", "two")
    )
    assert train(config, *SLOW, *one) == 0
    code, stderr = train_in_two(config, *SLOW, *two)
    assert code == 0, stderr
    assert_same_run(tmp_path / "two", tmp_path / "one")
    found = [next(tmp_path.glob(f"{name}-cache/*/embeddings.f16")) for name in ("one", "two")]
    assert found[0].parent.name == found[1].parent.name
    first, second = (np.fromfile(path, np.float16) for path in found)
    np.testing.assert_allclose(first, second, atol=2**-11)
    assert np.linalg.norm(first.reshape(22, -1).astype(float), axis=1) == pytest.approx(np.ones(22), abs=2e-3)


@pytest.mark.slow
def test_an_error_of_one_process_ends_all_and_is_said_once(tmp_path):
    config = write_setup(tmp_path, count=22)
    for image in sorted((tmp_path / "images").rglob("*.jpg"))[3:4]:
        image.write_bytes(b"no image")
    code, stderr = train_by_torchrun(config)
    assert code != 0
    assert len(said(stderr)) == 1 and ".jpg" in said(stderr)[0], stderr


@pytest.mark.slow
def test_an_error_of_all_processes_is_said_once(tmp_path):
    config = write_setup(tmp_path, count=22)
    code, stderr = train_by_torchrun(config, "base.epoch=1")
    assert code != 0
    assert len(said(stderr)) == 1 and "did you mean" in said(stderr)[0], stderr
    assert not (tmp_path / "run").exists()


def test_another_length_of_the_epochs_is_no_resume(setup, tmp_path, monkeypatch, capsys):
    """With three processes the short batch of five would be left out, and every later position would mean another."""
    config, _ = setup
    out = (f"base.save_path={tmp_path / 'run'}", "base.resume=auto")
    assert train(config, *out, "base.max_steps=2") == 0
    monkeypatch.setattr("data.samples.loader.EpochSampler.steps_per_epoch", lambda self: 2)
    assert train(config, *out) == 2
    assert "inputs.steps_per_epoch = 3, this one 2" in capsys.readouterr().err


def test_each_process_needs_two_images(setup, monkeypatch, capsys):
    monkeypatch.setattr(distributed, "world_size", lambda: 4)
    assert train(setup[0]) == 2
    assert "6 images per step for 4 processes" in capsys.readouterr().err


# ---- the pieces


class Terms(NamedTuple):
    a: torch.Tensor
    b: torch.Tensor


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def in_one_of_two(rank, folder):
    """Check the pieces against values worked out by hand: process 0 has 3 samples, process 1 has 1."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    assert distributed.total(rank + 1) == 3
    count = (3, 1)[rank]
    terms = Terms(torch.tensor((2.0, 6.0)[rank]), torch.tensor((1.0, 5.0)[rank]))
    balanced = distributed.balance(terms, count)
    assert [float(t) for t in balanced] == [[3.0, 1.5], [3.0, 2.5]][rank]
    assert [float(t) for t in distributed.average(balanced)] == [3.0, 2.0]

    values = {"row": torch.tensor(([4, 0, 2], [1])[rank]), "x": torch.tensor(([40.0, 0.0, 20.0], [10.0])[rank])}
    joined = distributed.gather(values)
    assert joined["row"].tolist() == [0, 1, 2, 4] and joined["x"].tolist() == [0.0, 10.0, 20.0, 40.0]
    joined = distributed.gather(values if rank == 1 else {})
    assert joined["x"].tolist() == [10.0]
    assert distributed.gather({}) == {}

    module, alone = network(), network()
    keys = list(module.state_dict())
    x = torch.arange(12.0).reshape(4, 3)
    module[1].eval()
    alone[1].eval()
    wrapped = distributed.wrap(module, torch.device("cpu"))
    module[1].running_mean.fill_(0 if rank == 0 else 5)
    distributed.same_buffers(module)
    assert module[1].running_mean.tolist() == [0.0] * 4
    alone(x).square().mean().backward()
    mine = x[:3] if rank == 0 else x[3:]
    distributed.balance(Terms(wrapped(mine).square().mean(), torch.zeros(())), len(mine)).a.backward()
    for first, second in zip(module.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(first.grad, second.grad)
    assert list(module.state_dict()) == keys
    check_own_statistics(x)
    torch.distributed.destroy_process_group()


def check_own_statistics(x):
    """On a CPU, BatchNorms in train mode see this process's part alone."""
    module, alone, mine = network(), network(), x[2 * distributed.rank() :][:2]
    wrapped = distributed.wrap(module, torch.device("cpu"))
    assert type(module[1]) is nn.BatchNorm1d
    torch.testing.assert_close(wrapped(mine), alone(mine))
    torch.testing.assert_close(module[1].running_mean, alone[1].running_mean)


@pytest.mark.slow
def test_pieces_in_two_processes(tmp_path):
    forkserver()
    torch.multiprocessing.start_processes(in_one_of_two, (str(tmp_path),), nprocs=2, start_method="forkserver")


def test_one_process_needs_none_of_it():
    terms, module = Terms(torch.tensor(2.0), torch.tensor(1.0)), network()
    assert distributed.balance(terms, 3) is terms and distributed.average(terms) is terms
    assert distributed.wrap(module, torch.device("cpu")) is module
    assert distributed.total(7) == 7 and distributed.is_main()
    assert distributed.gather({"row": torch.tensor([1, 0])})["row"].tolist() == [1, 0]
    assert distributed.first_to_fail() and distributed.failed_elsewhere(RuntimeError("Connection closed")) is None


def test_only_batchnorms_in_train_mode_share_their_statistics():
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4)))
    module.train()
    module[0].eval()
    before, parameters = list(module.state_dict()), [id(p) for p in module.parameters()]
    distributed.share_statistics(module)
    assert type(module[0]) is nn.BatchNorm2d and type(module[1][0]) is nn.SyncBatchNorm
    assert module[1][0].training and not module[0].training
    assert list(module.state_dict()) == before and [id(p) for p in module.parameters()] == parameters


def test_on_cuda_statistics_are_shared(monkeypatch):
    """Without a GPU: what is handed to DistributedDataParallel, and how."""
    handed = {}
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", lambda module, **how: handed.update(how, module=module))
    for name, kind in (("cpu", nn.BatchNorm1d), ("cuda:1", nn.SyncBatchNorm)):
        distributed.wrap(network(), torch.device(name))
        assert type(handed["module"][1]) is kind
        assert handed["device_ids"] == (None if name == "cpu" else [torch.device(name)])
