"""Landmark detection: a folder of images becomes landmarks.csv and failures.csv; every image is in one of the two."""

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.detectors.base import FACE_NUMBERS, FaceFinder
from data.detectors.registry import open_finder
from data.images.decode import ImageError, decode_rgb
from data.samples.detected import DetectedCrops
from data.sources.base import ImageSource
from data.sources.registry import open_source
from data.tables.faces import LANDMARKS_FILE, FaceTable, write_faces
from data.tables.scores import write_failures
from jobs.found_faces import is_kept, mark_kept
from jobs.journal import Journal, JournalLine, list_of_images
from utils import distributed
from utils.allowed import NOTHING_MORE, AllowedModules
from utils.config.evaluate import EvaluateConfig, PairsConfig
from utils.config.prepare import DetectorConfig, PrepareBase
from utils.config.sections import CropInputConfig, DecodeConfig
from utils.config.train import DatasetConfig
from utils.errors import DataError
from utils.outside import signals
from utils.progress import progress

logger = logging.getLogger(__name__)

_THREADS = 2
_WINDOW = 32
"""Images handed to each thread at once."""


@dataclass(frozen=True)
class LandmarkRun:
    """Hold the parts of one run of detection; may be called from several threads."""

    root: str
    """The folder of images, as the user wrote it."""
    source: ImageSource
    find: FaceFinder
    decode: DecodeConfig
    """How files become pixels."""
    journal: Journal

    def detect_left(self, threads: int, verbose: bool) -> int:
        """Detect in the images that no earlier session did, one journal line each; return how many it had done."""
        share, window = self.journal.share(1), _WINDOW * threads
        verbose = verbose and distributed.is_main()
        bar = progress(total=len(share.firsts), unit="img", desc="landmarks", verbose=verbose)
        with bar, signals.waiting(), ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(share.firsts), window):
                for line in pool.map(self._line, share.firsts[start : start + window]):
                    self.journal.append(line)
                    bar.update()
                signals.leave_if_asked()
        distributed.barrier()
        return len(self.source) - share.rows

    def _line(self, row: int) -> JournalLine:
        failures, values = {}, np.full((1, FACE_NUMBERS), np.nan, np.float32)
        try:
            content = self.source.read(row)
            image = decode_rgb(content, exif=self.decode.exif, max_pixels=self.decode.max_pixels)
            values[0] = self.find(image)[0].numbers()
        except ImageError as error:
            failures[0] = str(error)
        return JournalLine.of(row, values, failures, {})

    def conclude(self, resumed: int) -> None:
        """Write landmarks.csv and failures.csv, and say what was done; `resumed` images by earlier sessions."""
        state, folder = self.journal.result(), self.journal.folder
        rows = state.rows()
        with self.journal.saving():
            failures = write_failures(folder, self.source.names, state.reasons)
            write_faces(folder / LANDMARKS_FILE, FaceTable(self.source.names.take(rows), state.values[rows]), False)
        counts = {"images": len(self.source), "found": len(rows), "failed": len(state.reasons), "resumed": resumed}
        self.journal.finish({"counts": counts, "processes": distributed.world_size()})
        if not len(rows):
            raise DataError(f"{self.root}: no face was found in any of {len(self.source)} images; see {failures}")
        earlier = f", {resumed:,} of them by an earlier run" if resumed else ""
        logger.info(f"{folder / LANDMARKS_FILE}: {len(rows):,} of {len(self.source):,} images{earlier}")
        if state.reasons:
            logger.warning(f"{failures}: {len(state.reasons):,} images without landmarks")


def detect_landmarks(
    base: PrepareBase, dataset: DatasetConfig, cfg: DetectorConfig, allowed: AllowedModules = NOTHING_MORE
) -> None:
    """Detect the face of every image below `dataset.image_location`; what an earlier run did is kept."""
    finder = open_finder(cfg, allowed, "landmarks")
    decode = DecodeConfig(exif=dataset.exif, max_pixels=dataset.max_pixels)
    images = PhotographsToDo(dataset.image_location, open_source(dataset.image_location, dataset.names), decode)
    find_all(images, finder, base.save_path, cfg.num_workers, base.verbose)


@dataclass(frozen=True)
class PhotographsToDo:
    """The images in which faces are to be found."""

    root: str
    """Where they lie, as the user wrote it."""
    source: ImageSource
    decode: DecodeConfig


def find_all(images: PhotographsToDo, finder: FaceFinder, folder: str, threads: int, verbose: bool) -> None:
    """Write landmarks.csv and failures.csv into `folder`; an unfinished run of the same request goes on."""
    source = images.source
    if not len(source):
        raise DataError(f"{images.root}: no image below this folder ({source.named_others()})")
    with distributed.patient_group():
        request = {
            **finder.identity,
            "decode": images.decode.model_dump(mode="json", include=set(DecodeConfig.model_fields)),
            "files": list_of_images(images.root, source.names),
        }
        journal = Journal(folder, request, len(source), FACE_NUMBERS)
        try:
            journal.open()
            run = LandmarkRun(images.root, source, finder, images.decode, journal)
            resumed = run.detect_left(threads, verbose)
            if distributed.is_main():
                run.conclude(resumed)
        finally:
            journal.close()


def with_found_faces(cfg: EvaluateConfig, allowed: AllowedModules) -> EvaluateConfig:
    """Find the faces of the data sets that name a detector; return the configuration with their landmark files."""
    datasets = dict(cfg.datasets)
    for name, section in cfg.datasets.items():
        if section.detector is not None:
            folder = Path(cfg.base.save_path) / "landmarks" / name
            found = _landmarks_of_set(section, folder, allowed, cfg.base.verbose)
            datasets[name] = section.model_copy(update={"landmarks": found, "accept_unusual": True})
    return cfg.model_copy(update={"datasets": datasets})


def _landmarks_of_set(cfg: PairsConfig, folder: Path, allowed: AllowedModules, verbose: bool) -> str:
    """Return landmarks.csv of the images of an evaluation; it is made in `folder` unless it is there already."""
    place = cfg.root or ""
    crops = CropInputConfig(
        loc=place, input="detect", exif=cfg.exif, max_pixels=cfg.max_pixels,
        **cfg.model_dump(include={"detector", "faces", "min_face_px", "yunet"}),
    )  # fmt: skip
    wanted = DetectedCrops(open_source(place, cfg.names), crops, open_finder(crops, allowed, f"datasets.{folder.name}"))
    if is_kept(folder, wanted):
        logger.info(f"{folder / LANDMARKS_FILE}: used again, its images and the detector are the same")
    else:
        find_all(PhotographsToDo(place, wanted.source, crops), wanted.finder, str(folder), _THREADS, verbose)
        mark_kept(folder, wanted)
    return str(folder / LANDMARKS_FILE)
