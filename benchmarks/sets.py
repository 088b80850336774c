"""Which scripts are measured on which machine, at which size, and what makes each small enough to be tried."""

from typing import Any, NamedTuple


class Step(NamedTuple):
    """One command of a set."""

    name: str
    arguments: tuple[str, ...]
    """Arguments of `python`, without --json."""
    has_json: bool = True
    small: tuple[str, ...] = ()
    """Arguments that follow where the script is only tried."""
    most_s: float | None = None
    """The longest it may take, where time is limited; None: all that is left."""
    timed: bool = True
    """Its figures are times. Those without run beside one another where they follow one another."""

    def at(self, device: str, small: bool) -> "Step":
        """Return the step on a device of its own choice, at its size or small."""
        if not self.has_json:
            return self
        extra = (*self.small, "--rounds", "1") if small else ()
        return self._replace(arguments=(*self.arguments, "--device", device, *extra))


def benchmark(name: str, *arguments: str, title: str | None = None, **more: Any) -> Step:
    """Return the step that runs a script of this folder."""
    return Step(title or name, ("-m", f"benchmarks.{name}", *arguments), **more)


CPU = (
    benchmark("training_step", "--steps", "1"),
    benchmark("training_step", "--network", "iresnet18", "--limit", "30", "--compile", title="training_step_compiled"),
    benchmark("data_path"),
    benchmark("inference", "--with", "bf16", "onnx", "compiled"),
    benchmark(
        "inference", "--network", "compact", "--images", "2000", "--with", "bf16", "onnx", title="inference_small"
    ),
    benchmark("index"),
)
"""What `make bench` runs."""

TINY = ("--network", "compact", "--limit", "9")
QUICK = (
    benchmark("smoke"),
    benchmark("right", *TINY, "--steps", "2", "--batch", "2"),
    benchmark("training_step", *TINY, "--batches", "2", "4", "--steps", "1"),
    benchmark("data_path", "--images", "8"),
    benchmark("inference", "--network", "compact", "--images", "6", "--with", "bf16"),
    benchmark("index", "--rows", "20000"),
)
"""The scripts of both machines, tiny: does each run?"""

GPU_TESTS = Step(
    "gpu_tests",
    ("-m", "pytest", "-v", "-p", "no:cacheprovider", "-m", "gpu", "tests/test_gpu.py", "tests/test_loaders.py"),
    has_json=False,
    most_s=190,
    timed=False,
)
SLOW_TO_START = ("blocks compiled, folded, fused", "folded, fused, cuDNN searched", "compiled, folded, fused")
SLOW_TO_START += ("compiled, cached, fused", "compiled, CUDA graphs")
FEW = (*TINY, "--batches", "2", "4", "--steps", "1")
GPU = (
    benchmark("smoke", most_s=90),
    benchmark("settings", "--batches", "256", "64", "512", "128", "--steps", "5", small=FEW, most_s=170),
    benchmark("scoring_settings", "--batches", "256", "64", "1024", "--steps", "5", small=FEW, most_s=90),
    GPU_TESTS,
    benchmark("right", "--seconds", "100", small=(*TINY, "--steps", "4", "--batch", "2"), most_s=210, timed=False),
    benchmark(
        "right",
        *("--network", "iresnet18", "--limit", "30", "--formats", "compiled", "--steps", "50"),
        title="right_compiled",
        small=(*TINY, "--steps", "2", "--batch", "2"),
        most_s=190,
        timed=False,
    ),
    benchmark("bounds", "--batch", "256", small=(*TINY, "--batch", "2"), most_s=70),
    benchmark(
        "loader",
        *("--images", "8192", "--batch", "256", "--steps", "60"),
        small=(*TINY, "--images", "40", "--batch", "8", "--steps", "4", "--workers", "0"),
        most_s=90,
    ),
    benchmark(
        "settings",
        *("--batches", "256", "--steps", "5", "--only", "released", "ours", *SLOW_TO_START),
        title="settings_compiled",
        small=(*TINY, "--batches", "2", "--only", "released", "blocks compiled, folded, fused"),
        most_s=130,
    ),
    benchmark("memory", small=TINY, most_s=110),
    benchmark(
        "inference",
        *("--images", "4096", "--batch", "512", "--with", "bf16", "onnx", "--rounds", "2"),
        small=("--network", "compact", "--images", "6", "--batch", "4"),
        most_s=90,
    ),
    benchmark("data_path", small=("--images", "8"), most_s=60),
    benchmark(
        "scoring_settings",
        *("--batches", "256", "--steps", "5", "--only", "released"),
        *("bf16 weights, cuDNN searched", "bf16 weights, compiled", "bf16, compiled"),
        title="scoring_compiled",
        small=(*TINY, "--batches", "2", "--only", "bf16, compiled"),
    ),
)
"""What `make bench-gpu` runs, by value: a lease may end at any moment."""
