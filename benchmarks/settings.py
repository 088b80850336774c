"""Every setting of a training step by name, beside the released step: which makes it how much faster?

    python -m benchmarks.settings [--device cuda] [--batches 8] [--steps 2] [--only "ours" "fused" ...]
    python -m benchmarks.settings --device cuda --batches 64 128 256 512 --steps 10
    python -m benchmarks.settings --device cuda --batches 256 --steps 10 --only ours compiled "compiled, CUDA graphs"

Crops lie on the device; the recipe is configs/train_config.yaml in bf16 (the default on CUDA), the released step is in
fp32 with the head in fp16, as released. Settings are built one after the other, so that each has the whole memory. The
compiled ones take up to minutes each on a large network and are measured only where --only names them; "CUDA graph"
records the whole step, "compiled, CUDA graphs" is torch.compile's reduce-overhead. What does not work is named with its
reason, a step that waits for the device too.
The aims are three times the released step and 40 % of the measured bf16 matrix product.
"""

import gc
import statistics
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.bounds import FORMATS, watched
from benchmarks.measuring import Report, alternate, network_option, parser, reason, synchronise
from benchmarks.training_step import (
    Batch,
    Ours,
    Released,
    make_batches,
    matmul_flops,
    read_recipe,
    repeated,
    waiting_is_an_error,
)
from utils.training.precision import pick_device, to_device

RELEASED, OURS = "released", "ours"
AIM, AIM_SHARE = 3.0, 0.4
FOLDED, FUSED = "model.fold_teacher=1", "optimizer.fused=1"


class Setting(NamedTuple):
    """What one contestant does differently from the released recipe in bf16."""

    name: str
    overrides: tuple[str, ...] = ()
    cached: bool = False
    """The teacher's embeddings are known."""
    mode: str | None = None
    """Mode of torch.compile."""
    blocks: bool = False
    """Each residual block is compiled by itself: blocks of one form share their code, which is soon compiled."""
    searched: bool = False
    """cuDNN tries its kernels for each convolution (torch.backends.cudnn.benchmark) instead of guessing."""
    graph: bool = False
    """The whole step is one CUDA graph."""


SETTINGS = (
    Setting(OURS),
    Setting("cached", cached=True),
    Setting("teacher folded", (FOLDED,)),
    Setting("fused", (FUSED,)),
    Setting("cached, fused", (FUSED,), cached=True),
    # Behind all others: a recording that fails may take the whole process with it (torch 2.11).
    Setting("folded, fused, CUDA graph", (FOLDED, FUSED), graph=True),
    Setting("cached, fused, CUDA graph", (FUSED,), cached=True, graph=True),
    Setting("CUDA graph", graph=True),
)
RARE = (
    Setting("blocks compiled, folded, fused", (FOLDED, FUSED), mode="default", blocks=True),
    Setting("folded, fused, cuDNN searched", (FOLDED, FUSED), searched=True),
    Setting("compiled, folded, fused", (FOLDED, FUSED), mode="default"),
    Setting("compiled, cached, fused", (FUSED,), cached=True, mode="default"),
    Setting("compiled", mode="default"),
    Setting("compiled, CUDA graphs", (FOLDED, FUSED), mode="reduce-overhead"),
    Setting("compiled, autotuned", (FOLDED, FUSED), mode="max-autotune-no-cudagraphs"),
)


def warm_up(work: Callable[[], object]) -> None:
    """Work three times on a stream of its own: libraries must be set up before a CUDA graph is recorded."""
    apart = torch.cuda.Stream()
    apart.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(apart):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(apart)


class Recorded:
    """A step recorded once as a CUDA graph and replayed; the learning rate stays that of the recording."""

    def __init__(self, ours: Ours, batch: Batch):
        """Take the steps that set the libraries up, then record one."""
        self.batch = to_device(batch, ours.precision.device)
        warm_up(lambda: ours.step(self.batch))
        ours.optimizer.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            ours.step(self.batch)

    def step(self, batch: Batch) -> None:
        """Bring the batch to where the recording reads it, and replay."""
        for place, tensor in zip(self.batch, batch, strict=True):
            if isinstance(place, Tensor):
                place.copy_(tensor, non_blocking=True)
        self.graph.replay()


