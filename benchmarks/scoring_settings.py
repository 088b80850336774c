"""Every setting of the scoring network by name, beside the released loop's network: which is how much faster?

    python -m benchmarks.scoring_settings [--device cuda] [--batches 64] [--only "fp32" "bf16" ...]
    python -m benchmarks.scoring_settings --device cuda --batches 64 256 1024 --only released bf16 "bf16, compiled"

The network alone: crops lie on the device, uint8 for ours and normalised floats for the released one; from files to
scores is `benchmarks.inference`. Ours has its BatchNorms folded; "bf16" is base.precision=bf16, on CUDA by autocast;
"bf16 weights" puts the network itself into bf16, as inference.py does on a CPU. Compiled settings are measured only
where --only names them. Differences are from the fp32 scores of the CPU. The aim is 60 % of the measured bf16 matrix
product.
"""

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.bounds import watched
from benchmarks.measuring import Report, alternate, parser, reason
from benchmarks.settings import RELEASED, parse_settings, reached, release, warm_up
from benchmarks.training_step import Ours, make_batches, matmul_flops, read_recipe
from model.ai_kd import WrapperModel
from model.frozen.bfloat16 import Bfloat16
from model.frozen.fold import fold_batchnorm
from model.frozen.network import TorchNetwork
from utils.contract import InputContract
from utils.rank_correlation import spearman
from utils.training.precision import pick_device

AIM_SHARE = 0.6
COMPARED = 64
"""Crops whose scores are compared with the CPU's."""


class Setting(NamedTuple):
    """What one contestant does."""

    name: str
    precision: str = "fp32"
    whole: bool = False
    """The network's weights are bf16 themselves."""
    mode: str | None = None
    """Mode of torch.compile."""
    searched: bool = False
    """cuDNN tries its kernels for each convolution (torch.backends.cudnn.benchmark) instead of guessing."""
    graph: bool = False
    """The pass is one CUDA graph."""


SETTINGS = (
    Setting("bf16", "bf16"),
    Setting("bf16 weights", whole=True),
    Setting("fp32"),
    # Behind all others: a recording that fails may take the whole process with it (torch 2.11).
    Setting("bf16 weights, CUDA graph", whole=True, graph=True),
    Setting("bf16, CUDA graph", "bf16", graph=True),
)
RARE = (
    Setting("bf16 weights, cuDNN searched", whole=True, searched=True),
    Setting("bf16 weights, compiled", whole=True, mode="default"),
    Setting("bf16, compiled", "bf16", mode="default"),
    Setting("bf16 weights, autotuned", whole=True, mode="max-autotune-no-cudagraphs"),
)


def scorer_of(setting: Setting, student: WrapperModel, device: torch.device) -> TorchNetwork:
    """Return the scoring network of a setting."""
    if setting.whole:
        trunk = Bfloat16(fold_batchnorm(student.feature_extractor))
        student = WrapperModel(trunk, student.quality_head)
        return TorchNetwork(student, InputContract(), device)
    return TorchNetwork(student, InputContract(), device, setting.precision, folded=True)


def score(scorer: TorchNetwork, crops: Tensor) -> Tensor:
    """Return the qualities (B,) of crops on the device, without waiting for it."""
    quality_B = scorer.forward(crops).quality
    assert quality_B is not None
    return quality_B


def pass_of(setting: Setting, scorer: TorchNetwork, crops: Tensor) -> Callable[[], Tensor]:
    """Return what computes the qualities of these crops by a setting."""
    torch.backends.cudnn.benchmark = setting.searched
    if setting.mode is not None:
        torch.compiler.reset()
        scorer.module.compile(mode=setting.mode, dynamic=False)
    if not setting.graph:
        return partial(score, scorer, crops)
    if scorer.device.type != "cuda":
        raise RuntimeError("a CUDA graph needs a CUDA device")
    return recorded(scorer, crops)


@torch.no_grad()
def recorded(scorer: TorchNetwork, crops: Tensor) -> Callable[[], Tensor]:
    """Record the pass as a CUDA graph; return what replays it."""
    warm_up(lambda: score(scorer, crops))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        quality_B = score(scorer, crops)

    def replay() -> Tensor:
        graph.replay()
        return quality_B

    return replay


