"""Time and memory of the index at VGGFace2 size: ours and the released path, alternating, each in a fresh process.

    python -m benchmarks.index [--rows 3141890] [--rounds 1] [--folder DIR [--prepare]]

At full size it makes 3.1 million files (minutes; --folder keeps them for the next time) and the released path takes
11 GB with its workers. Makes an image folder of empty files, a landmark CSV in VGGFace2's form and a label CSV with a
leading `train/`, then measures: first build, opening from the cache, memory above a process that has imported the same
modules, and the memory of four loader workers before and after they have read every row.
"""

import argparse
import contextlib
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader

from benchmarks.measuring import Report, parser
from data.index.build import FaceIndex, build_index
from utils.config.train import DatasetConfig

ROWS = 3_141_890
PER_IDENTITY = 364
BATCH = 2048
WORKERS = 4
READY = "ready"
TITLES = {"released": "released", "first": "ours, first build", "cached": "ours, from the cache"}
FIGURES = {
    "seconds": ("time", "s"),
    "cpu_seconds": ("processor time", "s"),
    "peak": ("memory added, peak", "MB"),
    "after": ("memory added, afterwards", "MB"),
    "pss_early": ("main and four workers, early in an epoch", "MB"),
    "pss_late": ("main and four workers, at its end", "MB"),
}


def name(row: int) -> str:
    """Return VGGFace2's form of a name, without suffix."""
    return f"n{row // PER_IDENTITY + 1:06d}/{row % PER_IDENTITY + 1:04d}_01"


def make(folder: Path, rows: int) -> None:
    """Write the images (empty files) and the two CSVs."""
    rng = np.random.default_rng(0)
    images = folder / "images"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "landmarks.csv", "w") as landmarks, open(folder / "labels.csv", "w") as labels:
        landmarks.write("NAME_ID," + ",".join(f"P{n}{axis}" for n in range(1, 6) for axis in "XY") + "\n")
        labels.write("path,quality\n")
        for start in range(0, rows, PER_IDENTITY):
            (images / name(start)).parent.mkdir(parents=True)
            stop = min(rows, start + PER_IDENTITY)
            points = np.round(rng.uniform(20, 200, (stop - start, 10)), 3)
            scores = np.round(rng.uniform(0, 1, stop - start), 6)
            for row in range(start, stop):
                os.close(os.open(images / f"{name(row)}.jpg", os.O_CREAT))
                numbers = ",".join(f"{value:.3f}" for value in points[row - start])
                landmarks.write(f'"{name(row)}",{numbers}\n')
                labels.write(f"train/{name(row)}.jpg,{scores[row - start]:.6f}\n")
    (folder / READY).touch()


def ours(folder: Path, cache: str | None) -> FaceIndex:
    """Build or open our index."""
    location = {"image_location": folder / "images", "landms_location": folder / "landmarks.csv"}
    location["quality_location"] = folder / "labels.csv"
    return build_index(DatasetConfig(**{key: str(path) for key, path in location.items()}, cache=cache))[0]


def released(folder: Path) -> list[tuple]:
    """Walk, two dicts, a list of tuples, sort by quality, set difference, as the released code does."""
    with open(folder / "landmarks.csv", newline="") as stream:
        rows = csv.reader(stream)
        next(rows)
        landmarks = {row[0]: tuple(map(float, row[1:])) for row in rows}
    with open(folder / "labels.csv", newline="") as stream:
        rows = csv.reader(stream)
        next(rows)
        qualities = {row[0].removeprefix("train/").removesuffix(".jpg"): float(row[1]) for row in rows}
    items = []
    for parent, _, files in os.walk(folder / "images"):
        for file in files:
            key = f"{os.path.basename(parent)}/{file.removesuffix('.jpg')}"
            items.append((os.path.join(parent, file), landmarks[key], qualities[key]))
    items.sort(key=lambda item: item[2])
    held_out = items[::100]
    return sorted(set(items) - set(held_out))


class Rows:
    """Read rows of an index as a data set does, without the image."""

    def __init__(self, index: FaceIndex | list):
        self.index = index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, row: int) -> float:
        """Touch name, landmarks and label."""
        if isinstance(self.index, list):
            path, points, label = self.index[row]
            return len(path) + points[0] + label
        return (
            len(self.index.source.describe(row))
            + float(self.index.landmarks[row, 0, 0])
            + float(self.index.labels[row])
        )


