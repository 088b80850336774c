"""Score a folder of face images: python inference.py -c configs/inference_config.yaml [key=value ...]."""

import logging
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
import torch

from data.folders import ImageFolder, open_folder
from data.loaders import crop_batches
from data.score_files import Scored, write_failures, write_scores
from data.score_run import Outcome, ScoreRun
from model.scoring import Scorer, load_scorer
from utils import cli, distributed
from utils.config import beside, load_config
from utils.config.inference import InferenceConfig
from utils.config.sections import ModelConfig
from utils.errors import DataError
from utils.files import sha256_file
from utils.precision import pick_device
from utils.progress import progress

logger = logging.getLogger("inference")

ALWAYS = ("pkl", "csv")
SOME_FAILED = 3


@dataclass
class Job:
    """Hold the parts of one scoring run."""

    cfg: InferenceConfig
    scorer: Scorer
    folder: ImageFolder
    run: ScoreRun
    images: int = 0
    started: float = 0.0


def main(argv: Sequence[str] | None = None) -> int:
    """Read the configuration, check everything, score, write the results."""
    command = cli.parse_command(__doc__, argv)
    cfg = load_config(InferenceConfig, command.config, command.overrides)
    model_cfg = load_config(ModelConfig, beside(cfg.model.config, command.config))
    device = pick_device(distributed.local_device(cfg.base.device))
    with distributed.process_group(torch.device("cpu")):  # the processes only wait for each other
        verbose = cfg.base.verbose and distributed.is_main()
        logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(message)s", stream=sys.stderr)
        job = build(cfg, model_cfg, command.allow_modules, device)
        try:
            score(job)
            distributed.barrier()
            return conclude(job) if distributed.is_main() else 0
        finally:
            job.run.close()


def build(cfg: InferenceConfig, model_cfg: ModelConfig, allow_modules: Sequence[str], device: torch.device) -> Job:
    """Check inputs and weights and open the output folder."""
    if not os.path.isdir(cfg.dataset.loc):
        raise DataError(f"{cfg.dataset.loc}: no such folder; name the folder of images in dataset.loc")
    scorer, remark = load_scorer(model_cfg, cfg.model.weight, allow_modules, device, cfg.base.precision)
    if remark:
        logger.info(remark)
    folder = open_folder(cfg.dataset)
    run = ScoreRun(cfg.base.save_path, request(cfg, model_cfg, scorer, folder), len(folder.names))
    if distributed.is_main():
        logger.info(run.open())
    distributed.barrier()
    run.join()
    return Job(cfg, scorer, folder, run)


def request(cfg: InferenceConfig, model_cfg: ModelConfig, scorer: Scorer, folder: ImageFolder) -> dict[str, Any]:
    """Return everything that decides the scores: an unfinished run goes on only where all of it is the same."""
    source = cfg.dataset
    with_landmarks = folder.landmarks is not None
    return {
        "weights_sha256": sha256_file(cfg.model.weight),
        "network": {
            "features": model_cfg.features.model_dump(mode="json", include={"module", "params"}),
            "head": model_cfg.head.model_dump(mode="json"),
        },
        "preprocessing": {
            **scorer.contract.to_dict(),
            "input": source.input,
            "landmarks_sha256": sha256_file(source.landmarks) if with_landmarks else None,
            "key_root": source.key_root if with_landmarks else None,
            "exif": source.exif,
            "max_pixels": source.max_pixels,
        },
        "precision": cfg.base.precision,
        "files": {
            "folder": os.path.abspath(source.loc),
            "count": len(folder.names),
            "sha256": folder.digest(),
        },
    }


