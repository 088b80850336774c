"""How far does the device allow? Its measured rates, what a step must move and multiply, and where the time goes.

    python -m benchmarks.bounds [--device cuda] [--network iresnet100] [--batch 256]

Every operation of a step is watched: what it reads and writes, and its products. An operation cannot take less time
than its bytes take at the measured bandwidth, nor less than its products take at the measured rate of a matrix product
in its number format. The sum over the operations bounds a step that runs them one by one; a compiler that joins some
keeps their intermediate results out of memory and may pass it. Then the profiler's shares of a step, by operation.
"""

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.measuring import Report, alternate, network_option, parser, reason, synchronise, timed
from benchmarks.training_step import Ours, make_batches, matmul_flops, read_recipe, repeated
from model.frozen.network import TorchNetwork
from utils.contract import InputContract
from utils.training.precision import pick_device, to_device

FORMATS = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
NOTHING_MOVED = ("empty", "new_empty", "detach", "_local_scalar", "is_same_size")
"""Beginnings of the names of operations that touch no element."""
SHOWN = 8
"""Operations of a profile that are named one by one."""
TIMED = 3
"""Passes in a round, which are timed together: the processor runs ahead of a GPU."""


class Rates(NamedTuple):
    """What the device was measured to do."""

    flops: dict[str, float]
    """Floating point operations per second of a large matrix product, by number format."""
    bytes: float
    """Bytes per second that a large copy reads and writes."""

    def seconds(self, cost: "Cost") -> float:
        """Return the least time of one operation."""
        return max(cost.flops / self.flops[cost.kind], cost.bytes / self.bytes)


class Cost(NamedTuple):
    """What one operation must do."""

    name: str
    bytes: int
    flops: int
    kind: str
    """Number format of its products."""


class Costs(TorchDispatchMode):
    """Note the cost of every operation that runs; views cost nothing."""

    def __init__(self):
        super().__init__()
        self.seen: list[Cost] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run the operation and note what it read, wrote and multiplied."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        outputs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        name, changes = func.overloadpacket.__name__, func._schema.is_mutable
        places = {tensor.untyped_storage().data_ptr() for tensor in inputs}
        is_view = outputs and not changes and all(t.untyped_storage().data_ptr() in places for t in outputs)
        moved = 0
        if not is_view and not name.startswith(NOTHING_MOVED):
            if changes and not outputs:  # a list that is changed in place
                outputs = [leaf for leaf in tree_leaves(args[0]) if isinstance(leaf, Tensor)]
            moved = sum(map(in_memory, inputs)) + sum(map(in_memory, outputs))
        count = flop_registry.get(func.overloadpacket)
        flops = count(*args, **kwargs, out_val=out) if count else 0
        kinds = [FORMATS[tensor.dtype] for tensor in inputs if tensor.dtype in FORMATS]
        if moved or flops:
            self.seen.append(Cost(name, moved, flops, kinds[0] if kinds else "fp32"))
        return out


