"""AI-KD's data: index and split, and the loaders of aligned and misaligned crops."""

import dataclasses
from dataclasses import dataclass

from data.index.build import build_index
from data.index.coverage import Coverage
from data.index.identity_centres import CentreImages, centre_images
from data.index.split import split
from data.misalignment import outside_shares_of_aligned
from data.samples.datasets import DistillationDataset
from data.samples.loader import BatchLoader, train_loader, validation_loader
from data.samples.sampler import Shard
from data.samples.teacher_cache import MisalignedDataset, ReferencedDataset, TeacherCache
from data.samples.training import TrainingData, digest, index_remarks
from utils.config.train_aikd import AIKDConfig, StudentCropConfig
from utils.present import present


@dataclass(frozen=True)
class DistillationData(TrainingData):
    """Hold also what the teacher is asked before the first step."""

    cache: TeacherCache | None = None
    """The teacher's embeddings; to be opened and filled before the first batch."""
    centres: CentreImages | None = None
    """The images that make the centres of the identities, for refined labels."""
    centre_loader: BatchLoader | None = None
    """The aligned crops of these images."""


def distillation_data(cfg: AIKDConfig, shard: Shard) -> DistillationData:
    """Join images, landmarks and labels for AI-KD and split them; raises DataError when nothing fits."""
    dataset_cfg, seed = cfg.dataset, cfg.base.seed
    index, coverage = build_index(dataset_cfg)
    remarks = index_remarks(index, dataset_cfg)
    parts, centres, centre_loader = split(present(index.labels), dataset_cfg.val_percent), None, None
    if cfg.loss.refinement is not None:
        centres, parts = centre_images(index, parts, cfg.loss.refinement, dataset_cfg.identity)
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
        training = ReferencedDataset if cfg.loss.crops == "both" else MisalignedDataset
        dataset = training(cache, seed, perturbation, dataset_cfg)
        measured = ReferencedDataset(cache, seed, dataset_cfg.perturbation, dataset_cfg)
    return DistillationData(
        train=train_loader(dataset, train_rows, cfg.dataloader.train.params, seed, shard),
        validation=validation_loader(measured, val_rows, params, shard) if len(val_rows) else None,
        epochs=cfg.base.epochs,
        place=dataset_cfg.image_location,
        report=[
            *coverage.lines(),
            *_border_lines(coverage, perturbation),
            *remarks,
            f"{len(train_rows)} images to train on, {len(val_rows)} to validate on",
            *_centre_lines(centres, cfg),
        ],
        facts={
            "images": len(index),
            "index_sha256": digest(index),
            "label_scaling": dataclasses.asdict(present(coverage.scaling)),
        },
        cache=cache,
        centres=centres,
        centre_loader=centre_loader,
    )


def _border_lines(coverage: Coverage, perturbation: StudentCropConfig | None) -> list[str]:
    """Say how far misaligned crops reach beyond images that are aligned copies, and what they show there."""
    if not coverage.aligned_copies or perturbation is None:
        return []
    shares = 100 * outside_shares_of_aligned(perturbation)
    if not shares.any():
        return []
    black = (
        "black, which a student can read as misaligned; dataset.perturbation.border: replicate or reflect fills them"
    )
    shown = black if perturbation.border == "black" else f"filled (border: {perturbation.border})"
    return [
        f"misaligned crops: of a 112x112 copy {shares.mean():.1f} % of the pixels lie outside their image (up to "
        f"{shares.max():.1f} %) and are {shown}"
    ]


def _centre_lines(centres: CentreImages | None, cfg: AIKDConfig) -> list[str]:
    if centres is None or cfg.loss.refinement is None:
        return []
    return [
        f"refined labels: centres of {centres.count} identities from their {len(centres.rows)} best images; "
        f"{centres.dropped} images of identities with fewer than {cfg.loss.refinement.min_images} of these left out"
    ]
