"""Time and memory of naming and merging 10 million images in 100 .tar files; torchrun deals them to processes.

    python -m benchmarks.shards --folder DIR                                      # makes the files (5 GB) and measures
    torchrun --nproc_per_node 2 -m benchmarks.shards --folder DIR [--images N]    # uses them again

The members are empty, nothing is decoded and no network runs: random numbers take the place of scores. All else is what
inference.py does: opening and sorting, batches through the decoding threads into the journal, reading it,
quality-scores.csv and .pkl, scores.html with pictures of one pixel.
"""

import argparse
import os
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from data.samples.crops import CropBatch, FaceCrops
from data.sources.registry import open_dealt
from jobs.image_pass import ImagePass, processes
from jobs.journal import Journal
from jobs.scoring import ScoringRun
from model.compact import CompactNet
from model.frozen.network import TorchNetwork
from utils import distributed
from utils.config.inference import InferenceConfig
from utils.contract import InputContract

SHARDS = 100


def main() -> None:
    """Make the files that are missing, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, required=True, help="where the files are kept")
    args = parser.parse_args()
    cfg = configuration(args.folder)
    with processes(cfg.base):
        if distributed.is_main():
            make(args.folder, args.images)
        distributed.barrier()
        place = f"process {distributed.rank()} of {distributed.world_size()}"
        said = [f"{place}: peak memory ({peak()} imported)", *measure(cfg)]
        for lines in distributed.from_each(said):
            print("\n  ".join(lines), flush=True) if distributed.is_main() else None


class UnreadCrops(FaceCrops):
    """Crops of one pixel, of images that nobody reads."""

    def __getitems__(self, wanted: Sequence[int]) -> CropBatch:
        return CropBatch(list(wanted), torch.zeros((len(wanted), 1, 1, 3), dtype=torch.uint8), (), ())


def peak() -> str:
    """Return the largest memory that this process had resident so far, mapped files included."""
    status = Path("/proc/self/status").read_text()
    return f"{int(status.partition('VmHWM:')[2].split()[0]) * 1024 / 1e6:.0f} MB"


def make(folder: Path, images: int) -> None:
    """Write the files, unless they are there; neighbours in the order of names lie in different ones."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(SHARDS):
        path = folder / f"part-{shard:03d}.tar"
        if path.exists():
            continue
        with open(f"{path}.partial", "wb") as stream:
            for row in range(shard, images, SHARDS):
                stream.write(tarfile.TarInfo(f"n{row // 364:06d}/{row % 364:04d}_01.jpg").tobuf(tarfile.USTAR_FORMAT))
            stream.write(bytes(2 * tarfile.BLOCKSIZE))
        os.rename(f"{path}.partial", path)


def configuration(folder: Path) -> InferenceConfig:
    """Return the configuration of the run."""
    return InferenceConfig.model_validate(
        {
            "base": {"save_path": str(folder / "out"), "device": "cpu", "verbose": 0},
            "dataset": {"loc": f"{folder}/part-{{000..{SHARDS - 1:03d}}}.tar"},
            "dataloader": {"params": {"batch_size": 128, "num_workers": 0}},
            "model": {"weight": "none.pth", "config": None},
        }
    )


def measure(cfg: InferenceConfig) -> list[str]:
    """Open, record and merge; return what each took."""
    started, said = time.perf_counter(), []

    def note(what: str) -> None:
        nonlocal started
        said.append(f"{what}: {time.perf_counter() - started:.1f} s, {peak()}")
        started = time.perf_counter()

    dealt = open_dealt(cfg.dataset.loc, Path(cfg.base.save_path) / "partial")
    note(f"{len(dealt.source):,} of {dealt.counts.sum():,} images opened, all names sorted")
    crops = UnreadCrops(dealt.source, cfg.dataset)
    journal = Journal(cfg.base.save_path, {"files": dealt.digest}, int(dealt.counts.sum()))
    journal.open()
    images = ImagePass(crops, journal, cfg.dataloader.params, False, dealt)
    draws = np.random.default_rng(distributed.rank())
    session = images.measure_left(lambda crops, rows: draws.random(len(rows), np.float32))
    note("recorded")
    network = TorchNetwork(CompactNet(num_features=8, width=4), InputContract(), torch.device("cpu"))
    ScoringRun(cfg, network, images).conclude(session)
    note("merged and written")
    return said


if __name__ == "__main__":
    main()
