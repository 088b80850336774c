"""Label a folder for training by a label source: python label.py -c configs/label_config.yaml [key=value ...]."""

import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.samples.folders import ImageFolder, open_folder
from data.tables.scores import LABELS, write_failures, write_labels
from jobs.score_pass import measure_left, warn_of_sizes, with_workers
from jobs.score_run import PARTIAL, ScoreRun
from model.frozen.load import NetworkLoader
from model.label_sources import LabelSource, PopulationSource, build_source, label_schema
from model.label_sources.base import named_seed
from model.registry import NetworkBuilder
from utils import cli, distributed
from utils.config import beside, load_config
from utils.config.label import LabelConfig
from utils.config.sections import ModelConfig
from utils.errors import DataError, UserError
from utils.files import allocate, sha256_file
from utils.training.precision import pick_device

logger = logging.getLogger("label")

SOME_FAILED = 3


@dataclass
class Job:
    """Hold the parts of one labelling run."""

    cfg: LabelConfig
    weight: str | None
    source: LabelSource
    folder: ImageFolder
    run: ScoreRun
    embeddings: np.ndarray | None = None
    """(N, D) float32 on disk, for sources that compare images with each other."""

    @property
    def device(self) -> torch.device:
        """Return where the network is."""
        return self.source.network.device


def main(argv: Sequence[str] | None = None) -> int:
    """Read the configuration, check everything, label, write the results."""
    command = cli.parse_command(__doc__, argv)
    cfg = load_config(label_schema(), command.config, command.overrides)
    model_cfg = load_config(ModelConfig, beside(cfg.model.config, command.config))
    device = pick_device(distributed.local_device(cfg.base.device))
    with distributed.process_group(torch.device("cpu"), patience_h=24 * 365):  # they only wait for each other
        verbose = cfg.base.verbose and distributed.is_main()
        logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(message)s", stream=sys.stderr)
        job = build(cfg, model_cfg, NetworkLoader(NetworkBuilder(command.allowed), device))
        try:
            started = time.perf_counter()
            loader = with_workers(cfg.dataloader.params, device)
            images = measure_left(job.folder, job.run, loader, lambda *batch: measure(job, *batch), cfg.base.verbose)
            distributed.barrier()
            return conclude(job, images, started) if distributed.is_main() else 0
        finally:
            job.run.close()


def build(cfg: LabelConfig, model_cfg: ModelConfig, loader: NetworkLoader) -> Job:
    """Check inputs and weights and open the output folder."""
    weight = cfg.model.weight or model_cfg.features.weights
    folder = sampled(open_folder(cfg.dataset), cfg)
    source = build_source(cfg, model_cfg, loader)
    for line in filter(None, (source.network.remark, source.remark)):
        logger.info(line)
    run = ScoreRun(cfg.base.save_path, request(cfg, model_cfg, weight, folder, source), len(folder.names))
    if distributed.is_main():
        logger.info(run.open())
        for name in LABELS:
            (run.path / name).unlink(missing_ok=True)
    distributed.barrier()
    run.join()
    embeddings = open_embeddings(run, source) if isinstance(source, PopulationSource) else None
    return Job(cfg, weight, source, folder, run, embeddings)


def sampled(folder: ImageFolder, cfg: LabelConfig) -> ImageFolder:
    """Keep `dataset.sample` images, those whose names, hashed with the seed, come first."""
    wanted = cfg.dataset.sample
    if wanted is None or wanted >= len(folder.names):
        return folder
    ranks = np.array([named_seed(cfg.base.seed, f"sample\0{name}") for name in folder.names])
    rows = np.sort(np.argsort(ranks, kind="stable")[:wanted])
    landmarks = None if folder.landmarks is None else folder.landmarks[rows]
    return folder._replace(names=folder.names.take(rows), landmarks=landmarks)


def request(
    cfg: LabelConfig, model_cfg: ModelConfig, weight: str | None, folder: ImageFolder, source: LabelSource
) -> dict[str, Any]:
    """Return everything that decides the labels: an unfinished run goes on only where all of it is the same."""
    settings = cfg.source.settings
    return {
        "source": {
            "name": cfg.source.name,
            "rows_per_pass": cfg.source.rows_per_pass,
            **(settings.model_dump(mode="json") if settings else {}),
        },
        "seed": cfg.base.seed,
        "draws": source.network.device.type if source.draws_on_device else None,
        "weights_sha256": sha256_file(weight) if weight else None,
        "model": model_cfg.model_dump(mode="json", exclude={"features": {"weights"}, "teacher": True}),
        "dataset": cfg.dataset.model_dump(mode="json", exclude={"loc", "landmarks"}),
        "landmarks_sha256": sha256_file(cfg.dataset.landmarks) if folder.landmarks is not None else None,
        "files": {
            "folder": os.path.abspath(cfg.dataset.loc),
            "count": len(folder.names),
            "sha256": folder.names.digest(),
        },
    }