class Bench:
    """The student, the device's rate, and what has been measured so far."""

    def __init__(self, options: Any, report: Report):
        self.options, self.report, self.device = options, report, pick_device(options.device)
        cpu = torch.device("cpu")
        self.student = Ours(*read_recipe(options), cpu).objective.student.eval()
        crops = make_batches(COMPARED, cpu)[0].aligned
        self.compared = crops
        self.wanted = TorchNetwork(self.student, InputContract(), cpu, folded=True).qualities(crops)
        report.add("standard deviation of the scores", float(self.wanted.std()))
        self.peak = matmul_flops(self.device, torch.bfloat16)
        report.add("measured bf16 matrix product", self.peak / 1e12, "TFLOP/s")
        with torch.no_grad():
            costs = watched(lambda: self.student(torch.zeros(1, 3, *crops.shape[1:3])))
        self.flops = sum(cost.flops for cost in costs)
        report.add("products and convolutions", self.flops / 1e9, "GFLOP per image")
        self.rates: dict[tuple[str, int], float] = {}

    def crops(self, size: int) -> Tensor:
        """Return a batch on the device: the crops that are compared, over and over."""
        times = -(-size // len(self.compared))
        return self.compared.repeat(times, 1, 1, 1)[:size].to(self.device)

    def measure_released(self) -> None:
        """Measure the released loop's network: fp32 as PyTorch comes, contiguous, BatchNorms apart."""
        network = copy.deepcopy(self.student).to(self.device).to(memory_format=torch.contiguous_format)
        before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, True
        for size in self.options.batches:

            def prepare(size: int = size) -> Callable[[], Tensor]:
                floats = self.crops(size).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()
                return lambda: network(floats)[1]

            self.time(RELEASED, size, prepare)
        torch.backends.cudnn.allow_tf32 = before

    def measure(self, setting: Setting) -> None:
        """Measure one setting at every batch size, and how far its scores are from the CPU's."""
        try:
            scorer = scorer_of(setting, self.student, self.device)
        except Exception as error:  # whatever a network that cannot be put into bf16 or a full memory raise
            self.report.add(setting.name, f"does not work here: {reason(error)}")
            return
        for size in self.options.batches:
            self.time(setting.name, size, lambda size=size: pass_of(setting, scorer, self.crops(size)))

    def time(self, name: str, size: int, prepare: Callable[[], Callable[[], Tensor]]) -> None:
        """Add rate, ratio and share of one setting at one batch size, or why there are none."""
        what = f"batch {size}: {name}"
        try:
            release(self.device)
            work = prepare()
            started = time.perf_counter()
            with torch.no_grad():
                found = work()[:COMPARED].float().cpu().numpy()
            first_s = time.perf_counter() - started

            def steps() -> int:
                with torch.no_grad():
                    for _ in range(self.options.steps):
                        work()
                return size * self.options.steps

            timings = alternate({what: steps}, self.options.rounds, self.device)[what]
        except Exception as error:  # whatever the compiler's tools, the recording or a full memory raise
            self.report.add(what, f"does not work here: {reason(error)}")
            return
        rounds = [timing.rate("wall") for timing in timings]
        rate = self.rates[name, size] = statistics.median(rounds)
        self.report.add(what, rate, "images/s", rounds)
        if (RELEASED, size) in self.rates and name != RELEASED:
            self.report.add(f"{what} / {RELEASED}", rate / self.rates[RELEASED, size], "x")
        self.report.add(f"{what}: share of the matrix product", 100 * self.flops * rate / self.peak, "%")
        self.report.add(f"{what}: first pass", first_s, "s")
        self.report.add(f"{what}: largest difference of a score", float(np.abs(found - self.wanted[:size]).max()))
        self.report.add(f"{what}: Spearman", f"{spearman(found, self.wanted[:size]):.6f}")

    def report_best(self) -> None:
        """Add the fastest and whether the aim is reached."""
        ours = {key: rate for key, rate in self.rates.items() if key[0] != RELEASED}
        if ours:
            name, size = max(ours, key=ours.__getitem__)
            share = self.flops * ours[name, size] / self.peak
            self.report.add("fastest", f"{name}, batch {size}: {ours[name, size]:.4g} images/s")
            what = f"share of the matrix product, aim {AIM_SHARE:.0%}, {reached(share >= AIM_SHARE)}"
            self.report.add(what, 100 * share, "%")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options_of = parser(__doc__ or "")
    options_of.add_argument("--batches", type=int, nargs="+", default=[64])
    usual, rare = ([setting.name for setting in some] for some in (SETTINGS, RARE))
    options = parse_settings(options_of, argv, usual, rare)
    bench = Bench(options, Report("scoring_settings", options))
    if RELEASED in options.only:
        bench.measure_released()
    for setting in (*SETTINGS, *RARE):
        if setting.name in options.only:
            bench.measure(setting)
    bench.report_best()


if __name__ == "__main__":
    main()
