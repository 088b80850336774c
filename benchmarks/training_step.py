"""Images per second of one training step of AI-KD: ours and the released step, alternating.

    python -m benchmarks.training_step [--batches 8] [--steps 2] [--rounds 3] [--compile [8]] [--network iresnet100]
    python -m benchmarks.training_step --device cuda --batches 64 128 256 512 --steps 10 --compile 256

Random weights, random crops that lie in (pinned) memory already; configs/train_config.yaml is the recipe. Ours takes
uint8 crops through the objective, the partition and the optimiser that train_main.py uses; `cached` has the teacher's
embeddings (model.teacher_cache), `bf16` is base.precision=bf16, on CUDA the default. On CUDA a step that waits for the
device is an error. The share is that of the rate of a large matrix product measured in the same run, fp32 on a CPU and
bf16 on CUDA.
"""

import argparse
import contextlib
import copy
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import Report, Timing, alternate, network_module, network_option, parser, reason, timed
from jobs.methods import load_training
from model.ai_kd import WrapperModel
from model.objectives.distillation import AIKDObjective
from model.registry import NetworkBuilder
from utils.config import load_config
from utils.config.sections import ModelConfig
from utils.config.train import TrainConfig
from utils.contract import InputContract
from utils.training import optim
from utils.training.precision import Precision, pick_device, to_device
from utils.training.seeding import seed_everything

COMPILED = "ours, compiled"
GROWTH_INTERVAL = 2000
"""Steps after which fp16's loss scale is doubled, torch's default; each doubling may cost a step that is left out."""
CONFIGS = Path(__file__).resolve().parent.parent / "configs"


class Batch(NamedTuple):
    """What the objective reads of a data set's batch."""

    aligned: Tensor  # (B, 112, 112, 3) uint8
    misaligned: Tensor  # (B, 112, 112, 3) uint8
    label: Tensor  # (B,) float32
    reference: Tensor | None = None


class Ours:
    """The step of train_main.py."""

    def __init__(self, cfg: TrainConfig, model_cfg: ModelConfig, device: torch.device):
        seed_everything(0)
        self.cfg = cfg
        self.objective = AIKDObjective.from_config(
            cfg,
            model_cfg,
            NetworkBuilder(allow_random_init=True),
            InputContract.from_transform(model_cfg.transform, model_cfg.channels),
        )
        self.initial = copy.deepcopy(self.objective.student)
        self.objective.to(device, memory_format=torch.channels_last)
        self.part = optim.partition(self.objective.parts(), self.objective, cfg.optimizer)
        self.optimizer = optim.build_optimizer(cfg.optimizer, self.part.groups)
        self.precision = Precision(device, cfg.base, cfg.grad_scaler, GROWTH_INTERVAL)
        optim.set_train_mode(self.objective.student, cfg.optimizer, self.part.slice_ids)

    def step(self, batch: Batch) -> None:
        """Take one step; read nothing back."""
        optim.set_lr(self.optimizer, 1.0)
        with self.precision.autocast():
            terms = self.objective(to_device(batch, self.precision.device))
        limit = self.cfg.optimizer.max_grad_norm
        self.precision.backward_and_step(sum(terms), self.optimizer, self.part.clipped, limit)


class Released:
    """The step of the released code, from its description: one backbone, teacher and student, all with gradients.

    Where the description is silent it is kind to the released code: the teacher's pass records no graph.
    """

    def __init__(self, student: WrapperModel, cfg: TrainConfig, device: torch.device):
        self.student, self.device = student.to(device).train(), device
        self.parts = {"quality_head": student.quality_head, "feature_extractor": student.feature_extractor}
        groups = []
        for group in cfg.optimizer.groups.values():
            taken = list(self.parts[group.params].parameters())[-group.limit if group.limit else 0 :]
            groups.append({"params": taken, "lr": group.lr, **group.model_extra})
        self.optimizer = torch.optim.SGD(groups)
        self.quality_loss, self.consistency_loss = nn.SmoothL1Loss(beta=0.5), nn.CosineEmbeddingLoss()
        self.max_grad_norm = cfg.optimizer.max_grad_norm
        self.scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda", init_scale=128)

    def step(self, batch: Batch) -> float:
        """Take one step on float crops and read the loss back."""
        aligned, misaligned, label = (tensor.to(self.device) for tensor in batch[:3])
        with torch.no_grad():
            reference = self.student.feature_extractor(aligned)  # fp32: the backbone switches autocast off
        embedding = self.student.feature_extractor(misaligned)
        with torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda"):
            quality = self.student.quality_head(embedding).flatten()
        target = torch.ones_like(label)
        loss = self.quality_loss(quality.float(), label) + self.consistency_loss(embedding, reference, target)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.student.parameters(), self.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.item()


def read_recipe(options: argparse.Namespace, *more: str) -> tuple[TrainConfig, ModelConfig]:
    """Return the shipped configurations with random weights on the device."""
    overrides = [f"base.device={options.device}", "base.allow_random_init=1", *more]
    if options.limit is not None:
        overrides.append(f"optimizer.group_2.limit={options.limit}")
    cfg = load_training(CONFIGS / "train_config.yaml", overrides)
    model = [f"features.module={network_module(options.network)}", "features.weights=null"]
    return cfg, load_config(ModelConfig, CONFIGS / "model_config.yaml", model)