def open_embeddings(run: ScoreRun, source: PopulationSource) -> np.ndarray:
    """Map the file of all embeddings, kept beside the partial results; the first process makes it."""
    path, shape = run.path / PARTIAL / "embeddings.f32", (run.count, source.embedding_dim())
    if run.count == 0:
        return np.zeros(shape, np.float32)
    size = 4 * shape[0] * shape[1]
    if distributed.is_main() and (not path.exists() or path.stat().st_size != size):
        with run.saving(), open(path, "wb") as stream:
            allocate(stream, size)
    distributed.barrier()
    return np.memmap(path, np.float32, "r+", shape=shape)


def measure(job: Job, images_BHW3: Tensor, rows: np.ndarray) -> np.ndarray:
    """Return the labels of a batch, or, for a source that needs everything first, store its embeddings."""
    try:
        if job.embeddings is None:
            return job.source.scores(images_BHW3, [job.folder.names[row] for row in rows])
        embedding_BD = job.source.embed(images_BHW3)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{job.device}: a pass does not fit into its memory; lower dataloader.params.batch_size or "
            "source.rows_per_pass and run again"
        ) from error
    job.embeddings[rows] = embedding_BD
    length_B = np.linalg.norm(embedding_BD, axis=1)
    return np.where(length_B > 0, length_B, np.nan)  # a stand-in that is finite when the embedding has a direction


def conclude(job: Job, images: int, started: float) -> int:
    """Write the labels of all sessions, say what was done, and return the exit code."""
    state, names = job.run.result(), job.folder.names
    labels, reasons = state.quality, state.reasons
    if job.embeddings is not None:
        labels = compare(job, np.flatnonzero(np.isfinite(labels)), reasons)
    rows = np.flatnonzero(np.isfinite(labels))
    with job.run.saving():
        failures = write_failures(job.run.path, names, reasons)
        if len(rows):
            write_labels(job.run.path, names.take(rows), labels[rows])
    counts = {
        "images": len(names),
        "labelled": len(rows),
        "failed": len(reasons),
        "not_square": state.not_square,
        "resized": state.resized,
        "other_files": job.folder.other_files,
    }
    session = {"images": images, "seconds": round(time.perf_counter() - started, 3)}
    job.run.finish({"counts": counts, **facts(job), "last_session": session})
    if not len(rows):
        raise DataError(
            f"{job.cfg.dataset.loc}: none of {len(names)} images could be labelled; "
            + (f"see {failures}" if len(names) else "name a folder that holds images")
        )
    summarise(job, counts, labels[rows])
    return SOME_FAILED if job.cfg.base.strict and reasons else 0


def compare(job: Job, rows: np.ndarray, reasons: dict[int, str]) -> np.ndarray:
    """Let the source compare the embedded images with each other; note in `reasons` what it leaves out."""
    names = [job.folder.names[row] for row in rows]
    folders = [os.path.dirname(name) for name in names]
    identities = np.unique(folders, return_inverse=True)[1].reshape(-1)
    job.source.verbose = job.cfg.base.verbose
    logger.info(f"compares {len(rows)} images of {len(set(folders))} identities, one per folder")
    labels = np.full(job.run.count, np.nan, np.float32)
    embeddings = job.embeddings if len(rows) == job.run.count else job.embeddings[rows]
    labels[rows] = job.source.finish(embeddings, identities, names)
    reasons.update({int(row): job.source.reason for row in rows[np.isnan(labels[rows])]})
    return labels


def facts(job: Job) -> dict[str, Any]:
    """Return what run.json records beside the request, the counts and the versions."""
    return {
        "weights": job.weight,
        "range": job.source.range,
        "remark": job.source.remark,
        "device": str(job.device),
        "processes": distributed.world_size(),
        "batch_size": job.cfg.dataloader.params.batch_size,
    }


def summarise(job: Job, counts: dict[str, int], labels: np.ndarray) -> None:
    """Log what was done, what the labels look like and where they are."""
    low, middle, high = np.quantile(labels, [0, 0.5, 1])
    logger.info(
        f"{job.cfg.source.name}: labelled {counts['labelled']} of {counts['images']} images, "
        f"min {low:.4g}, median {middle:.4g}, max {high:.4g}; higher = better"
    )
    warn_of_sizes(counts)
    if counts["failed"]:
        report = logger.error if job.cfg.base.strict else logger.warning
        report(f"{counts['failed']} images have no label; the reasons are in {job.run.path / 'failures.csv'}")
    logger.info(f"labels: {', '.join(str(job.run.path / name) for name in LABELS)}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
