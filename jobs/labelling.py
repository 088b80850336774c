"""Labelling: a label source gives each image of a folder its quality label."""

import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.index.identities import Identities, find_identities, folder_remarks, identity_table
from data.samples.crops import CropPerturbation, FaceCrops
from data.samples.detected import DetectedCrops, FoundFaces
from data.tables.names import Chosen, Names
from data.tables.scores import FAILURES, LABELS, PAGE, write_failures, write_labels
from jobs.found_faces import deal_containers, keep_faces, open_images, stale_faces, with_known_faces
from jobs.image_pass import SOME_FAILED, ImagePass, Session, numbers_per_face, warn, with_workers
from jobs.journal import Journal, list_of_images
from jobs.journal_lines import Progress
from jobs.score_page import help_with_page, write_page
from model.label_sources import LabelSource, PopulationSource
from model.label_sources.base import named_seed
from utils import distributed
from utils.allowed import NOTHING_MORE, AllowedModules
from utils.config.label import LabelConfig
from utils.config.sections import DETECTION_KEYS
from utils.errors import ConfigError, DataError, UserError
from utils.files import allocate, sha256_file

logger = logging.getLogger(__name__)

_ROUNDING = 1e-6
OUTPUTS = (FAILURES, PAGE, *LABELS)
_AT_ONCE = 1 << 16
"""Embeddings whose checksums are compared at a time."""


@dataclass(frozen=True)
class Population:
    """Hold a source that compares images with each other, and what it compares."""

    source: PopulationSource
    embeddings: np.ndarray
    """(N, D) float32, on disk."""
    identities: Identities
    """Who is on each image."""

    def store(self, images_BHW3: Tensor, rows: np.ndarray) -> np.ndarray:
        """Store the embeddings of a batch; return their checksums for labels, NaN where there is no direction."""
        self.embeddings[rows] = embedding_BD = self.source.embed(images_BHW3)
        return np.where(np.linalg.norm(embedding_BD, axis=1) > 0, _checksums(embedding_BD), np.nan)

    def compare(self, names: Names, state: Progress) -> np.ndarray:
        """Return the labels (N,) float32 of the embedded images; note in `state` what the source leaves out."""
        rows, labels = state.rows(), np.full(len(names), np.nan, np.float32)
        embedded = [names[row] for row in rows]
        identities = self.identities.rows[rows]
        logger.info(f"compares {len(rows)} images of {len(np.unique(identities))} identities")
        embeddings = self.embeddings if len(rows) == len(names) else self.embeddings[rows]
        labels[rows] = self.source.finish(embeddings, identities, embedded)
        state.reasons.update({int(row): self.source.reason for row in rows[np.isnan(labels[rows])]})
        return labels