def make_batches(size: int, device: torch.device) -> tuple[Batch, Batch]:
    """Return a batch as each contestant's workers make it: uint8 crops, and float crops (B, 3, 112, 112)."""
    generator = torch.Generator().manual_seed(0)
    crops = torch.randint(0, 256, (2, size, 112, 112, 3), dtype=torch.uint8, generator=generator)
    label = torch.rand(size, generator=generator)
    floats = crops.permute(0, 1, 4, 2, 3).float().div(127.5).sub(1).contiguous()
    found = Batch(*crops, label), Batch(*floats, label)
    if device.type == "cuda":
        found = tuple(Batch(*(tensor.pin_memory() for tensor in batch[:3])) for batch in found)
    return found


@contextlib.contextmanager
def waiting_is_an_error(device: torch.device) -> Iterator[None]:
    """Raise where the processor would wait for the GPU."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the floating point operations per second of a large square matrix product, TF32 off."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    repeats = 20 if device.type == "cuda" else 2

    def multiply() -> int:
        for _ in range(repeats):
            torch.mm(a, b)
        return repeats

    multiply()
    return 2 * size**3 * max(timed(multiply, device).rate("wall") for _ in range(3))


def count_flops(ours: Ours, batch: Batch) -> float:
    """Return the floating point operations per image of our step: products and convolutions, no elementwise work."""
    with FlopCounterMode(display=False) as counter:
        ours.step(batch)
    return counter.get_total_flops() / len(batch.label)


def repeated(step: Callable[[Batch], object], batch: Batch, steps: int) -> Callable[[], int]:
    """Return the work of several steps."""

    def work() -> int:
        for _ in range(steps):
            step(batch)
        return steps * len(batch.label)

    return work


def measure(options: argparse.Namespace, report: Report) -> dict[tuple[str, int], float]:
    """Measure every batch size; return the median rate of each contestant at each."""
    device = pick_device(options.device)
    cfg, model_cfg = read_recipe(options)
    ours = Ours(cfg, model_cfg, device)
    released = Released(ours.initial, cfg, device)
    contestants = {"released": released.step, "ours": ours.step, "ours, cached": ours.step}
    if device.type == "cpu":
        half = Ours(read_recipe(options, "base.precision=bf16")[0], model_cfg, device)
        contestants |= {"ours, bf16": half.step, "ours, bf16, cached": half.step}
    flops = count_flops(ours, to_device(make_batches(4, device)[0], device))
    kind = "bf16" if device.type == "cuda" else "fp32"
    peak = matmul_flops(device, torch.bfloat16 if kind == "bf16" else torch.float32)
    report.add(f"measured {kind} matrix product", peak / 1e12, "TFLOP/s")
    report.add("products and convolutions of our step", flops / 1e9, "GFLOP per image")
    rates: dict[tuple[str, int], float] = {}
    for size in options.batches:
        bytes_, floats = make_batches(size, device)
        try:
            with torch.no_grad():
                known = bytes_._replace(reference=ours.objective.reference(to_device(bytes_, device)))
            works = {}
            for name, step in contestants.items():
                batch = floats if name == "released" else known if "cached" in name else bytes_
                works[name] = repeated(step, batch, options.steps)
            if options.compile is not None and size in (options.compile or options.batches):
                compile_now(works, Ours(cfg, model_cfg, device), bytes_, options.steps, report)
            with waiting_is_an_error(device):
                ours.step(bytes_)
            timings = alternate(works, options.rounds, device)
        except torch.OutOfMemoryError:
            report.add(f"batch {size}", "does not fit into the device's memory")
            break
        if device.type == "cuda":
            report_memory(report, ours, bytes_, size)
        report.compare({f"batch {size}: {name}": found for name, found in timings.items()}, f"batch {size}: released")
        for name, found in timings.items():
            rates[name, size] = median_rate(found)
        report.add(f"batch {size}: ours, share of the matrix product", 100 * flops * rates["ours", size] / peak, "%")
    return rates


def report_memory(report: Report, ours: Ours, batch: Batch, size: int) -> None:
    """Add the largest memory of a step of ours, and what it needs whatever the batch."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    ours.step(batch)
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    report.add(f"batch {size}: memory of our step above weights", (peak - before) / 2**30, "GiB")


def compile_now(works: dict[str, Callable[[], int]], ours: Ours, batch: Batch, steps: int, report: Report) -> None:
    """Add the compiled step, compiled for this batch size alone as in training, or say why there is none."""
    torch.compiler.reset()
    ours.objective.compile_networks()
    started = time.perf_counter()
    try:
        ours.step(batch)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever the compiler's tools raise
        report.add("torch.compile", f"does not work here: {reason(error)}")
        return
    report.add(f"batch {len(batch.label)}: first compiled step", time.perf_counter() - started, "s")
    works[COMPILED] = repeated(ours.step, batch, steps)


def median_rate(timings: list[Timing]) -> float:
    """Return the median of the rates."""
    return statistics.median(timing.rate("wall") for timing in timings)


def main() -> None:
    """Measure and print."""
    options_of = parser(__doc__)
    options_of.add_argument("--device", default="cpu")
    network_option(options_of)
    options_of.add_argument("--batches", type=int, nargs="+", default=[8])
    options_of.add_argument("--steps", type=int, default=2, help="steps per contestant and round")
    options_of.add_argument(
        "--compile", type=int, nargs="*", metavar="BATCH", help="measure torch.compile too; these sizes, all without"
    )
    options = options_of.parse_args()
    report = Report("training_step", options)
    rates = measure(options, report)
    best = {name: max((rate for (who, _), rate in rates.items() if who == name), default=0) for name, _ in rates}
    if len(options.batches) > 1:
        for name, rate in best.items():
            report.add(f"best batch: {name}", rate, "images/s")
        report.add("best batch: ours / released", best["ours"] / best["released"], "x")


if __name__ == "__main__":
    main()
