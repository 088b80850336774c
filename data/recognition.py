"""Recognition training data: identity folders or records, and the images of validation pairs."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from data.checks.inputs import InputKeys
from data.index.build import TEMPLATE, FaceIndex, build_identity_index
from data.index.split import split
from data.samples.crops import open_crops, require_usual
from data.samples.datasets import IdentityDataset
from data.samples.loader import train_loader, validation_loader
from data.samples.sampler import Shard
from data.samples.training import TrainingData, digest, index_remarks
from data.sources.memory import MemorySource
from data.sources.recordio import open_records
from data.tables.join import join
from data.tables.names import Names
from utils.config.sections import CropInputConfig
from utils.config.train_recognition import MarginConfig, RecognitionDataset
from utils.errors import DataError
from utils.files import sha256_arrays
from utils.present import present


class PairImages(Protocol):
    """The images of validation pairs, and what judges their embeddings."""

    @property
    def names(self) -> Names:
        """Return the names of the images."""
        ...

    @property
    def images(self) -> Sequence[bytes] | None:
        """Return the encoded images, one per name, where the pairs file carries them."""
        ...

    def __call__(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Return metrics of the embeddings; `row` is the place in `names`."""
        ...


@dataclass(frozen=True)
class RecognitionData(TrainingData):
    """Hold also what a margin head and the validation need to know."""

    num_classes: int = 0
    """Identities to train on."""
    judge: PairImages | None = None
    """Turns the embeddings of the validation images into metrics, where pairs are given."""


class _Images(NamedTuple):
    """What one place holds."""

    index: FaceIndex
    report: list[str]
    sha256: str


def recognition_data(cfg: MarginConfig, shard: Shard, pairs: PairImages | None = None) -> RecognitionData:
    """Find the images of each identity; validate on pairs, or on a held-out share of the images.

    Identities of which an image occurs in the pairs are not trained on.
    """
    dataset_cfg, place = cfg.dataset, cfg.dataset.image_location
    found = _records(dataset_cfg) if dataset_cfg.format == "recordio" else _folders(dataset_cfg)
    index, report = found.index, found.report
    if pairs is None:
        train_rows, val_rows = split(present(index.identities), dataset_cfg.val_percent)
        measured = index
    else:
        measured = _pair_index(dataset_cfg, pairs, index)
        val_rows = np.arange(len(measured))
        index, train_rows = _without(index, measured)
        report = [*report, f"validates on {len(val_rows)} images in the pairs of {dataset_cfg.val_pairs}"]
    if not len(train_rows):
        raise DataError(f"{place}: no identity is left to train on; all occur in dataset.val_pairs")
    num_classes = int(present(index.identities).max()) + 1
    seed, params = cfg.base.seed, cfg.dataloader
    dataset = IdentityDataset(index, seed, dataset_cfg.flip, dataset_cfg)
    judged = IdentityDataset(measured, seed, False, dataset_cfg)
    return RecognitionData(
        train=train_loader(dataset, train_rows, params.train.params, seed, shard),
        validation=validation_loader(judged, val_rows, params.val.params, shard) if len(val_rows) else None,
        epochs=cfg.base.epochs,
        place=place,
        report=[*report, f"{len(train_rows)} images of {num_classes} identities to train on"],
        facts={"images": len(index), "identities": num_classes, "index_sha256": found.sha256},
        num_classes=num_classes,
        judge=pairs,
    )


def _folders(cfg: RecognitionDataset) -> _Images:
    index, coverage = build_identity_index(cfg)
    return _Images(index, [*coverage.lines(), *index_remarks(index, cfg)], digest(index))


def _records(cfg: RecognitionDataset) -> _Images:
    if cfg.landms_location not in (None, TEMPLATE):
        raise DataError(f"{cfg.image_location}: records hold aligned crops; set dataset.landms_location: template")
    source = open_records(cfg.image_location)
    given, identities = np.unique(source.identities, return_inverse=True)
    index = FaceIndex(source, identities=identities.reshape(-1).astype(np.int32))
    report = [f"{source.location}: {len(index)} images", *index_remarks(index, cfg)]
    if len(given) != given[-1] + 1:
        report.append(
            f"{source.location}: the numbers {given[0]} to {given[-1]} of {len(given)} identities have gaps "
            f"and became 0 to {len(given) - 1}"
        )
    return _Images(index, report, sha256_arrays(source.file.offsets, source.identities))


def _pair_index(cfg: RecognitionDataset, pairs: PairImages, index: FaceIndex) -> FaceIndex:
    """Return the images of the pairs, row by row as `pairs.names` lists them; identities where they are known."""
    if pairs.images is not None:
        source = MemorySource(str(cfg.val_pairs), pairs.names, pairs.images)
        return FaceIndex(source, identities=np.full(len(source), -1, np.int32))
    if not _same_place(cfg):
        crops = open_crops(_input_config(cfg))
        require_usual(crops, InputKeys("dataset.val_landms_location", "dataset.accept_unusual"))
        index = FaceIndex(crops.source, crops.landmarks, identities=np.full(len(crops), -1, np.int32))
    elif cfg.format == "recordio":
        raise DataError(
            f"{cfg.val_pairs}: names images in files, while {index.source.location} holds records; name the folder of "
            "the pairs' images in dataset.val_location, or a .bin file in dataset.val_pairs"
        )
    try:
        rows = join(pairs.names, index.names, cfg.key_root).rows
    except DataError as error:
        raise DataError(f"{cfg.val_pairs}: {error}") from None
    missing = np.flatnonzero(rows < 0)
    if len(missing):
        raise DataError(
            f"{cfg.val_pairs}: {len(missing)} of {len(rows)} images are not below {index.source.location}, first: "
            f"{pairs.names[missing[0]]!r}; name their folder in dataset.val_location"
        )
    landmarks = None if index.landmarks is None else index.landmarks[rows]
    return FaceIndex(index.source.take(rows), landmarks, identities=present(index.identities)[rows])


def _same_place(cfg: RecognitionDataset) -> bool:
    return cfg.val_location is None or os.path.abspath(cfg.val_location) == os.path.abspath(cfg.image_location)


def _input_config(cfg: RecognitionDataset) -> CropInputConfig:
    aligned = cfg.val_landms_location in (None, TEMPLATE)
    return CropInputConfig(
        loc=present(cfg.val_location),
        input="aligned" if aligned else "landmarks",
        landmarks=None if aligned else cfg.val_landms_location,
        on_missing="skip",  # images outside the pairs need none
        exif=cfg.exif,
        max_pixels=cfg.max_pixels,
        accept_unusual=cfg.accept_unusual,
        landmark_points=cfg.landmark_points,
        landmark_faces=cfg.landmark_faces,
    )


def _without(index: FaceIndex, measured: FaceIndex) -> tuple[FaceIndex, np.ndarray]:
    """Return the index with the identities of `measured` taken out and the others numbered anew, and its rows."""
    own, others = present(index.identities), present(measured.identities)
    held_out = np.unique(others[others >= 0])
    rows = np.flatnonzero(~np.isin(own, held_out))
    if not len(held_out):
        return index, rows
    identities = np.full(len(index), -1, np.int32)
    identities[rows] = np.unique(own[rows], return_inverse=True)[1].ravel()
    return dataclasses.replace(index, identities=identities, cache=None), rows