def step_of(setting: Setting, ours: Ours, batch: Batch) -> Callable[[Batch], object]:
    """Return the step of a setting for batches like this one."""
    torch.backends.cudnn.benchmark = setting.searched
    if setting.mode is not None:
        torch.compiler.reset()
        torch._dynamo.config.recompile_limit = 64  # blocks share their code: one for each form of block
        for network in (ours.objective.student, ours.objective.teacher):
            for part in blocks(network) if setting.blocks else [network]:
                part.compile(mode=setting.mode, dynamic=False)
    if setting.graph:
        if ours.precision.device.type != "cuda":
            raise RuntimeError("a CUDA graph needs a CUDA device")
        return Recorded(ours, batch).step
    if setting.mode != "reduce-overhead":
        return ours.step

    def step(batch: Batch) -> None:
        torch.compiler.cudagraph_mark_step_begin()
        ours.step(batch)

    return step


def blocks(network: nn.Module) -> list[nn.Module]:
    """Return the residual blocks of a network's stages, or the network itself where it has none."""
    stages = [module for module in network.modules() if isinstance(module, nn.Sequential)]
    found = [block for stage in stages for block in stage if list(block.children())]
    return [block for block in found if not isinstance(block, nn.Sequential)] or [network]


class Bench:
    """The device's rates, the released step's, and what has been measured so far."""

    def __init__(self, options: Any, report: Report):
        self.options, self.report, self.device = options, report, pick_device(options.device)
        self.rates: dict[tuple[str, int], float] = {}
        self.batches: dict[int, Batch] = {}
        self.peak = matmul_flops(self.device, torch.bfloat16)
        report.add(f"measured {FORMATS[torch.bfloat16]} matrix product", self.peak / 1e12, "TFLOP/s")
        self.flops: dict[str, float] = {}

    def build(self, setting: Setting) -> Ours:
        """Return the step's objects, and note the products of an image once."""
        recipe = read_recipe(self.options, "base.precision=bf16", *setting.overrides)
        ours = Ours(*recipe, self.device)
        if setting.name not in self.flops:
            batch = self.batch(ours, 4, setting.cached)
            self.flops[setting.name] = sum(cost.flops for cost in watched(lambda: ours.step(batch))) / 4
        return ours

    def batch(self, ours: Ours, size: int, cached: bool) -> Batch:
        """Return a batch on the device, with the teacher's embeddings where they are known."""
        if size not in self.batches:
            self.batches[size] = to_device(make_batches(size, self.device)[0], self.device)
        batch = self.batches[size]
        if not cached:
            return batch
        with torch.no_grad(), ours.precision.autocast():
            return batch._replace(reference=ours.objective.reference(batch))

    def measure_released(self) -> None:
        """Measure the released step at every batch size."""
        cfg, model_cfg = read_recipe(self.options)
        released = Released(Ours(cfg, model_cfg, torch.device("cpu")).initial, cfg, self.device)
        for size in self.options.batches:

            def work(size: int = size) -> Callable[[], int]:
                batch = to_device(make_batches(size, self.device)[1], self.device)
                return repeated(released.step, batch, self.options.steps)

            self.time(RELEASED, size, work)

    def measure(self, setting: Setting) -> None:
        """Measure one setting at every batch size, as far as it works here."""
        try:
            ours = self.build(setting)
        except Exception as error:  # whatever an optimiser's form or the device raises
            self.report.add(setting.name, f"does not work here: {reason(error)}")
            return
        for size in self.options.batches:

            def work(size: int = size) -> Callable[[], int]:
                batch = self.batch(ours, size, setting.cached)
                step = step_of(setting, ours, batch)
                started = time.perf_counter()
                step(batch)
                synchronise(self.device)
                if setting.mode is not None:
                    what = f"batch {size}: {setting.name}: first step, compiling"
                    self.report.add(what, time.perf_counter() - started, "s")
                else:
                    self.require_no_waiting(f"batch {size}: {setting.name}", step, batch)
                return repeated(step, batch, self.options.steps)

            self.time(setting.name, size, work)

    def require_no_waiting(self, what: str, step: Callable[[Batch], object], batch: Batch) -> None:
        """Say where a step waits for the device; its rate still counts."""
        try:
            with waiting_is_an_error(self.device):
                step(batch)
        except RuntimeError as error:
            if "synchroniz" not in str(error):
                raise
            self.report.add(f"{what}: WAITS FOR THE DEVICE", reason(error))

    def time(self, name: str, size: int, prepare: Callable[[], Callable[[], int]]) -> None:
        """Add rate, ratio, share and memory of one setting at one batch size, or why there are none."""
        what = f"batch {size}: {name}"
        try:
            release(self.device)
            found = alternate({what: prepare()}, self.options.rounds, self.device)[what]
        except torch.OutOfMemoryError:
            self.report.add(what, "does not fit into the device's memory")
            return
        except Exception as error:  # whatever the compiler's tools or the recording raise
            self.report.add(what, f"does not work here: {reason(error)}")
            return
        rounds = [timing.rate("wall") for timing in found]
        rate = self.rates[name, size] = statistics.median(rounds)
        self.report.add(what, rate, "images/s", rounds)
        if (RELEASED, size) in self.rates and name != RELEASED:
            self.report.add(f"{what} / {RELEASED}", rate / self.rates[RELEASED, size], "x")
        if name in self.flops:
            self.report.add(f"{what}: share of the matrix product", 100 * self.share(name, size), "%")
        if self.device.type == "cuda":
            self.report.add(f"{what}: largest memory", torch.cuda.max_memory_allocated() / 2**30, "GiB")

    def share(self, name: str, size: int) -> float:
        """Return the share of the matrix product's rate that a setting reaches."""
        return self.flops[name] * self.rates[name, size] / self.peak

    def report_best(self) -> None:
        """Add the best of what was measured, and whether the aims are reached."""
        ours = {key: rate for key, rate in self.rates.items() if key[0] != RELEASED}
        if not ours:
            return
        name, size = max(ours, key=ours.__getitem__)
        self.report.add("fastest", f"{name}, batch {size}: {ours[name, size]:.4g} images/s")
        released = [rate for (who, _), rate in self.rates.items() if who == RELEASED]
        if released:
            times = ours[name, size] / max(released)
            self.report.add(f"fastest / fastest released, aim {AIM:g}, {reached(times >= AIM)}", times, "x")
        name, size = max(ours, key=lambda key: self.share(*key))
        share = self.share(name, size)
        what = f"largest share of the matrix product, aim {AIM_SHARE:.0%}, {reached(share >= AIM_SHARE)}"
        self.report.add(what, f"{share:.1%}: {name}, batch {size}")


