"""Is the loader ever the limit? train_main.py itself on files, and the share of its time that it waits for data.

    python -m benchmarks.loader [--device cuda] [--images 8192] [--batch 256] [--steps 60] [--workers 16]

Writes JPEGs of 200x240 pixels (a few hundred, linked under many names), landmarks and labels by chance, and trains from
random weights: without and with the teacher's cache, which is filled first. `data_share` and `img_per_s` are those of
metrics.jsonl, over the second half of the steps. Where the share is above .05, `benchmarks.data_path` says what
warping on the device would gain.
"""

import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import train_main
from benchmarks.data_path import SIZE
from benchmarks.inference import CONFIGS, write_model
from benchmarks.measuring import Report, network_option, parser, reason
from benchmarks.pictures import write_picture
from data.alignment import CROP_SIZE_PX, TEMPLATE_112
from data.samples.loader import AHEAD

WRITTEN = 256
"""Different files; more names are links to them."""
MOST = 0.05
SHARED = Path("/dev/shm")
CROP_BYTES = 3 * CROP_SIZE_PX**2


def write_inputs(folder: Path, options: Any) -> None:
    """Write images, landmarks.csv, labels.csv and model.yaml."""
    rng = np.random.default_rng(0)
    originals = [folder / f"{i}.jpg" for i in range(min(WRITTEN, options.images))]
    for path in originals:
        write_picture(path, SIZE, rng)
    landmarks = ["path," + ",".join(f"{axis}{i}" for i in range(1, 6) for axis in "xy")]
    labels = ["path,quality"]
    (folder / "faces").mkdir()
    for row in range(options.images):
        name = f"{row:06d}.jpg"
        os.link(originals[row % len(originals)], folder / "faces" / name)
        points = TEMPLATE_112 * rng.uniform(0.9, 1.2) + rng.uniform((40, 50), (60, 80))
        landmarks.append(f"{name}," + ",".join(f"{value:.2f}" for value in points.ravel()))
        labels.append(f"{name},{rng.uniform():.4f}")
    (folder / "landmarks.csv").write_text("\n".join(landmarks) + "\n")
    (folder / "labels.csv").write_text("\n".join(labels) + "\n")
    write_model(folder, options.network)


def train(folder: Path, options: Any, name: str, *overrides: str) -> list[dict[str, float]]:
    """Train; return the lines of the second half of the steps."""
    epochs = -(-options.steps * options.batch // options.images) + 1
    keys = {
        "base.device": options.device,
        "base.save_path": folder / name,
        "base.allow_random_init": 1,
        "base.verbose": 0,
        "base.epochs": epochs,
        "base.max_steps": options.steps,
        "base.log_every": max(1, options.steps // 10),
        "base.validate_every": 1,
        "base.pretrain": 1,
        "dataset.image_location": folder / "faces",
        "dataset.landms_location": folder / "landmarks.csv",
        "dataset.quality_location": folder / "labels.csv",
        "dataset.accept_unusual": 1,
        "model.config": folder / "model.yaml",
        "dataloader.train.params.batch_size": options.batch,
        "dataloader.train.params.num_workers": options.workers,
        "dataloader.val.params.num_workers": 0,
    }
    if options.limit is not None:
        keys["optimizer.group_2.limit"] = options.limit
    words = [f"{key}={value}" for key, value in keys.items()]
    train_main.main(["-c", str(CONFIGS / "train_config.yaml"), *words, *overrides])
    lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "data_share" in line and line["step"] > options.steps / 2]


def report_workers(report: Report, wanted: int, batch: int) -> int:
    """Add how many workers the shared memory bears, which batches of workers pass through, at most so many."""
    workers = wanted
    if SHARED.is_dir() and wanted:
        free = shutil.disk_usage(SHARED).free
        report.add("shared memory, which batches of workers pass through", free / 2**30, "GiB")
        workers = max(1, min(wanted, int(0.8 * free / (AHEAD * batch * 2 * CROP_BYTES))))
    report.add("workers", workers)
    return workers


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options_of = parser(__doc__ or "", rounds=1)
    options_of.add_argument("--device", default="cpu")
    network_option(options_of)
    options_of.add_argument("--images", type=int, default=512)
    options_of.add_argument("--batch", type=int, default=32)
    options_of.add_argument("--steps", type=int, default=20)
    options_of.add_argument("--workers", type=int, default=min(16, os.cpu_count() or 1))
    options = options_of.parse_args(argv)
    report = Report("loader", options)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_inputs(folder, options)
        options.workers = report_workers(report, options.workers, options.batch)
        for name, keys in {"training": (), "training, cached": (f"model.teacher_cache={folder / 'cache'}",)}.items():
            try:
                lines = train(folder, options, name.replace(", ", "-"), *keys)
            except Exception as error:  # whatever the device or too little shared memory for the workers raises
                report.add(f"{name}: from files", f"does not work here: {reason(error)}")
                continue
            rates = [line["img_per_s"] for line in lines]
            share = statistics.median(line["data_share"] for line in lines)
            report.add(f"{name}: from files", statistics.median(rates), "images/s", rates)
            verdict = "the loader is not the limit" if share < MOST else "THE LOADER IS THE LIMIT"
            report.add(f"{name}: data_share, {verdict}", share)


if __name__ == "__main__":
    main()
