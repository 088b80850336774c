"""What only a CUDA GPU can show; `make bench-gpu` runs these, everywhere else they are skipped."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import train_main
from jobs.methods import load_training
from model.ai_kd import WrapperModel
from model.frozen.network import TorchNetwork
from model.iresnet import iresnet18
from model.mlp import MLP
from tests.helpers.training import ROOT, write_setup
from utils.config import load_config
from utils.config.sections import ModelConfig
from utils.contract import InputContract
from utils.rank_correlation import spearman
from utils.training.precision import to_device
from utils.training.run_log import read_metrics

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]
CUDA = torch.device("cuda", 0)


def make_run(folder, device, *overrides):
    cfg = load_training(write_setup(folder), (f"base.device={device}", *overrides))
    return train_main.build(cfg, load_config(ModelConfig, cfg.model.config), torch.device(device))


def test_a_step_never_waits_for_the_device(tmp_path):
    run = make_run(tmp_path, "cuda:0", "base.amp=1")
    train_main.optim.set_train_mode(run.objective.student, run.cfg.optimizer, run.part.slice_ids)
    batch = next(run.data.batches_from(0))
    batch = batch._replace(**{name: getattr(batch, name).pin_memory() for name in ("aligned", "misaligned", "label")})
    batch = batch._replace(row=batch.row.pin_memory())
    for mode in ("default", "error"):  # the first step sets the libraries up
        torch.cuda.set_sync_debug_mode(mode)
        try:
            with run.precision.autocast():
                terms = run.objective(to_device(batch, CUDA))
            run.precision.backward_and_step(sum(terms), run.optimizer, run.part.clipped, 5.0)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert all(torch.isfinite(term) for term in terms)


def test_a_step_on_the_gpu_has_the_losses_of_the_cpu(tmp_path):
    losses = {}
    for name, device, amp in (("cpu", "cpu", 0), ("fp32", "cuda:0", 0), ("amp", "cuda:0", 1)):
        (tmp_path / name).mkdir()
        train_main.fit(make_run(tmp_path / name, device, f"base.amp={amp}", "base.max_steps=4"))
        rows = [row for row in read_metrics(tmp_path / name / "run/metrics.jsonl") if "lr" in row]
        losses[name] = [(row["consistency"], row["quality"]) for row in rows]
    for name, tolerance in (("fp32", 5e-3), ("amp", 2e-2)):  # of the first step; later ones start from other weights
        np.testing.assert_allclose(losses[name][0], losses["cpu"][0], rtol=tolerance, atol=1e-3)
        assert np.isfinite(losses[name]).all()


def test_scores_on_the_gpu_are_those_of_the_cpu_for_any_batch_size():
    torch.manual_seed(0)
    student = WrapperModel(iresnet18(), MLP(512, 1024)).eval()
    crops = torch.randint(0, 256, (33, 112, 112, 3), dtype=torch.uint8)
    wanted = TorchNetwork(student, InputContract(), torch.device("cpu"), folded=True).qualities(crops)
    scorer = TorchNetwork(student, InputContract(), CUDA, folded=True).qualities
    for size in (1, 2, 7, 32, 33):  # for each the library may take a kernel that sums in another order
        found = np.concatenate([scorer(piece) for piece in crops.split(size)])
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
    half = TorchNetwork(student, InputContract(), CUDA, "bf16", folded=True).qualities(crops)
    assert 0 < np.abs(half - wanted).max() < 0.1 * max(1.0, wanted.std())
    assert spearman(half, wanted) > 0.95


def test_a_killed_run_on_the_gpu_goes_on_like_an_uninterrupted_one(tmp_path):
    """Bit for bit is promised on a CPU; on a GPU sums may take another order, so weights are compared closely."""
    config = write_setup(tmp_path)
    keys = ("base.device=cuda:0", "base.resume=auto", "base.save_every=2", "base.verbose=0", "base.epochs=4")

    def command(name):
        out = f"base.save_path={tmp_path / name}"
        return [sys.executable, "train_main.py", "-c", str(config), out, *keys]

    subprocess.run(command("whole"), cwd=ROOT, check=True, timeout=300)
    child = subprocess.Popen(command("killed"), cwd=ROOT)
    log, limit = tmp_path / "killed/metrics.jsonl", time.monotonic() + 120
    while child.poll() is None and (not log.exists() or log.read_bytes().count(b"\n") < 4):
        assert time.monotonic() < limit
        time.sleep(0.001)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    subprocess.run(command("killed"), cwd=ROOT, check=True, timeout=300)
    whole, killed = (torch.load(tmp_path / name / "aikd-last.pth", weights_only=True) for name in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    for key, tensor in whole.items():
        torch.testing.assert_close(killed[key], tensor, rtol=1e-2, atol=1e-3)
