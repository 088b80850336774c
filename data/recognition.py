"""Recognition training data: identity folders or records, and the images of validation pairs."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from data.images.decode import decode_rgb
from data.index.build import TEMPLATE, FaceIndex, build_identity_index
from data.index.split import split
from data.samples.datasets import IdentityDataset, landmarks_of_crop
from data.samples.folders import open_folder
from data.samples.loader import train_loader, validation_loader
from data.samples.sampler import Shard
from data.samples.training import TrainingData, digest, index_remarks
from data.sources.recordio import EncodedImages, RecordIndex
from data.tables.join import join
from data.tables.names import Names
from utils.config.sections import CropInputConfig
from utils.config.train import DatasetConfig, TrainConfig
from utils.errors import DataError
from utils.files import sha256_arrays


class PairImages(Protocol):
    """The images of validation pairs, and what judges their embeddings."""

    names: Names
    images: Sequence[bytes] | None
    """Encoded images, one per name, where the pairs file carries them."""

    def __call__(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Return metrics of the embeddings; `row` is the place in `names`."""


@dataclass(frozen=True)
class RecognitionData(TrainingData):
    """Hold also what a margin head and the validation need to know."""

    num_classes: int = 0
    """Identities to train on."""
    judge: PairImages | None = None
    """Turns the embeddings of the validation images into metrics, where pairs are given."""


class EncodedDataset(IdentityDataset):
    """Crops that come as encoded bytes, aligned already."""

    def _read(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        image = decode_rgb(self.index.read(row), exif=self.exif, max_pixels=self.max_pixels)
        return image, landmarks_of_crop(image)


class _Images(NamedTuple):
    """What one place holds."""

    index: FaceIndex | RecordIndex
    report: list[str]
    sha256: str


def recognition_data(cfg: TrainConfig, shard: Shard, pairs: PairImages | None = None) -> RecognitionData:
    """Find the images of each identity; validate on pairs, or on a held-out share of the images.

    Identities of which an image occurs in the pairs are not trained on.
    """
    dataset_cfg, place = cfg.dataset, cfg.dataset.image_location
    found = _records(dataset_cfg) if dataset_cfg.format == "recordio" else _folders(dataset_cfg)
    index, report = found.index, found.report
    if pairs is None:
        train_rows, val_rows = split(index.identities, dataset_cfg.val_percent)
        measured = index
    else:
        measured = _pair_index(dataset_cfg, pairs, index)
        val_rows = np.arange(len(measured))
        index, train_rows = _without(index, measured)
        report = [*report, f"validates on {len(val_rows)} images in the pairs of {dataset_cfg.val_pairs}"]
    if not len(train_rows):
        raise DataError(f"{place}: no identity is left to train on; all occur in dataset.val_pairs")
    num_classes = int(index.identities.max()) + 1
    return RecognitionData(
        train=train_loader(
            _dataset(index, cfg, dataset_cfg.flip), train_rows, cfg.dataloader.train.params, cfg.base.seed, shard
        ),
        validation=validation_loader(_dataset(measured, cfg, False), val_rows, cfg.dataloader.val.params, shard)
        if len(val_rows)
        else None,
        epochs=cfg.base.epochs,
        place=place,
        report=[*report, f"{len(train_rows)} images of {num_classes} identities to train on"],
        facts={"images": len(index), "identities": num_classes, "index_sha256": found.sha256},
        num_classes=num_classes,
        judge=pairs,
    )


def _folders(cfg: DatasetConfig) -> _Images:
    index, coverage = build_identity_index(cfg)
    return _Images(index, [*coverage.lines(), *index_remarks(index, cfg)], digest(index))


def _records(cfg: DatasetConfig) -> _Images:
    if cfg.landms_location not in (None, TEMPLATE):
        raise DataError(f"{cfg.image_location}: records hold aligned crops; set dataset.landms_location: template")
    index = RecordIndex(cfg.image_location)
    return _Images(index, [f"{index.root}: {len(index)} images"], sha256_arrays(index.file.offsets, index.identities))


def _dataset(index: FaceIndex | RecordIndex | EncodedImages, cfg: TrainConfig, flip: bool) -> IdentityDataset:
    kind = IdentityDataset if isinstance(index, FaceIndex) else EncodedDataset
    return kind(index, cfg.base.seed, flip, cfg.dataset)


def _pair_index(cfg: DatasetConfig, pairs: PairImages, index: FaceIndex | RecordIndex) -> FaceIndex | EncodedImages:
    """Return the images of the pairs, row by row as `pairs.names` lists them; identities where they are known."""
    if pairs.images is not None:
        return EncodedImages(str(cfg.val_pairs), pairs.names, pairs.images)
    if _same_place(cfg):
        if not isinstance(index, FaceIndex):
            raise DataError(
                f"{cfg.val_pairs}: names images in files, while {index.root} holds records; name the folder of the "
                "pairs' images in dataset.val_location, or a .bin file in dataset.val_pairs"
            )
        root, names, landmarks, identities = index.root, index.names, index.landmarks, index.identities
    else:
        folder = open_folder(_input_config(cfg))
        root, names, landmarks = folder.cfg.loc, folder.names, folder.landmarks
        identities = np.full(len(names), -1, np.int32)
    try:
        rows = join(pairs.names, names, cfg.key_root).rows
    except DataError as error:
        raise DataError(f"{cfg.val_pairs}: {error}") from None
    missing = np.flatnonzero(rows < 0)
    if len(missing):
        raise DataError(
            f"{cfg.val_pairs}: {len(missing)} of {len(rows)} images are not below {root}, first: "
            f"{pairs.names[missing[0]]!r}; name their folder in dataset.val_location"
        )
    return FaceIndex(
        root, names.take(rows), None if landmarks is None else landmarks[rows], identities=identities[rows]
    )


def _same_place(cfg: DatasetConfig) -> bool:
    return cfg.val_location is None or os.path.abspath(cfg.val_location) == os.path.abspath(cfg.image_location)


def _input_config(cfg: DatasetConfig) -> CropInputConfig:
    aligned = cfg.val_landms_location in (None, TEMPLATE)
    return CropInputConfig(
        loc=cfg.val_location,
        input="aligned" if aligned else "landmarks",
        landmarks=None if aligned else cfg.val_landms_location,
        on_missing="skip",  # images outside the pairs need none
        exif=cfg.exif,
        max_pixels=cfg.max_pixels,
    )


def _without(
    index: FaceIndex | RecordIndex, measured: FaceIndex | EncodedImages
) -> tuple[FaceIndex | RecordIndex, np.ndarray]:
    """Return the index with the identities of `measured` taken out and the others numbered anew, and its rows."""
    held_out = np.unique(measured.identities[measured.identities >= 0])
    rows = np.flatnonzero(~np.isin(index.identities, held_out))
    if not len(held_out) or not isinstance(index, FaceIndex):
        return index, rows
    identities = np.full(len(index), -1, np.int32)
    identities[rows] = np.unique(index.identities[rows], return_inverse=True)[1].ravel()
    return dataclasses.replace(index, identities=identities, cache=None), rows
