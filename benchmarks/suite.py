"""Run all benchmarks of a machine and put their figures together.

    python -m benchmarks.suite [--out OUT] [--only NAME ...] [--seconds S] [--quick]
    python -m benchmarks.suite --gpu [--device cpu] [--small] [--out OUT] [--only NAME ...] [--seconds S]

`make bench` runs the set of a CPU, `make bench-gpu` that of a GPU, with the tests that need one; with DEVICE=cpu and
SMALL=1 it tries the same commands on any machine. benchmarks/sets.py lists both. What the scripts print goes to
OUT/log.txt, their figures to OUT/results.json and, as tables, to OUT/results.md, after each script. `--only` runs some
and keeps the figures of the others that OUT holds. A script that fails, as for want of a package, is named with its
last line; the others still run, and the exit code is 1.
"""

import argparse
import importlib
import json
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.sets import CPU, GPU, QUICK, Step

ROOT = Path(__file__).resolve().parent.parent


NO_TIME = "no time was left for it"


def named(step: Step) -> dict[str, object]:
    """Return what stands above the figures of a step."""
    return {"name": step.name, "command": f"python {shlex.join(step.arguments)}"}


def run(step: Step, log: Path, seconds: float | None = None) -> dict[str, object]:
    """Run one step, adding what it prints to the log; return its figures, and the line it failed with if it did.

    A step that takes longer than so many seconds is stopped; the figures it had by then count.
    """
    result: dict[str, object] = named(step)
    print(f"\n== {result['command']}", flush=True)
    lines = []
    with tempfile.TemporaryDirectory() as temporary, open(log, "a") as stream:
        figures = Path(temporary) / "figures.json"
        extra = ["--json", str(figures)] if step.has_json else []
        stream.write(f"\n== {result['command']}\n")
        command = [sys.executable, *step.arguments, *extra]
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            stop = threading.Timer(seconds or threading.TIMEOUT_MAX, process.kill)
            stop.daemon = True
            stop.start()
            for line in process.stdout:
                sys.stdout.write(line)
                sys.stdout.flush()
                stream.write(line)
                stream.flush()
                lines.append(line.strip())
            stop.cancel()
        if figures.exists():
            result |= json.loads(figures.read_text())
    if process.returncode == -signal.SIGKILL and seconds:
        lines.append(f"stopped after {seconds:.0f} s")
    if process.returncode:
        result["failed"] = next((line for line in reversed(lines) if line), f"exit code {process.returncode}")
    elif not extra:
        result["rows"] = [{"what": "outcome", "value": lines[-1] if lines else "", "unit": "", "rounds": []}]
    return result


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
        except ImportError as error:
            missing.append(name if error.name == name else f"{name} ({error})")
    return missing


def earlier(path: Path) -> dict[str, dict]:
    """Return the results that a file holds, by name."""
    try:
        return {result["name"]: result for result in json.loads(path.read_text())}
    except FileNotFoundError:
        return {}


def main(argv: Sequence[str] | None = None) -> int:
    """Run, write, and say what failed."""
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
    started = time.monotonic()
    for step in wanted:
        left = options.seconds and options.seconds - (time.monotonic() - started)
        fits = left is None or left > 0
        limit = left and min(left, step.share * options.seconds)
        found[step.name] = run(step, options.out / "log.txt", limit) if fits else {**named(step), "failed": NO_TIME}
        results = [found[known.name] for known in steps if known.name in found]
        (options.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
        (options.out / "results.md").write_text(markdown(results))
    failed = [step.name for step in wanted if "failed" in found[step.name]]
    print(f"\nfigures: {options.out / 'results.md'}" + (f"; did not finish: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
