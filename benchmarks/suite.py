"""Run all benchmarks of a machine and put their figures together: python -m benchmarks.suite [--device cuda] [--quick].

`make bench` runs it on a CPU, `make bench-gpu` on a CUDA GPU, where it also runs the tests that need one. What each
script prints goes to OUT/NAME.txt, its figures to OUT/NAME.json, all of them to OUT/results.md. A script that fails, as
for want of a package, is named with its last line; the others still run, and the exit code is 1.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Step(NamedTuple):
    """One command of the set."""

    name: str
    arguments: tuple[str, ...]
    """Arguments of `python`, without --json."""
    has_json: bool = True


def benchmark(name: str, *arguments: str, title: str | None = None) -> Step:
    """Return the step that runs a script of this folder."""
    return Step(title or name, ("-m", f"benchmarks.{name}", *arguments))


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
GPU_TESTS = Step("gpu_tests", ("-m", "pytest", "-q", "-rs", "-m", "gpu", "tests"), has_json=False)
CUDA = (
    GPU_TESTS,
    benchmark(
        "training_step", "--device", "cuda", "--batches", "64", "128", "256", "512", "--steps", "20", "--compile"
    ),
    benchmark("data_path", "--device", "cuda"),
    benchmark(
        "inference", "--device", "cuda", "--images", "20000", "--batch", "512", "--with", "bf16", "onnx", "compiled"
    ),
    benchmark("index"),
)
QUICK = (
    benchmark("training_step", "--network", "compact", "--limit", "9", "--batches", "2", "4", "--steps", "1"),
    benchmark("data_path", "--images", "8"),
    benchmark("inference", "--network", "compact", "--images", "6", "--with", "bf16"),
    benchmark("index", "--rows", "20000"),
)


def run(step: Step, folder: Path) -> dict[str, object]:
    """Run one step; return its figures, or the line it failed with."""
    extra = ["--json", str(folder / f"{step.name}.json")] if step.has_json else []
    command = [sys.executable, *step.arguments, *extra]
    print(f"\n== python {' '.join(step.arguments)}", flush=True)
    lines = []
    with (
        open(folder / f"{step.name}.txt", "w") as log,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process,
    ):
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            log.write(line)
            lines.append(line.strip())
    result: dict[str, object] = {"name": step.name, "command": f"python {' '.join(step.arguments)}"}
    if extra and os.path.exists(extra[1]):
        result |= json.loads(Path(extra[1]).read_text())
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
    """Return which packages the scripts of the set import and this Python lacks."""
    names = ("torch", "torchvision", "numpy", "pydantic", "yaml", "cv2", "pyarrow", "skimage", "onnxruntime", "pytest")
    return [name for name in names if importlib.util.find_spec(name) is None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run, write, and say what failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=ROOT / "runs/bench")
    parser.add_argument("--quick", action="store_true", help="tiny networks and sets: does every script run?")
    options = parser.parse_args(argv)
    steps = CPU if options.device == "cpu" else CUDA
    if options.quick:
        steps = tuple(step._replace(arguments=(*step.arguments, "--rounds", "1")) for step in QUICK)
    options.out.mkdir(parents=True, exist_ok=True)
    if missing := missing_packages():
        print(f"not installed here: {', '.join(missing)}; what needs them is named as not finished")
    results = []
    for step in steps:
        results.append(run(step, options.out.resolve()))
        (options.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
        (options.out / "results.md").write_text(markdown(results))
    failed = [result["name"] for result in results if "failed" in result]
    print(f"\nfigures: {options.out / 'results.md'}" + (f"; did not finish: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
