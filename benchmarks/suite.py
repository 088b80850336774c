"""Run all benchmarks of a machine and put their figures together.

    python -m benchmarks.suite [--out OUT] [--only NAME ...] [--seconds S] [--quick]
    python -m benchmarks.suite --gpu [--device cpu] [--small] [--out OUT] [--only NAME ...] [--seconds S]

`make bench` runs the set of a CPU, `make bench-gpu` that of a GPU, with the tests that need one; with DEVICE=cpu and
SMALL=1 it tries the same commands on any machine. benchmarks/sets.py lists both. What the scripts print goes to
OUT/log.txt, their figures to OUT/results.json and, as tables, to OUT/results.md, after each script; those that take no
times run beside one another. `--only` runs some and keeps the figures of the others that OUT holds. A script that
fails, as for want of a package, is named with its last line; the others still run, and the exit code is 1.
"""

import argparse
import importlib
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.sets import CPU, GPU, QUICK, Step
from utils.files import atomic_write

ROOT = Path(__file__).resolve().parent.parent
NO_TIME = "no time was left for it"
PATIENCE_S = 5
"""How long the last words of a script are waited for: workers that a killed one leaves behind hold its output open."""


def named(step: Step) -> dict[str, Any]:
    """Return what stands above the figures of a step."""
    return {"name": step.name, "command": f"python {shlex.join(step.arguments)}"}


def run(step: Step, log: Path, seconds: float | None = None, beside: int = 0) -> dict[str, Any]:
    """Run one step, adding what it prints to the log; return its figures, and the line it failed with if it did.

    A step that takes longer than so many seconds is stopped; the figures it had by then count. While it runs they lie
    in unfinished-NAME.json beside the log, so that a machine that is taken away leaves them. Where so many others run
    beside it, its name begins its lines and it has its part of the cores: threads of several processes that wait for
    one another on one core take many times as long.
    """
    label = f"[{step.name}] " if beside else ""
    environment = dict(os.environ)
    if beside:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // (1 + beside))))
    result = named(step)
    say(f"\n{label}== {result['command']}\n", log)
    figures = log.with_name(f"unfinished-{step.name}.json")
    figures.unlink(missing_ok=True)
    extra = ["--json", str(figures)] if step.has_json else []
    process = subprocess.Popen(
        [sys.executable, *step.arguments, *extra],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    lines: list[str] = []
    listener = threading.Thread(target=listen, args=(process, lines, log, label), daemon=True)
    listener.start()
    late = False
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        late = True
    finally:
        process.kill()
        process.wait()
    listener.join(PATIENCE_S)
    if late:
        lines.append(f"stopped after {seconds:.0f} s")
    if figures.exists():
        result |= json.loads(figures.read_text())
        figures.unlink()
    if process.returncode:
        result["failed"] = next((line for line in reversed(lines) if line), f"exit code {process.returncode}")
    elif not extra:
        result["rows"] = [{"what": "outcome", "value": lines[-1] if lines else "", "unit": "", "rounds": []}]
    return result


def listen(process: subprocess.Popen, lines: list[str], log: Path, label: str) -> None:
    """Print, log and keep what a process says."""
    for line in process.stdout or ():
        lines.append(line.strip())
        say(label + line, log)


def say(words: str, log: Path) -> None:
    """Print and log."""
    print(words, end="", flush=True)
    with open(log, "a") as stream:
        stream.write(words)


def markdown(results: list[dict]) -> str:
    """Return one table per script."""
    parts = ["# Measured\n"]
    for result in results:
        parts.append(f"## {result['name']}\n\n`{result['command']}`\n")
        if "machine" in result:
            parts.append(", ".join(f"{key} {value}" for key, value in result["machine"].items()) + "\n")
        if "failed" in result:
            parts.append(f"**Did not finish:** {result['failed']}\n")
        if result.get("rows"):
            rows = ["| what | median | rounds |", "|---|---|---|"]
            for row in result["rows"]:
                rounds = " ".join(_shown(value) for value in row["rounds"]) if len(row["rounds"]) > 1 else ""
                rows.append(f"| {row['what']} | {_shown(row['value'])} {row['unit']} | {rounds} |")
            parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,.4g}"