def reached(is_so: bool) -> str:
    """Say whether an aim is reached."""
    return "reached" if is_so else "missed"


def release(device: torch.device) -> None:
    """Give back what earlier settings held, so that the next has the whole memory."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def parse_settings(
    options_of: ArgumentParser, argv: Sequence[str] | None, usual: Sequence[str], rare: Sequence[str]
) -> Namespace:
    """Read the command line of a benchmark of named settings; `rare` ones are measured only where --only names them.

    Returns: its options; `only` holds the settings to measure, the released one among them.
    """
    options_of.add_argument("--device", default="cpu")
    network_option(options_of)
    options_of.add_argument("--steps", type=int, default=2, help="batches per round")
    names = [RELEASED, *usual, *rare]
    options_of.add_argument("--only", nargs="+", metavar="NAME", default=names[: 1 + len(usual)], help="; ".join(names))
    options = options_of.parse_args(argv)
    if unknown := set(options.only) - set(names):
        options_of.error(f"--only: no setting {', '.join(sorted(unknown))}; there are {'; '.join(names)}")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options_of = parser(__doc__ or "")
    options_of.add_argument("--batches", type=int, nargs="+", default=[8])
    usual, rare = ([setting.name for setting in some] for some in (SETTINGS, RARE))
    options = parse_settings(options_of, argv, usual, rare)
    bench = Bench(options, Report("settings", options))
    if RELEASED in options.only:
        bench.measure_released()
    for setting in (*SETTINGS, *RARE):
        if setting.name in options.only:
            bench.measure(setting)
    bench.report_best()


if __name__ == "__main__":
    main()
