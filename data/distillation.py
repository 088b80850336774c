"""From a training configuration to batches: index, split and loaders of each method."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data.index.build import FaceIndex, build_index
from data.index.identity_centres import CentreImages, centre_images
from data.index.landmark_check import require_faces
from data.index.split import split
from data.samples.datasets import DistillationBatch, DistillationDataset
from data.samples.loader import BatchLoader, train_loader, validation_loader
from data.samples.sampler import Shard
from data.samples.teacher_cache import MisalignedDataset, ReferencedDataset, TeacherCache
from utils.config.train import DatasetConfig, TrainConfig
from utils.errors import DataError


@dataclass(frozen=True)
class TrainingData:
    """Hold what a run reads: resumable training batches, fixed validation batches, and a report."""

    train: BatchLoader
    """Training batches."""
    validation: BatchLoader | None
    """The same validation batches every time; None without validation images."""
    epochs: int
    """Passes over the training images."""
    report: list[str]
    """What was found, for the reader."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What decides the result, for the resume check and the weights' sidecar file."""
    num_classes: int = 0
    """Identities, for recognition methods."""
    judge: Callable[..., dict[str, float]] | None = None
    """Turns the embeddings of the validation images into metrics, where pairs are given."""
    cache: TeacherCache | None = None
    """The teacher's embeddings; to be opened and filled before the first batch."""
    centres: CentreImages | None = None
    """The images that make the centres of the identities, for refined labels."""
    centre_loader: BatchLoader | None = None
    """The aligned crops of these images; to be embedded before the first batch."""

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of training batches per epoch."""
        return self.train.steps_per_epoch()

    def batches_from(self, step: int) -> Iterator[Any]:
        """Yield the training batches from a step on."""
        return self.train.starting_at(divmod(step, self.steps_per_epoch), self.epochs)

    def validation_batches(self) -> Iterator[Any]:
        """Yield the validation batches."""
        return iter(self.validation or ())

    def centre_batches(self) -> Iterator[DistillationBatch]:
        """Yield the aligned crops of the images that make the centres."""
        return iter(self.centre_loader or ())


def distillation_data(cfg: TrainConfig, shard: Shard) -> TrainingData:
    """Join images, landmarks and labels for AI-KD and split them; raises DataError when nothing fits."""
    dataset_cfg, seed = cfg.dataset, cfg.base.seed
    index, coverage = build_index(dataset_cfg)
    remarks = index_remarks(index, dataset_cfg)
    parts, centres, centre_loader = split(index.labels, dataset_cfg.val_percent), None, None
    if cfg.loss.refinement is not None:
        centres, parts = centre_images(index, parts, cfg.loss.refinement)
        aligned = DistillationDataset(index, seed, None, dataset_cfg)
        centre_loader = validation_loader(aligned, centres.rows, cfg.dataloader.val.params, shard)
    train_rows, val_rows = parts
    perturbation = dataset_cfg.perturbation if dataset_cfg.misalign else None
    params, cache = cfg.dataloader.val.params, None
    if cfg.model.teacher_cache is None:
        dataset = DistillationDataset(index, seed, perturbation, dataset_cfg)
        measured = DistillationDataset(index, seed, dataset_cfg.perturbation, dataset_cfg)
    else:
        cache = TeacherCache(cfg.model.teacher_cache, index, dataset_cfg, shard)
        dataset = MisalignedDataset(cache, seed, perturbation, dataset_cfg)
        measured = ReferencedDataset(cache, seed, dataset_cfg.perturbation, dataset_cfg)
    data = TrainingData(
        train=train_loader(dataset, train_rows, cfg.dataloader.train.params, seed, shard),
        validation=validation_loader(measured, val_rows, params, shard) if len(val_rows) else None,
        epochs=cfg.base.epochs,
        report=[
            *coverage.lines(),
            *remarks,
            f"{len(train_rows)} images to train on, {len(val_rows)} to validate on",
            *_centre_lines(centres, cfg),
        ],
        facts={
            "images": len(index),
            "index_sha256": digest(index),
            "label_scaling": dataclasses.asdict(coverage.scaling),
        },
        cache=cache,
        centres=centres,
        centre_loader=centre_loader,
    )
    return _checked(data, dataset_cfg.image_location)


def index_remarks(index: FaceIndex, cfg: DatasetConfig) -> list[str]:
    """Return a line on landmarks unlike faces, if there are many; DataError where their order or unit is wrong."""
    return [] if index.landmarks is None else require_faces(cfg.landms_location, index.landmarks)


def _centre_lines(centres: CentreImages | None, cfg: TrainConfig) -> list[str]:
    if centres is None:
        return []
    return [
        f"refined labels: centres of {centres.count} identities from their {len(centres.rows)} best images; "
        f"{centres.dropped} images of identities with fewer than {cfg.loss.refinement.min_images} left out"
    ]


def digest(index: FaceIndex) -> str:
    """Return the SHA-256 of names, landmarks, labels and identities, in the order of the rows."""
    sha = hashlib.sha256()
    arrays = (index.names.data, index.names.offsets, index.landmarks, index.labels, index.identities)
    for array in arrays:
        if array is not None:
            sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()


def _checked(data: TrainingData, place: str) -> TrainingData:
    if data.steps_per_epoch == 0:
        raise DataError(f"{place}: too few images for one training step; add images or lower dataset.val_percent.")
    return data