def missing_packages() -> list[str]:
    """Return which packages the scripts of the set import and this Python lacks, or has without what they need."""
    names = ("torchvision", "numpy", "pydantic", "yaml", "cv2", "pyarrow", "skimage", "scipy", "tqdm", "pytest")
    names += ("hypothesis", "onnx", "onnxscript", "onnxruntime")
    missing = []
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # a library of the system that is missing, versions that do not fit
            missing.append(name if getattr(error, "name", None) == name else f"{name} ({error})")
    return missing


def earlier(path: Path) -> dict[str, dict]:
    """Return the results that a file holds, by name."""
    try:
        return {result["name"]: result for result in json.loads(path.read_text())}
    except FileNotFoundError:
        return {}


def groups(steps: Sequence[Step]) -> list[list[Step]]:
    """Return the steps in their order, those without times that follow one another together."""
    found: list[list[Step]] = []
    for step in steps:
        if found and not step.timed and not found[-1][-1].timed:
            found[-1].append(step)
        else:
            found.append([step])
    return found


class Measured:
    """The results so far, in a folder."""

    def __init__(self, steps: Sequence[Step], out: Path, found: dict[str, dict]):
        self.steps, self.out, self.found = steps, out, found
        self.lock = threading.Lock()

    def run(self, group: Sequence[Step], left: float | None) -> None:
        """Run steps beside one another; for all that follow so many seconds are left, None: no limit."""

        def one(step: Step) -> None:
            limit = None if left is None else min(left, left if step.most_s is None else step.most_s)
            if limit is not None and limit <= 0:
                self.keep({**named(step), "failed": NO_TIME})
            else:
                self.keep(run(step, self.out / "log.txt", limit, beside=len(group) - 1))

        with ThreadPoolExecutor(len(group)) as pool:
            for _ in pool.map(one, group):
                pass

    def keep(self, result: dict) -> None:
        """Write what there is, with this result."""
        with self.lock:
            self.found[result["name"]] = result
            results = [self.found[step.name] for step in self.steps if step.name in self.found]
            for name, text in (("json", json.dumps(results, indent=2) + "\n"), ("md", markdown(results))):
                with atomic_write(self.out / f"results.{name}", "w") as stream:
                    stream.write(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run, write, and say what failed."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true", help="the set of a GPU")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help="where the set of a GPU runs")
    parser.add_argument("--small", action="store_true", help="the set of a GPU with tiny networks: does it run?")
    parser.add_argument("--out", type=Path, default=ROOT / "runs/bench")
    parser.add_argument("--quick", action="store_true", help="tiny networks and sets: does every script run?")
    parser.add_argument("--seconds", type=float, help="for all scripts together; what does not fit is named")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these scripts alone")
    options = parser.parse_args(argv)
    steps = CPU
    if options.gpu:
        steps = tuple(step.at(options.device, options.small) for step in GPU)
    elif options.quick:
        steps = tuple(step._replace(arguments=(*step.arguments, "--rounds", "1")) for step in QUICK)
    if unknown := set(options.only) - {step.name for step in steps}:
        known = ", ".join(step.name for step in steps)
        parser.error(f"--only {' '.join(sorted(unknown))}: no such script in this set; there are {known}")
    options.out.mkdir(parents=True, exist_ok=True)
    if missing := missing_packages():
        print(f"not installed here: {', '.join(missing)}; what needs them is named as not finished")
    found = earlier(options.out / "results.json") if options.only else {}
    wanted = [step for step in steps if not options.only or step.name in options.only]
    measured = Measured(steps, options.out, found)
    for group in groups(wanted):
        measured.run(group, None if options.seconds is None else options.seconds - (time.monotonic() - started))
    failed = [step.name for step in wanted if "failed" in found[step.name]]
    print(f"\nfigures: {options.out / 'results.md'}" + (f"; did not finish: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
