"""What the scripts of this folder share: work measured in turn, facts about the machine, figures for the suite."""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from utils.files import atomic_write

PACKAGES = ("torch", "torchvision", "numpy", "opencv-python", "opencv-python-headless", "pillow", "scikit-image")
PACKAGES += ("onnxruntime", "onnxruntime-gpu")


class Timing(NamedTuple):
    """One call of a piece of work that handled so many images."""

    images: int
    wall_s: float
    cpu_s: float

    def rate(self, clock: str) -> float:
        """Return images per second by the `wall` clock or by processor time (`cpu`)."""
        return self.images / (self.wall_s if clock == "wall" else self.cpu_s)


Work = Callable[[], int]
"""Does something and returns the number of images it handled."""


def alternate(works: Mapping[str, Work], rounds: int, device: str | torch.device = "cpu") -> dict[str, list["Timing"]]:
    """Run all works once, unmeasured, then each once per round, in turn: a busy machine disturbs all alike."""
    device = torch.device(device)
    for work in works.values():
        work()
    timings: dict[str, list[Timing]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            timings[name].append(timed(work, device))
    return timings


def timed(work: Work, device: torch.device) -> Timing:
    """Measure one call, until the device has finished."""
    synchronise(device)
    wall, cpu = time.perf_counter(), time.process_time()
    images = work()
    synchronise(device)
    return Timing(images, time.perf_counter() - wall, time.process_time() - cpu)


def synchronise(device: torch.device) -> None:
    """Wait for a GPU; a CPU has nothing outstanding."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Report:
    """Print figures as they come and keep them; with a path, write them as JSON."""

    def __init__(self, name: str, options: argparse.Namespace):
        """Take the script's name and options, `json` and `device` among them where it has them."""
        self.path: Path | None = getattr(options, "json", None)
        self.name, self.rows = name, []
        self.options = {key: value for key, value in vars(options).items() if key != "json"}
        device = torch.device(getattr(options, "device", "cpu"))
        if device.type == "cuda" and not torch.cuda.is_available():
            raise SystemExit(f"--device {device}: PyTorch finds no CUDA GPU on this machine")
        self.machine = machine(device)
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in self.machine.items()), flush=True)

    def add(self, what: str, value: float | str, unit: str = "", rounds: list[float] | None = None) -> None:
        """Print and keep one figure; `rounds` are the values it is the median of."""
        single = f" ({' '.join(shown(v) for v in rounds)})" if rounds and len(rounds) > 1 else ""
        print(f"{what:58s} {value if isinstance(value, str) else shown(value)} {unit}{single}", flush=True)
        self.rows.append({"what": what, "value": value, "unit": unit, "rounds": rounds or []})
        self.write()

    def compare(self, timings: Mapping[str, list[Timing]], base: str, clock: str = "wall") -> None:
        """Add the rate of every work and its ratio to that of `base`, round by round."""
        rates = {name: [timing.rate(clock) for timing in found] for name, found in timings.items()}
        for name, values in rates.items():
            self.add(name, statistics.median(values), "images/s", values)
        for name, values in rates.items():
            if name != base:
                ratios = [value / other for value, other in zip(values, rates[base], strict=True)]
                self.add(f"{name} / {base}", statistics.median(ratios), "x", ratios)

    def write(self) -> None:
        """Write what there is so far: a later failure loses nothing."""
        if self.path is not None:
            content = {"benchmark": self.name, "machine": self.machine, "options": self.options, "rows": self.rows}
            with atomic_write(self.path, "w") as stream:
                json.dump(content, stream, indent=2, default=str)
                stream.write("\n")


def reason(error: Exception) -> str:
    """Return the beginning of what an error says, in one line."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def shown(value: float) -> str:
    """Return a number with three digits that matter."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:.2g}"


def machine(device: torch.device) -> dict[str, Any]:
    """Return date, processor, threads, device and versions."""
    facts: dict[str, Any] = {"date": datetime.date.today().isoformat(), "cpu": processor(), "cores": os.cpu_count()}
    facts["threads"] = torch.get_num_threads()
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
        facts["cudnn"] = torch.backends.cudnn.version()
    facts["python"] = platform.python_version()
    for package in PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return facts


def processor() -> str:
    """Return the model name of the processor, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def network_module(name: str) -> str:
    """Return the `module:` of a network's short name: compact, mobilefacenet, or a function of model.iresnet."""
    known = {"compact": "model.compact.CompactNet", "mobilefacenet": "model.mobilefacenet.MobileFaceNet"}
    return known.get(name, f"model.iresnet.{name}")


def network_option(options_of: argparse.ArgumentParser) -> None:
    """Add the network and how much of it is trained."""
    options_of.add_argument("--network", default="iresnet100", help="iresnet18 ... iresnet200, compact, mobilefacenet")
    options_of.add_argument("--limit", type=int, help="trained tensors of the backbone; the recipe's 100 without")


def parser(doc: str, rounds: int = 3) -> argparse.ArgumentParser:
    """Return a parser with the options every script has."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--rounds", type=int, default=rounds, help="alternations; the median is printed first")
    found.add_argument("--json", type=Path, help="file for the figures")
    return found