class Batches:
    """Draw the rows of an epoch at random, batch by batch, as the sampler of training does."""

    def __init__(self, count: int):
        self.order = np.random.default_rng(1).permutation(count)
        self.size = min(BATCH, max(1, count // (16 * WORKERS)))

    def __len__(self) -> int:
        return -(-len(self.order) // self.size)

    def __iter__(self) -> Iterator[list[int]]:
        return (self.order[start : start + self.size].tolist() for start in range(0, len(self.order), self.size))


def memory_mb(pid: int | str, field: str, file: str = "status") -> float:
    """Read a field of /proc, in MB."""
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    return 0.0


def workers_mb(index: FaceIndex | list) -> dict[str, float]:
    """Return PSS and private memory of four workers, early in an epoch and at its end."""
    batches = Batches(len(index))
    loader = iter(DataLoader(Rows(index), batch_sampler=batches, num_workers=WORKERS))
    found = {}
    for count, _ in enumerate(loader, 1):
        if count in (WORKERS, len(batches) - 2 * WORKERS):
            label = "early" if count == WORKERS else "late"
            pids = [worker.pid for worker in loader._workers]
            found[f"pss_{label}"] = sum(memory_mb(pid, "Pss", "smaps_rollup") for pid in (*pids, "self"))
            found[f"private_{label}"] = sum(memory_mb(pid, "Private_Dirty", "smaps_rollup") for pid in pids) / WORKERS
    return found


def measure(kind: str, folder: Path) -> None:
    """Build one index in this process and print its figures as JSON."""
    Path("/proc/self/clear_refs").write_text("5")
    before = memory_mb("self", "VmRSS")
    start, cpu_start = time.perf_counter(), time.process_time()
    index = released(folder) if kind == "released" else ours(folder, str(folder / "cache"))
    figures = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu_start}
    figures |= {"peak": memory_mb("self", "VmHWM") - before, "after": memory_mb("self", "VmRSS") - before}
    figures |= workers_mb(index) if kind != "first" else {}
    sys.stdout.write(json.dumps(figures) + "\n")


def run(kind: str, folder: Path) -> dict[str, float]:
    """Measure in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.index", "--measure", kind, "--folder", str(folder)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main() -> None:
    """Make the files, measure, print the ratios."""
    options_of = parser(__doc__, rounds=1)
    options_of.add_argument("--rows", type=int, default=ROWS)
    options_of.add_argument("--folder", type=Path, help="keep the files there, and use them when they are there")
    options_of.add_argument("--prepare", action="store_true", help="make the files and stop")
    options_of.add_argument("--measure", choices=("released", "first", "cached"), help=argparse.SUPPRESS)
    options = options_of.parse_args()
    if options.measure:
        measure(options.measure, options.folder)
        return
    with tempfile.TemporaryDirectory() if options.folder is None else contextlib.nullcontext(options.folder) as place:
        folder = Path(place)
        if not (folder / READY).exists():
            make(folder, options.rows)
        if not options.prepare:
            compare(folder, options)


def compare(folder: Path, options: argparse.Namespace) -> None:
    """Measure ours and the released path in turn."""
    report = Report("index", options)
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in ("released", "first", "cached")}
    for _ in range(options.rounds):
        shutil.rmtree(folder / "cache", ignore_errors=True)
        for kind, rounds in found.items():
            rounds.append(run(kind, folder))
    base = found["released"]
    for kind, title in TITLES.items():
        for key, (what, unit) in FIGURES.items():
            values = [figures[key] for figures in found[kind] if key in figures]
            if values:
                report.add(f"{title}: {what}", statistics.median(values), unit, values)
    for kind in ("first", "cached"):
        ratios = [b["seconds"] / f["seconds"] for b, f in zip(base, found[kind], strict=True)]
        report.add(f"{TITLES['released']} / {TITLES[kind]}: time", statistics.median(ratios), "x", ratios)
    ratios = [b["pss_late"] / f["pss_late"] for b, f in zip(base, found["cached"], strict=True)]
    report.add("released / ours: memory of main and four workers", statistics.median(ratios), "x", ratios)
    growth = [f["private_late"] - f["private_early"] for f in found["cached"]]
    report.add("ours: growth of a worker over an epoch", statistics.median(growth), "MB", growth)


if __name__ == "__main__":
    main()
