"""Landmark detection: a folder of images becomes landmarks.csv and failures.csv; every image is in one of the two."""

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from data.detector import FaceDetector
from data.images.decode import ImageError, decode_rgb
from data.sources.base import ImageSource
from data.sources.registry import open_source
from data.tables.landmarks import write_landmarks_csv
from data.tables.scores import write_failures
from jobs.journal import Journal, JournalLine, list_of_images
from utils import distributed
from utils.config.prepare import DetectorConfig, PrepareBase
from utils.config.sections import DecodeConfig
from utils.config.train import DatasetConfig
from utils.errors import DataError
from utils.files import sha256_file
from utils.progress import progress

logger = logging.getLogger(__name__)

_NUMBERS = 10
"""x and y of five points."""
_WINDOW = 32
"""Images handed to each thread at once."""


@dataclass(frozen=True)
class LandmarkRun:
    """Hold the parts of one run of detection; may be called from several threads."""

    root: str
    """The folder of images, as the user wrote it."""
    source: ImageSource
    detect: FaceDetector
    decode: DecodeConfig
    """How files become pixels."""
    journal: Journal

    def detect_left(self, threads: int, verbose: bool) -> int:
        """Detect in the images that no earlier session did, one journal line each; return how many it had done."""
        share, window = self.journal.share(1), _WINDOW * threads
        verbose = verbose and distributed.is_main()
        bar = progress(total=len(share.firsts), unit="img", desc="landmarks", verbose=verbose)
        with bar, ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(share.firsts), window):
                for line in pool.map(self._line, share.firsts[start : start + window]):
                    self.journal.append(line)
                    bar.update()
        distributed.barrier()
        return len(self.source) - share.rows

    def _line(self, row: int) -> JournalLine:
        failures, values = {}, np.full((1, _NUMBERS), np.nan, np.float32)
        try:
            content = self.source.read(row)
            face = self.detect(decode_rgb(content, exif=self.decode.exif, max_pixels=self.decode.max_pixels))
            if face is None:
                failures[0] = "no face found"
            else:
                values[0] = face.points.ravel()
        except ImageError as error:
            failures[0] = str(error)
        return JournalLine.of(row, values, failures, {})

    def conclude(self, resumed: int) -> None:
        """Write landmarks.csv and failures.csv, and say what was done; `resumed` images by earlier sessions."""
        state, folder = self.journal.result(), self.journal.folder
        rows = state.rows()
        with self.journal.saving():
            failures = write_failures(folder, self.source.names, state.reasons)
            write_landmarks_csv(folder / "landmarks.csv", self.source.names.take(rows), state.values[rows])
        counts = {"images": len(self.source), "found": len(rows), "failed": len(state.reasons), "resumed": resumed}
        self.journal.finish({"counts": counts, "processes": distributed.world_size()})
        if not len(rows):
            raise DataError(f"{self.root}: no face was found in any of {len(self.source)} images; see {failures}")
        earlier = f", {resumed:,} of them by an earlier run" if resumed else ""
        logger.info(f"{folder / 'landmarks.csv'}: {len(rows):,} of {len(self.source):,} images{earlier}")
        if state.reasons:
            logger.warning(f"{failures}: {len(state.reasons):,} images without landmarks")


def detect_landmarks(base: PrepareBase, dataset: DatasetConfig, cfg: DetectorConfig) -> None:
    """Detect the largest face of every image below `dataset.image_location`; what an earlier run did is kept."""
    root = dataset.image_location
    detector = FaceDetector(cfg)
    source = open_source(root)
    if not len(source):
        raise DataError(f"{root}: no image below this folder ({source.other_files} other files)")
    with distributed.patient_group():
        decode = DecodeConfig(exif=dataset.exif, max_pixels=dataset.max_pixels)
        request = {
            "detector_sha256": sha256_file(cfg.detector),
            "options": cfg.model_dump(mode="json", exclude={"detector", "num_workers"}),
            "decode": decode.model_dump(mode="json"),
            "files": list_of_images(root, source.names),
        }
        journal = Journal(base.save_path, request, len(source), _NUMBERS)
        try:
            journal.open()
            run = LandmarkRun(root, source, detector, decode, journal)
            resumed = run.detect_left(cfg.num_workers, base.verbose)
            if distributed.is_main():
                run.conclude(resumed)
        finally:
            journal.close()