def score(job: Job) -> None:
    """Score what is left of the folder, whole batches dealt out to the processes; write each result as it comes."""
    done = job.run.progress().done
    distributed.barrier()  # nobody writes before everybody has read
    rank, size = distributed.rank(), job.cfg.dataloader.params.batch_size
    left = [first for first in range(0, len(done), size) if not done[first : first + size].all()]
    left = left[rank :: distributed.world_size()]
    rows = np.concatenate([np.arange(len(done))[first : first + size] for first in left] or [np.zeros(0, np.int64)])
    job.images, job.started = len(rows), time.perf_counter()
    job.run.start_writing(rank)
    batches = crop_batches(job.folder.crops(rows), size, workers(job))
    warned = False
    with progress(total=len(rows), unit="img", disable=not (job.cfg.base.verbose and rank == 0)) as bar:
        for place, (first, batch) in enumerate(zip(left, batches, strict=True)):
            outcome = Outcome.of(batch, job.scorer(batch.images), place * size)
            job.run.record(first, outcome)
            if outcome.not_square and not warned:
                warned = True
                logger.warning(f"{job.folder.names[rows[batch.not_square[0]]]!r} is not square; is it an aligned crop?")
            bar.update(len(outcome.quality))


def workers(job: Job) -> int:
    """Return the number of decoding processes; beside a CPU network two threads keep up."""
    chosen = job.cfg.dataloader.params.num_workers
    if chosen is not None:
        return chosen
    return 0 if job.scorer.device.type == "cpu" else min(8, os.cpu_count() or 1)


def conclude(job: Job) -> int:
    """Merge what all processes wrote into the final files, say what was done, and return the exit code."""
    cfg, names, state = job.cfg, job.folder.names, job.run.progress()
    if not state.done.all():
        raise DataError(
            f"{job.run.path}: {np.count_nonzero(~state.done)} of {len(names)} images were reached by no process; "
            "run again to go on"
        )
    seconds = time.perf_counter() - job.started
    rows = np.flatnonzero(np.isfinite(state.quality))
    paths = [write_failures(job.run.path, names, state.reasons)]
    if len(rows):
        scored = Scored(cfg.dataset.loc, names.take(rows), state.quality[rows])
        paths += write_scores(job.run.path, scored, (*ALWAYS, *cfg.output.formats))
    counts = {
        "images": len(names),
        "scored": len(rows),
        "failed": len(state.reasons),
        "not_square": state.not_square,
        "other_files": job.folder.other_files,
    }
    job.run.finish({"counts": counts, **facts(job, seconds)})
    if not len(names):
        raise DataError(
            f"{cfg.dataset.loc}: holds no image ({counts['other_files']} other files); images end in jpg, jpeg, jpe, "
            "png, webp, bmp, tif or tiff"
        )
    if not len(rows):
        raise DataError(f"{cfg.dataset.loc}: none of the {len(names)} images could be scored; see {paths[0]}")
    summarise(job, counts, seconds, paths)
    return SOME_FAILED if cfg.base.strict and state.reasons else 0


def facts(job: Job, seconds: float) -> dict[str, Any]:
    """Return what run.json records beside the request and the counts."""
    return {
        "weights": job.cfg.model.weight,
        "percentile": "100 * mean rank / scored images",
        "device": str(job.scorer.device),
        "processes": distributed.world_size(),
        "batch_size": job.cfg.dataloader.params.batch_size,
        "last_session": {"images": job.images, "seconds": round(seconds, 3)},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "opencv": cv2.__version__,
            "pillow": PIL.__version__,
        },
    }


def summarise(job: Job, counts: dict[str, int], seconds: float, paths: list[Path]) -> None:
    """Log what was done and where it is."""
    rate = f", {job.images / seconds:.1f} img/s" if job.images else ""
    logger.info(f"scored {counts['scored']} of {counts['images']} images in {seconds:.1f} s{rate}")
    if counts["not_square"]:
        logger.warning(f"{counts['not_square']} images were not square and have been squeezed: not aligned crops?")
    if counts["failed"]:
        report = logger.error if job.cfg.base.strict else logger.warning
        report(f"{counts['failed']} images have no score; the reasons are in {paths[0]}")
    if counts["other_files"]:
        logger.info(f"{counts['other_files']} other files were left alone")
    logger.info(f"scores: {', '.join(map(str, paths[1:]))}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
