"""Are the numbers of a device those of the CPU? The same AI-KD steps in every number format, and the scores they give.

    python -m benchmarks.right [--device cuda] [--network iresnet100] [--steps 200] [--batch 4] [--seconds S]
                               [--formats fp32 tf32 bf16 fp16 compiled]

Every run starts from the same random weights and sees the same batches: smooth random pictures with labels that depend
on them, drawn from the step's number. The reference is fp32 on the CPU. Single steps diverge for reasons of rounding
alone, so that losses are compared as means over windows of a tenth of the steps and over all steps; the bounds are
stated beside each figure. "fp32" is fp32 throughout; training in fp32 on CUDA is "tf32", as PyTorch comes: its
convolutions use TF32. Then the student that the CPU trained is scored on both, TF32 off.
"""

import argparse
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.measuring import Report, network_option, parser, reason
from benchmarks.training_step import Batch, Ours, read_recipe
from model.frozen.network import TorchNetwork
from utils.contract import InputContract
from utils.rank_correlation import spearman
from utils.training import optim
from utils.training.precision import pick_device, to_device

BOUNDS = {"fp32": 0.02, "tf32": 0.05, "bf16": 0.15, "fp16": 0.15, "compiled": 0.02}
"""Largest relative difference of a window's mean loss; that of the mean over all steps is a third of it."""
SCORED = 64
RATE = 0.1
"""Of the recipe's learning rates: with random weights the full ones throw the first steps off."""


def pictures(count: int, seed: int) -> torch.Tensor:
    """Return smooth random pictures (count, 112, 112, 3) uint8."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 7, 7, generator=generator)
    fine = F.interpolate(coarse, size=(112, 112), mode="bicubic", align_corners=False).clamp(0, 1)
    return (fine * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def batches(size: int, steps: int) -> Iterator[Batch]:
    """Yield the batch of each step: aligned pictures, the same shifted by three pixels, their mean brightness."""
    for step in range(steps):
        aligned = pictures(size, step)
        yield Batch(aligned, aligned.roll(3, dims=1), aligned.float().mean(dim=(1, 2, 3)) / 255)


def train(ours: Ours, options: argparse.Namespace, seconds: float | None = None) -> np.ndarray:
    """Take the steps, after so many seconds no further one; return the two losses of each, (steps, 2)."""
    losses, started = [], time.monotonic()
    for batch in batches(options.batch, options.steps):
        optim.set_lr(ours.optimizer, RATE)
        with ours.precision.autocast():
            terms = ours.objective(to_device(batch, ours.precision.device))
        total = torch.stack(list(terms)).sum()
        ours.precision.backward_and_step(total, ours.optimizer, ours.part.clipped, ours.cfg.optimizer.max_grad_norm)
        losses.append([float(term.detach()) for term in terms])
        if seconds is not None and time.monotonic() - started > seconds:
            break
    return np.array(losses)


def windows(losses: np.ndarray) -> np.ndarray:
    """Return the means over tenths of the steps."""
    return np.stack([part.mean(axis=0) for part in np.array_split(losses, min(10, len(losses)))])


def compare_training(report: Report, options: argparse.Namespace, device: torch.device) -> Ours:
    """Train in every format that works here; return what the CPU trained in fp32."""
    cpu = argparse.Namespace(**{**vars(options), "device": "cpu"})
    reference = Ours(*read_recipe(cpu, "base.precision=fp32"), torch.device("cpu"))
    wanted = train(reference, options, options.seconds)
    options.steps = len(wanted)
    report.add("steps of every run", options.steps)
    report.add("cpu, fp32: first and last window", " -> ".join(_shown(row) for row in windows(wanted)[[0, -1]]))
    formats = ["fp32", "bf16", "tf32", "fp16"] if device.type == "cuda" else ["fp32", "bf16"]
    for name in options.formats or formats:
        torch.backends.cudnn.allow_tf32 = name == "tf32"
        try:
            found = train(build(options, name, device), options)
        except Exception as error:  # whatever the compiler's tools or the device raise: the other formats still count
            report.add(f"{device}, {name}: losses, OUTSIDE every bound", f"does not work here: {reason(error)}")
            continue
        add_difference(report, f"{device}, {name}: losses", windows(found), windows(wanted), BOUNDS[name])
        title = f"{device}, {name}: mean losses of all steps"
        add_difference(report, title, found.mean(axis=0), wanted.mean(axis=0), BOUNDS[name] / 3)
        first = float(np.abs(found[0] / wanted[0] - 1).max())
        report.add(f"{device}, {name}: losses of the first step", 100 * first, "%")
    return reference


def add_difference(report: Report, title: str, found: np.ndarray, wanted: np.ndarray, bound: float) -> None:
    """Report the largest relative difference, and whether the bound holds."""
    with np.errstate(all="ignore"):
        difference = float(np.abs(found / wanted - 1).max())
    within = "within" if difference <= bound else "OUTSIDE"
    report.add(f"{title}, {within} {100 * bound:.2g}% of the CPU's", 100 * difference, "%")


def build(options: argparse.Namespace, name: str, device: torch.device) -> Ours:
    """Return the step's objects for a number format, or compiled, on the device."""
    precision = name if name in ("bf16", "fp16") else "fp32"
    ours = Ours(*read_recipe(options, f"base.precision={precision}"), device)
    if name == "compiled":
        ours.objective.compile_networks()
    return ours


def compare_scores(report: Report, ours: Ours, device: torch.device) -> None:
    """Score with the trained student on the CPU and on the device."""
    student, crops = ours.objective.student.eval(), pictures(SCORED, seed=10**6)
    wanted = TorchNetwork(student, InputContract(), torch.device("cpu"), folded=True).qualities(crops)
    report.add("standard deviation of the scores", float(wanted.std()))
    for name in ("fp32", "bf16"):
        found = TorchNetwork(student, InputContract(), device, name, folded=True).qualities(crops)
        difference = float(np.abs(found - wanted).max())
        bound = ", OUTSIDE 1e-4" if name == "fp32" and difference > 1e-4 else ""
        report.add(f"{device}, {name}: largest difference of a score{bound}", difference)
        report.add(f"{device}, {name}: Spearman of the scores", f"{spearman(found, wanted):.6f}")


def _shown(losses: np.ndarray) -> str:
    return " and ".join(f"{value:.4g}" for value in losses)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, compare and print; exit code 1 where a bound is missed."""
    options_of = parser(__doc__ or "", rounds=1)
    options_of.add_argument("--device", default="cpu")
    network_option(options_of)
    options_of.add_argument("--steps", type=int, default=200)
    options_of.add_argument("--batch", type=int, default=4)
    options_of.add_argument(
        "--seconds", type=float, help="the CPU takes no further step after so many; the other runs take as many steps"
    )
    options_of.add_argument(
        "--formats",
        nargs="+",
        choices=BOUNDS,
        help="compiled: fp32 by torch.compile; fp32, bf16, on CUDA tf32 and fp16 without",
    )
    options = options_of.parse_args(argv)
    report = Report("right", options)
    device = pick_device(options.device)
    compare_scores(report, compare_training(report, options, device), device)
    missed = [row["what"] for row in report.rows if "OUTSIDE" in row["what"]]
    if missed:
        raise SystemExit("outside its bound: " + "; ".join(missed))


if __name__ == "__main__":
    main()
