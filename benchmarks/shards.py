"""Time and memory of naming and merging 10 million images in 100 .tar files; torchrun deals them to processes.

    python -m benchmarks.shards --folder DIR                                      # makes the files (5 GB) and measures
    torchrun --nproc_per_node 2 -m benchmarks.shards --folder DIR [--images N]    # uses them again

The members are empty and no network runs: random numbers go into the journal in their place, batch by batch. All else
is what inference.py does: opening and sorting, reading the journal, quality-scores.csv and .pkl.
"""

import argparse
import os
import resource
import tarfile
import time
from pathlib import Path

import numpy as np
import torch

from data.samples.crops import FaceCrops
from data.sources.registry import open_dealt
from jobs.image_pass import ImagePass
from jobs.journal import Journal, JournalLine
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
    with distributed.patient_group():
        if distributed.is_main():
            make(args.folder, args.images)
        distributed.barrier()
        said = [
            f"process {distributed.rank()} of {distributed.world_size()}: peak memory in MB ({at_start()} imported)"
        ]
        said += measure(args.folder)
        for lines in distributed.from_each(said):
            print("\n  ".join(lines), flush=True) if distributed.is_main() else None


def at_start() -> int:
    """Return the peak memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


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


def measure(folder: Path) -> list[str]:
    """Open, record and merge; return what each took."""
    place = f"{folder}/part-{{000..{SHARDS - 1:03d}}}.tar"
    cfg = InferenceConfig.model_validate(
        {
            "base": {"save_path": str(folder / "out"), "device": "cpu", "verbose": 0},
            "dataset": {"loc": place},
            "dataloader": {"params": {"batch_size": 128}},
            "model": {"weight": "none.pth", "config": None},
            "output": {"page": 0},
        }
    )
    started, said = time.perf_counter(), []

    def note(what: str) -> None:
        nonlocal started
        said.append(f"{what}: {time.perf_counter() - started:.1f} s, {at_start()} MB")
        started = time.perf_counter()

    dealt = open_dealt(place, folder / "out/partial")
    note(f"{len(dealt.source):,} of {dealt.counts.sum():,} images opened, all names sorted")
    crops, size = FaceCrops(dealt.source, cfg.dataset), cfg.dataloader.params.batch_size
    journal = Journal(cfg.base.save_path, {"files": dealt.digest}, int(dealt.counts.sum()))
    journal.open()
    images = ImagePass(crops, journal, cfg.dataloader.params, False, dealt)
    draws, share = np.random.default_rng(distributed.rank()), journal.share(size, dealt)
    for first, end in zip(share.firsts, share.ends, strict=True):
        journal.append(JournalLine.of(first, draws.random((end - first, 1), np.float32), {}, {}))
    distributed.barrier()
    note("recorded")
    network = TorchNetwork(CompactNet(num_features=8, width=4), InputContract(), torch.device("cpu"))
    session = images.measure_left(lambda crops, rows: np.zeros(len(rows), np.float32))
    note("journal read")
    ScoringRun(cfg, network, images).conclude(session)
    note("merged and written")
    return said


if __name__ == "__main__":
    main()