def in_memory(tensor: Tensor) -> int:
    """Return the bytes of its elements, each counted once however often an expanded tensor repeats it."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def watched(work: Callable[[], object]) -> list[Cost]:
    """Return the cost of every operation of a piece of work."""
    with Costs() as costs:
        work()
    return costs.seen


def copy_rate(device: torch.device) -> float:
    """Return the bytes per second that a copy reads and writes, far beyond any cache."""
    size = 2**30 if device.type == "cuda" else 2**27
    source, target = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    repeats = 20 if device.type == "cuda" else 2

    def copy() -> int:
        for _ in range(repeats):
            target.copy_(source)
        return repeats

    copy()
    return 2 * size * max(timed(copy, device).rate("wall") for _ in range(3))


def measure_rates(report: Report, device: torch.device) -> Rates:
    """Measure the device and report it."""
    formats = [torch.bfloat16, torch.float32] + [torch.float16] * (device.type == "cuda")
    flops = {FORMATS[dtype]: matmul_flops(device, dtype) for dtype in formats}
    rates = Rates({"fp16": flops["bf16"], **flops}, copy_rate(device))
    for kind, rate in flops.items():
        report.add(f"measured {kind} matrix product", rate / 1e12, "TFLOP/s")
    report.add("measured memory bandwidth, read and written", rates.bytes / 1e9, "GB/s")
    return rates


def report_bound(report: Report, what: str, work: Callable[[], int], device: torch.device, rates: Rates) -> None:
    """Add what a piece of work costs per image, the rates that follow from it, and the rate it has."""
    images = work()
    costs = watched(work)
    moved, flops = sum(cost.bytes for cost in costs), sum(cost.flops for cost in costs)
    products = sum(cost.flops / rates.flops[cost.kind] for cost in costs)
    least = sum(map(rates.seconds, costs))
    report.add(f"{what}: products", flops / images / 1e9, "GFLOP per image")
    report.add(f"{what}: bytes moved", moved / images / 1e6, "MB per image")
    report.add(f"{what}: bound by products alone", images / products, "images/s")
    report.add(f"{what}: bound by bytes alone", images * rates.bytes / moved, "images/s")
    report.add(f"{what}: bound, operation by operation", images / least, "images/s")
    shares: dict[str, float] = defaultdict(float)
    for cost in costs:
        shares[cost.name] += rates.seconds(cost) / least
    for name, share in sorted(shares.items(), key=lambda item: -item[1])[:SHOWN]:
        report.add(f"{what}: of the bound, {name}", 100 * share, "%")

    def several() -> int:
        return sum(work() for _ in range(TIMED))

    found = alternate({what: several}, 3, device)[what]
    rate = statistics.median(timing.rate("wall") for timing in found)
    report.add(f"{what}: measured", rate, "images/s", [timing.rate("wall") for timing in found])
    report.add(f"{what}: share of the matrix product", 100 * rate * products / images, "%")
    report.add(f"{what}: share of the bound", 100 * rate * least / images, "%")


def report_profile(report: Report, what: str, work: Callable[[], int], device: torch.device) -> None:
    """Add the operations that take most of the device's time, and how much of the time it is busy at all."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu) as profiler:
        wall_s = timed(work, device).wall_s
    times = {}
    for event in profiler.key_averages():
        if event.device_type == DeviceType.CPU:  # kernels by themselves are listed once more
            times[event.key] = event.self_device_time_total if on_gpu else event.self_cpu_time_total
    total = sum(times.values()) or 1
    for name, time_us in sorted(times.items(), key=lambda item: -item[1])[:SHOWN]:
        report.add(f"{what}: of its time, {name}", 100 * time_us / total, "%")
    report.add(f"{what}: the device is busy, under the profiler", 100 * total / 1e6 / wall_s, "%")


def works(options: Any, device: torch.device) -> dict[str, Callable[[], int]]:
    """Return the pieces of work: training steps without and with the teacher's cache, and scoring."""
    half = "base.precision=bf16"
    ours = Ours(*read_recipe(options, half, "model.fold_teacher=1"), device)
    batch = to_device(make_batches(options.batch, device)[0], device)
    with torch.no_grad(), ours.precision.autocast():
        known = batch._replace(reference=ours.objective.reference(batch))
    student = Ours(*read_recipe(options), torch.device("cpu")).objective.student
    scorer = TorchNetwork(student, InputContract(), device, "bf16", folded=True)

    def score() -> int:
        with torch.no_grad():
            scorer.forward(batch.aligned)
        return options.batch

    return {
        "training": repeated(ours.step, batch, 1),
        "training, cached": repeated(ours.step, known, 1),
        "scoring": score,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options_of = parser(__doc__ or "")
    options_of.add_argument("--device", default="cpu")
    network_option(options_of)
    options_of.add_argument("--batch", type=int, default=8)
    options = options_of.parse_args(argv)
    report = Report("bounds", options)
    device = pick_device(options.device)
    rates = measure_rates(report, device)
    for what, work in works(options, device).items():
        for part, add in {"bound": partial(report_bound, rates=rates), "profile": report_profile}.items():
            try:
                add(report, what, work, device)
                synchronise(device)
            except Exception as error:  # whatever the counting, the profiler's library or a full memory raise
                report.add(f"{what}: {part}", f"does not work here: {reason(error)}")


if __name__ == "__main__":
    main()
