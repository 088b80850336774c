"""Time evaluate.py on 1,000,000 pairs x 10 methods, files included: python -m benchmarks.edc [--pairs N] [--methods N].

Makes 200,000 names, a pairs list, one .npz of 128-d embeddings and a score file per method in a temporary folder,
then runs evaluate.py as a user does, bootstrap off. Prints the time of the core alone beside it.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

from evaluation.measure.edc import edc
from evaluation.measure.thresholds import fixed_threshold
from evaluation.protocol.embeddings import write_embeddings

ROOT = Path(__file__).resolve().parent.parent
IMAGES, PER_IDENTITY, DIM = 200_000, 20, 128


def write_inputs(folder: Path, pairs: int, methods: int) -> Path:
    """Write names, pairs (half of them mated), embeddings and scores; return the configuration."""
    rng = np.random.default_rng(0)
    names = [f"n{i // PER_IDENTITY:06d}/{i % PER_IDENTITY:04d}_01.jpg" for i in range(IMAGES)]
    quality = rng.normal(size=IMAGES)
    identity = rng.normal(size=(IMAGES // PER_IDENTITY, DIM)).repeat(PER_IDENTITY, axis=0)
    noise = 0.8 * np.exp(-0.4 * quality)[:, None] * rng.normal(size=(IMAGES, DIM))
    write_embeddings(folder / "embeddings.npz", names, (identity + noise).astype(np.float32))
    first = rng.integers(IMAGES, size=pairs)
    mated = np.arange(pairs) < pairs // 2
    partner = first // PER_IDENTITY * PER_IDENTITY + (first + rng.integers(1, PER_IDENTITY, pairs)) % PER_IDENTITY
    other = (first + PER_IDENTITY * rng.integers(1, IMAGES // PER_IDENTITY, pairs)) % IMAGES
    second = np.where(mated, partner, other)
    with open(folder / "pairs.txt", "w") as stream:
        stream.writelines(f"{names[a]} {names[b]} {m:d}\n" for a, b, m in zip(first, second, mated, strict=True))
    scores = {}
    for method in range(methods):
        path = folder / f"scores_{method}.txt"
        values = quality + 0.3 * method * rng.normal(size=IMAGES)
        path.write_text("".join(f"{name} {value:.6f}\n" for name, value in zip(names, values.tolist(), strict=True)))
        scores[f"method {method}"] = {"million": str(path)}
    config = {
        "base": {"save_path": str(folder / "out"), "device": "cpu", "verbose": 0},
        "evaluation": {"bootstrap": 0},
        "datasets": {"million": {"pairs": str(folder / "pairs.txt"), "format": "list"}},
        "recognition": {"network": {"embeddings": {"million": str(folder / "embeddings.npz")}}},
        "scores": scores,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return folder / "config.yaml"


def time_core(pairs: int, methods: int) -> float:
    """Return the seconds for threshold, curves and areas of all methods, arrays in memory."""
    rng = np.random.default_rng(1)
    mated, non_mated = rng.normal(0.6, 0.15, pairs // 2), rng.normal(0, 0.1, pairs - pairs // 2)
    quality = mated[None] + rng.normal(size=(methods, len(mated)))
    start = time.perf_counter()
    threshold = fixed_threshold(non_mated, 1e-3)
    for row in quality:
        edc(mated, row, threshold).pauc(0.3)
    return time.perf_counter() - start


def main() -> None:
    """Print seconds and memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--methods", type=int, default=10)
    args = parser.parse_args()
    core_s = time_core(args.pairs, args.methods)
    with tempfile.TemporaryDirectory() as folder:
        config = write_inputs(Path(folder), args.pairs, args.methods)
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, str(ROOT / "evaluate.py"), "-c", str(config)], check=True, cwd=ROOT)
        wall_s, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{args.pairs:,} pairs x {args.methods} methods, bootstrap off")
    print(f"core (arrays in memory)      {core_s:6.2f} s")
    print(f"evaluate.py, files included  {wall_s:6.2f} s wall, {cpu_s:.2f} s of CPU, {after.ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
