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
from data.sources.dealt import Deal, names_of_all
from data.sources.registry import open_source
from data.tables.faces import LANDMARKS_FILE, FaceTable, write_faces
from data.tables.scores import write_failures
from jobs.found_faces import deal_containers, is_kept, mark_kept
from jobs.journal import Journal, list_of_images
from jobs.journal_lines import JournalLine
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

    images: "PhotographsToDo"
    find: FaceFinder
    journal: Journal

    def detect_left(self, threads: int, verbose: bool) -> int:
        """Detect in the images that no earlier session did, one journal line each; return how many it had done."""
        deal, window = self.images.deal, _WINDOW * threads
        share = self.journal.share(1, deal)
        here = share.firsts if deal is None else deal.here(share.firsts)
        verbose = verbose and distributed.is_main()
        bar = progress(total=len(here), unit="img", desc="landmarks", verbose=verbose)
        with bar, signals.waiting(), ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(here), window):
                these = slice(start, start + window)
                for line in pool.map(self._line, share.firsts[these].tolist(), here[these].tolist()):
                    self.journal.append(line)
                    bar.update()
                signals.leave_if_asked()
        distributed.barrier()
        return self.journal.count - share.rows

    def _line(self, row: int, place: int) -> JournalLine:
        """Detect in the image of a row, which is that of `place` in the source."""
        failures, values = {}, np.full((1, FACE_NUMBERS), np.nan, np.float32)
        decode = self.images.decode
        try:
            content = self.images.source.read(place)
            image = decode_rgb(content, exif=decode.exif, max_pixels=decode.max_pixels)
            values[0] = self.find(image)[0].numbers()
        except ImageError as error:
            failures[0] = str(error)
        return JournalLine.of(row, values, failures, {})

    def conclude(self, resumed: int) -> None:
        """Write landmarks.csv and failures.csv, and say what was done; `resumed` images by earlier sessions."""
        names = names_of_all(self.images.source.names, self.images.deal)
        state, folder, total = self.journal.result(self.images.deal), self.journal.folder, self.journal.count
        rows = state.rows()
        with self.journal.saving():
            failures = write_failures(folder, names, state.reasons)
            write_faces(folder / LANDMARKS_FILE, FaceTable(names.take(rows), state.values[rows]), False)
        counts = {"images": total, "found": len(rows), "failed": len(state.reasons), "resumed": resumed}
        self.journal.finish({"counts": counts, "processes": distributed.world_size()})
        if not len(rows):
            raise DataError(f"{self.images.root}: no face was found in any of {total} images; see {failures}")
        earlier = f", {resumed:,} of them by an earlier run" if resumed else ""
        logger.info(f"{folder / LANDMARKS_FILE}: {len(rows):,} of {total:,} images{earlier}")
        if state.reasons:
            logger.warning(f"{failures}: {len(state.reasons):,} images without landmarks")


def detect_landmarks(
    base: PrepareBase, dataset: DatasetConfig, cfg: DetectorConfig, allowed: AllowedModules = NOTHING_MORE
) -> None:
    """Detect the face of every image below `dataset.image_location`; what an earlier run did is kept."""
    finder = open_finder(cfg, allowed, "landmarks")
    decode = DecodeConfig(exif=dataset.exif, max_pixels=dataset.max_pixels)
    place = dataset.image_location
    with distributed.patient_group():
        deal = deal_containers(place, dataset.names, base.save_path)
        source = open_source(place, dataset.names) if deal is None else deal.source
        find_all(PhotographsToDo(place, source, decode, deal), finder, base.save_path, cfg.num_workers, base.verbose)


@dataclass(frozen=True)
class PhotographsToDo:
    """The images in which faces are to be found."""

    root: str
    """Where they lie, as the user wrote it."""
    source: ImageSource
    decode: DecodeConfig
    """How files become pixels."""
    deal: Deal | None = None
    """Where containers were dealt to the processes: `source` holds those of this one."""


def find_all(images: PhotographsToDo, finder: FaceFinder, folder: str, threads: int, verbose: bool) -> None:
    """Write landmarks.csv and failures.csv into `folder`; an unfinished run of the same request goes on."""
    files = list_of_images(images.root, images.source.names, images.deal)
    if not files["count"]:
        raise DataError(f"{images.root}: no image below this folder ({images.source.named_others()})")
    request = {
        **finder.identity,
        "decode": images.decode.model_dump(mode="json", include=set(DecodeConfig.model_fields)),
        "files": files,
    }
    journal = Journal(folder, request, files["count"], FACE_NUMBERS)
    try:
        journal.open()
        run = LandmarkRun(images, finder, journal)
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
        with distributed.patient_group():
            find_all(PhotographsToDo(place, wanted.source, crops), wanted.finder, str(folder), _THREADS, verbose)
        mark_kept(folder, wanted)
    return str(folder / LANDMARKS_FILE)
