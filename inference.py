"""Score a folder of face images: python inference.py -c configs/inference_config.yaml [key=value ...]."""

import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.samples.folders import ImageFolder, open_folder
from data.tables.scores import Scored, write_failures, write_scores
from jobs.score_pass import measure_left, warn_of_sizes, with_workers
from jobs.score_run import ScoreRun
from model.frozen.base import FrozenNetwork
from model.frozen.load import NetworkLoader, scorer_spec
from model.frozen.onnx_network import is_onnx
from model.registry import NetworkBuilder
from model.sharing.files import recorded_model
from utils import cli, distributed
from utils.config import beside, load_config
from utils.config.inference import InferenceConfig
from utils.config.sections import ModelConfig
from utils.errors import DataError
from utils.files import sha256_file
from utils.training.precision import pick_device

logger = logging.getLogger("inference")

ALWAYS = ("pkl", "csv")
SOME_FAILED = 3


@dataclass
class Job:
    """Hold the parts of one scoring run."""

    cfg: InferenceConfig
    scorer: FrozenNetwork
    folder: ImageFolder
    run: ScoreRun


def main(argv: Sequence[str] | None = None) -> int:
    """Read the configuration, check everything, score, write the results."""
    command = cli.parse_command(__doc__, argv)
    cfg = load_config(InferenceConfig, command.config, command.overrides)
    model_cfg = network_config(cfg, command.config)
    device = pick_device(distributed.local_device(cfg.base.device))
    with distributed.process_group(torch.device("cpu"), patience_h=24 * 365):  # they only wait for each other
        verbose = cfg.base.verbose and distributed.is_main()
        logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(message)s", stream=sys.stderr)
        job = build(cfg, model_cfg, NetworkLoader(NetworkBuilder(command.allowed), device))
        try:
            started = time.perf_counter()
            loader = with_workers(cfg.dataloader.params, device)
            images = measure_left(
                job.folder, job.run, loader, lambda crops, rows: job.scorer.qualities(crops), cfg.base.verbose
            )
            distributed.barrier()
            return conclude(job, images, started) if distributed.is_main() else 0
        finally:
            job.run.close()


def network_config(cfg: InferenceConfig, config: str) -> ModelConfig | None:
    """Return the network's configuration: as given, or as an exported file records it; an ONNX file needs none."""
    if is_onnx(cfg.model.weight):
        return None
    if cfg.model.config is None:
        return recorded_model(cfg.model.weight)
    return load_config(ModelConfig, beside(cfg.model.config, config))


def build(cfg: InferenceConfig, model_cfg: ModelConfig | None, loader: NetworkLoader) -> Job:
    """Check inputs and weights and open the output folder."""
    if not os.path.isdir(cfg.dataset.loc):
        raise DataError(f"{cfg.dataset.loc}: no such folder; name the folder of images in dataset.loc")
    scorer = loader.load(scorer_spec(model_cfg, cfg.model.weight, cfg.base.precision))
    if scorer.remark:
        logger.info(scorer.remark)
    folder = open_folder(cfg.dataset)
    run = ScoreRun(cfg.base.save_path, request(cfg, model_cfg, scorer, folder), len(folder.names))
    if distributed.is_main():
        logger.info(run.open())
    distributed.barrier()
    run.join()
    return Job(cfg, scorer, folder, run)


def request(
    cfg: InferenceConfig, model_cfg: ModelConfig | None, scorer: FrozenNetwork, folder: ImageFolder
) -> dict[str, Any]:
    """Return everything that decides the scores: an unfinished run goes on only where all of it is the same."""
    source = cfg.dataset
    with_landmarks = folder.landmarks is not None
    network: dict[str, Any] = {"format": "onnx"}
    if model_cfg is not None:
        network = {
            "features": model_cfg.features.model_dump(mode="json", include={"module", "params"}),
            "head": model_cfg.head.model_dump(mode="json"),
        }
    return {
        "weights_sha256": sha256_file(cfg.model.weight),
        "network": network,
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
            "sha256": folder.names.digest(),
        },
    }


def conclude(job: Job, images: int, started: float) -> int:
    """Merge what all processes wrote into the final files, say what was done, and return the exit code."""
    cfg, names, state = job.cfg, job.folder.names, job.run.result()
    seconds = time.perf_counter() - started
    rows = np.flatnonzero(np.isfinite(state.quality))
    with job.run.saving():
        paths = [write_failures(job.run.path, names, state.reasons)]
        if len(rows):
            scored = Scored(cfg.dataset.loc, names.take(rows), state.quality[rows])
            paths += write_scores(job.run.path, scored, (*ALWAYS, *cfg.output.formats))
    counts = {
        "images": len(names),
        "scored": len(rows),
        "failed": len(state.reasons),
        "not_square": state.not_square,
        "resized": state.resized,
        "other_files": job.folder.other_files,
    }
    session = {"images": images, "seconds": round(seconds, 3)}
    job.run.finish({"counts": counts, **facts(job), "last_session": session})
    if not len(names):
        raise DataError(
            f"{cfg.dataset.loc}: holds no image ({counts['other_files']} other files); images end in jpg, jpeg, jpe, "
            "png, webp, bmp, tif or tiff"
        )
    if not len(rows):
        raise DataError(f"{cfg.dataset.loc}: none of the {len(names)} images could be scored; see {paths[0]}")
    rate = f", {images / seconds:.1f} img/s" if images else ""
    logger.info(f"scored {counts['scored']} of {counts['images']} images in {seconds:.1f} s{rate}")
    summarise(cfg, counts, paths)
    return SOME_FAILED if cfg.base.strict and state.reasons else 0


def facts(job: Job) -> dict[str, Any]:
    """Return what run.json records beside the request, the counts and the versions."""
    return {
        "weights": job.cfg.model.weight,
        "percentile": "100 * mean rank / scored images",
        "device": str(job.scorer.device),
        "processes": distributed.world_size(),
        "batch_size": job.cfg.dataloader.params.batch_size,
    }


def summarise(cfg: InferenceConfig, counts: dict[str, int], paths: list[Path]) -> None:
    """Log what needs a look and where the files are."""
    warn_of_sizes(counts)
    if counts["failed"]:
        report = logger.error if cfg.base.strict else logger.warning
        report(f"{counts['failed']} images have no score; the reasons are in {paths[0]}")
    if counts["other_files"]:
        logger.info(f"{counts['other_files']} other files were left alone")
    logger.info(f"scores: {', '.join(map(str, paths[1:]))}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