@dataclass(frozen=True)
class LabellingRun:
    """Hold the parts of one labelling run."""

    cfg: LabelConfig
    source: LabelSource
    images: ImagePass
    population: Population | None
    """For sources that compare images with each other."""

    def measure(self, images_BHW3: Tensor, rows: np.ndarray) -> np.ndarray:
        """Return the labels of a batch, or, for a source that needs everything first, store its embeddings."""
        try:
            if self.population is not None:
                return self.population.store(images_BHW3, rows)
            names = [self.images.crops.names[row] for row in rows]
            if self.cfg.source.views == 1:
                return self.source.scores(images_BHW3, names)
            return self.mean_of_views(images_BHW3, rows, names)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{self.source.network.device}: a pass does not fit into its memory; lower "
                "dataloader.params.batch_size or source.rows_per_pass and run again"
            ) from error

    def mean_of_views(self, first_BHW3: Tensor, rows: np.ndarray, names: list[str]) -> np.ndarray:
        """Return the mean label (B,) over all views, the first of which is cut; NaN where one of them has no crop."""
        labels = [self.source.scores(first_BHW3, names)]
        for number in range(2, self.cfg.source.views + 1):
            batch = moved(self.images.crops, self.cfg, number).take(rows).__getitems__(range(len(rows)))
            found = np.full(len(rows), np.nan)
            if batch.rows:
                found[batch.rows] = self.source.scores(batch.images, [names[row] for row in batch.rows])
            labels.append(found)
        return np.mean(labels, axis=0)

    def conclude(self, session: Session) -> int:
        """Write the labels of all sessions, say what was done, and return the exit code."""
        cfg, names, journal = self.cfg, self.images.names, self.images.journal
        if not distributed.is_main():
            if cfg.output.page:
                help_with_page(self.images)
            return 0
        state = self.images.result()
        reasons = dict(state.reasons)
        labels = state.values[:, 0] if self.population is None else self.population.compare(names, state)
        rows = np.flatnonzero(np.isfinite(labels))
        require_spread(labels[rows], cfg.dataset.loc, cfg.source.name)
        with journal.saving():
            failures = write_failures(journal.folder, names, state.reasons)
            if len(rows):
                write_labels(journal.folder, Chosen(names, rows), labels[rows])
            if isinstance(self.images.crops, DetectedCrops):
                seen, values = state.records()
                keep_faces(journal.folder, self.images.crops, names, FoundFaces(seen, values[:, 1:], reasons))
            if cfg.output.page:
                title = f"Labels of {cfg.dataset.loc} by {cfg.source.name}"
                write_page(self.images, title, (rows, labels[rows]), state, self._facts())
        counts = self.images.counts(state, "labelled", len(rows))
        self.images.finish(counts, self._facts(), session)
        if not len(rows):
            raise DataError(
                f"{cfg.dataset.loc}: none of {len(names)} images could be labelled; "
                + (f"see {failures}" if len(names) else "name a folder that holds images")
            )
        low, middle, high = np.quantile(labels[rows], [0, 0.5, 1])
        logger.info(
            f"{cfg.source.name}: labelled {len(rows)} of {len(names)} images, "
            f"min {low:.4g}, median {middle:.4g}, max {high:.4g}; higher = better"
        )
        warn(counts, "label", failures, cfg.base.strict)
        written = [*LABELS, *([PAGE] if cfg.output.page else [])]
        logger.info(f"labels: {', '.join(str(journal.folder / name) for name in written)}")
        return SOME_FAILED if cfg.base.strict and state.reasons else 0

    def _facts(self) -> dict[str, Any]:
        """Return what run.json records beside the request, the counts and the versions."""
        return {
            "weights": self.source.network.weight,
            "range": self.source.range,
            "remark": self.source.remark,
            "device": str(self.source.network.device),
        }


def require_spread(labels: np.ndarray, place: str, source: str) -> None:
    """Refuse labels that are the same for every image, but for rounding; nothing can be learnt from them."""
    if len(labels) > 1 and np.ptp(labels) <= _ROUNDING * np.abs(labels).max():
        raise DataError(
            f"{place}: source {source} gives all {len(labels)} images the label {labels[0] + 0.0:.6g}, so "
            "no label is written; is the network trained, and does it return embeddings that are not normalised?"
        )


@contextmanager
def open_labelling(
    cfg: LabelConfig, source: LabelSource, allowed: AllowedModules = NOTHING_MORE
) -> Iterator[LabellingRun]:
    """Check the inputs and open the output folder; an unfinished run of the same request goes on."""
    dataset, folder, dealt = cfg.dataset, cfg.base.save_path, None
    if dataset.input != "landmarks" and dataset.sample is None and not isinstance(source, PopulationSource):
        dealt = deal_containers(dataset.loc, dataset.names, folder)
    opened = open_images(dataset, allowed, None if dealt is None else dealt.source)
    crops = with_known_faces(sampled(opened, cfg), folder)
    if cfg.source.views > 1:
        if isinstance(source, PopulationSource):
            raise ConfigError(f"source.views: {cfg.source.name} compares images with each other; it takes one view")
        crops = moved(crops, cfg, 1)
    wanted = {**request(cfg, crops, source), "files": list_of_images(dataset.loc, crops.names, dealt)}
    journal = Journal(folder, wanted, wanted["files"]["count"], numbers_per_face(crops))
    try:
        journal.open((*OUTPUTS, *stale_faces(crops)))
        population = None
        if isinstance(source, PopulationSource):
            source.verbose = cfg.base.verbose
            identities = find_identities(crops.names, dataset.identity)
            for remark in folder_remarks(identities, dataset.identity, "dataset.identity"):
                logger.warning(remark)
            population = Population(source, open_embeddings(journal, source), identities)
        loader = with_workers(cfg.dataloader.params, source.network.device)
        images = ImagePass(crops, journal, loader, cfg.base.verbose, dealt)
        yield LabellingRun(cfg, source, images, population)
    finally:
        journal.close()


