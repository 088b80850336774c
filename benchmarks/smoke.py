"""Does this machine run the project at all? One step, one score, one process of NCCL; under a minute on a GPU.

    python -m benchmarks.smoke [--device cuda]

Each part says what it took, or why it fails; the others are tried all the same, and the exit code is 1.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.measuring import Report, parser, reason
from benchmarks.training_step import Ours, make_batches, read_recipe
from model.frozen.network import TorchNetwork
from utils.contract import InputContract
from utils.training.precision import pick_device, to_device


def one_step(device: torch.device) -> str:
    """Take a step of AI-KD with IResNet-18; return its losses."""
    options = SimpleNamespace(device=str(device), limit=30, network="iresnet18")
    ours = Ours(*read_recipe(options), device)
    batch = to_device(make_batches(8, device)[0], device)
    ours.step(batch)
    with torch.no_grad(), ours.precision.autocast():
        terms = ours.objective(batch)
    losses = {name: float(term) for name, term in zip(terms._fields, terms, strict=True)}
    if not all(map(np.isfinite, losses.values())):
        raise RuntimeError(f"{device}: a loss is not finite after one step: {losses}")
    return f"{ours.precision.name}; " + ", ".join(f"{name} {value:.4f}" for name, value in losses.items())


def one_score(device: torch.device) -> str:
    """Score crops on the device and on the CPU; return the largest difference."""
    torch.manual_seed(0)
    options = SimpleNamespace(device="cpu", limit=30, network="iresnet18")
    student = Ours(*read_recipe(options), torch.device("cpu")).objective.student.eval()
    crops = make_batches(8, torch.device("cpu"))[0].aligned
    wanted = TorchNetwork(student, InputContract(), torch.device("cpu"), folded=True).qualities(crops)
    found = TorchNetwork(student, InputContract(), device, folded=True).qualities(crops)
    difference = float(np.abs(found - wanted).max())
    if difference > 1e-4:
        raise RuntimeError(f"{device}: a score differs by {difference:.2g} from the CPU's, more than 1e-4")
    return f"largest difference from the CPU {difference:.1e}"


def one_process(device: torch.device) -> str:
    """Sum a number over a group of one process; return the backend."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(backend, init_method=f"file://{os.path.join(folder, 'meet')}", rank=0, world_size=1)
        try:
            number = torch.full((1,), 3.0, device=device)
            dist.all_reduce(number)
            if number.item() != 3.0:
                raise RuntimeError(f"{backend}: the sum over one process is {number.item()}, not 3")
        finally:
            dist.destroy_process_group()
    return backend


PARTS: dict[str, Callable[[torch.device], str]] = {
    "one training step": one_step,
    "scores": one_score,
    "a group of one process": one_process,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the parts."""
    options_of = parser(__doc__ or "")
    options_of.add_argument("--device", default="cpu")
    options = options_of.parse_args(argv)
    report, failed = Report("smoke", options), []
    device = pick_device(options.device)
    for name, part in PARTS.items():
        started = time.perf_counter()
        try:
            said = part(device)
        except Exception as error:  # whatever the device or a library that does not fit it raises
            said = f"FAILED: {reason(error)}"
            failed.append(name)
        report.add(name, f"{said} ({time.perf_counter() - started:.1f} s)")
    if failed:
        raise SystemExit("failed: " + ", ".join(failed))


if __name__ == "__main__":
    main()