def moved(crops: FaceCrops | DetectedCrops, cfg: LabelConfig, number: int) -> FaceCrops:
    """Return the crops of one of the views, counted from 1."""
    if isinstance(crops, DetectedCrops):
        raise ConfigError("source.views needs landmarks; find them first by prepare.py base.task=landmarks")
    how = cfg.source.perturbation
    return replace(crops, perturb=CropPerturbation(how.radius_px, how.unit, cfg.base.seed, how.border, number))


def sampled(crops: FaceCrops | DetectedCrops, cfg: LabelConfig) -> FaceCrops | DetectedCrops:
    """Keep `dataset.sample` images, those whose names, hashed with the seed, come first."""
    wanted = cfg.dataset.sample
    if wanted is None or wanted >= len(crops.names):
        return crops
    ranks = np.array([named_seed(cfg.base.seed, f"sample\0{name}") for name in crops.names])
    rows = np.sort(np.argsort(ranks, kind="stable")[:wanted])
    return crops.take(rows)


def request(cfg: LabelConfig, crops: FaceCrops | DetectedCrops, source: LabelSource) -> dict[str, Any]:
    """Return everything that decides the labels: an unfinished run goes on only where all of it is the same."""
    settings = cfg.source.settings
    return {
        "source": {
            "name": cfg.source.name,
            "rows_per_pass": cfg.source.rows_per_pass,
            **(cfg.source.model_dump(mode="json", include={"views", "perturbation"}) if cfg.source.views > 1 else {}),
            **(settings.model_dump(mode="json") if settings else {}),
        },
        "seed": cfg.base.seed,
        "draws": source.network.device.type if source.draws_on_device else None,
        "weights_sha256": source.network.weights_sha256,
        "network": dict(source.network.facts),
        "preprocessing": source.network.contract.to_dict(),
        "dataset": cfg.dataset.model_dump(
            mode="json", exclude={"loc", "landmarks", "accept_unusual", "names", *DETECTION_KEYS}
        ),
        **({"detection": crops.finder.identity} if isinstance(crops, DetectedCrops) else {}),
        "landmarks_sha256": sha256_file(cfg.dataset.landmarks) if cfg.dataset.landmarks else None,
        "identity_sha256": sha256_file(table) if (table := identity_table(cfg.dataset.identity)) else None,
    }


def open_embeddings(journal: Journal, source: PopulationSource) -> np.ndarray:
    """Map the file of all embeddings, kept beside the partial results; the first process makes it."""
    path, shape = journal.partial / "embeddings.f32", (journal.count, source.embedding_dim())
    if journal.count == 0:
        return np.zeros(shape, np.float32)
    size = 4 * shape[0] * shape[1]
    if distributed.is_main():
        with journal.saving():
            if not path.is_file() or path.stat().st_size != size:
                with open(path, "wb") as stream:
                    allocate(stream, size)
            state = journal.progress()
            kept = np.memmap(path, np.float32, "r", shape=shape)
            parts = np.array_split(state.rows(), 1 + journal.count // _AT_ONCE)
            if any((_checksums(kept[rows]) != state.values[rows, 0]).any() for rows in parts):
                logger.warning(f"{path}: damaged; all images are embedded anew")
                journal.forget()
    distributed.barrier()
    return np.memmap(path, np.float32, "r+", shape=shape)


def _checksums(embedding_BD: np.ndarray) -> np.ndarray:
    """Return a checksum (B,) float32 of each embedding, as many bits of it as a float32 holds; never 0."""
    whole = np.ascontiguousarray(embedding_BD, np.float32)
    return np.array([1 + zlib.crc32(row.data) % 0xFFFFFF for row in whole], np.float32)
