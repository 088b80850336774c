"""Scoring: a trained student gives each image of a folder its quality."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.images.decode import IMAGE_SUFFIXES
from data.samples.crops import FaceCrops
from data.samples.detected import DetectedCrops, FoundFaces
from data.sources.shards import is_pattern
from data.tables.faces import FaceTable, write_face_scores
from data.tables.names import Chosen
from data.tables.scores import FAILURES, FORMATS, PAGE, SCORES, Scored, write_failures, write_scores
from jobs.found_faces import deal_containers, keep_faces, open_images, stale_faces, with_known_faces
from jobs.image_pass import SOME_FAILED, ImagePass, Session, numbers_per_face, warn, with_workers
from jobs.journal import Journal, list_of_images
from jobs.score_page import help_with_page, write_page
from model.frozen.network import FrozenNetwork
from utils import distributed
from utils.allowed import NOTHING_MORE, AllowedModules
from utils.config.inference import InferenceConfig
from utils.config.sections import LandmarkForm
from utils.errors import DataError
from utils.files import sha256_file

logger = logging.getLogger(__name__)

OUTPUTS = (FAILURES, PAGE, *(f"{SCORES}.{kind}" for kind in FORMATS))
ALWAYS = ("pkl", "csv")


@dataclass(frozen=True)
class ScoringRun:
    """Hold the parts of one scoring run."""

    cfg: InferenceConfig
    scorer: FrozenNetwork
    images: ImagePass

    def conclude(self, session: Session) -> int:
        """Merge what all processes wrote into the final files, say what was done, and return the exit code."""
        cfg, crops, journal = self.cfg, self.images.crops, self.images.journal
        if not distributed.is_main():
            if cfg.output.page:
                help_with_page(self.images)
            return 0
        state, names, total = self.images.result(), self.images.names, journal.count
        faces, values = state.records()
        with journal.saving():
            paths = [write_failures(journal.folder, names, state.reasons)]
            if len(faces):
                paths += self._write_scores(faces, values)
            if isinstance(crops, DetectedCrops):
                keep_faces(journal.folder, crops, names, FoundFaces(faces, values[:, 1:], state.reasons))
            if cfg.output.page:
                made_with = {"weights": cfg.model.weight, "device": str(self.scorer.device)}
                title = f"Quality of {cfg.dataset.loc}"
                paths += write_page(self.images, title, (faces, values[:, 0]), state, made_with)
        scored = total - len(state.reasons)
        counts = self.images.counts(state, "scored", scored)
        if len(faces) > scored:
            counts["faces"] = len(faces)
        facts = {"weights": cfg.model.weight, "percentile": "100 * mean rank / scored images"}
        self.images.finish(counts, {**facts, "device": str(self.scorer.device)}, session)
        if not total:
            raise DataError(
                f"{cfg.dataset.loc}: holds no image ({crops.source.named_others()}); images end in "
                f"{', '.join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))} or have no suffix"
            )
        if not scored:
            raise DataError(f"{cfg.dataset.loc}: none of the {total} images could be scored; see {paths[0]}")
        rate = f", {session.images / session.seconds:.1f} img/s" if session.images else ""
        logger.info(f"scored {scored} of {total} images in {session.seconds:.1f} s{rate}")
        warn(counts, "score", paths[0], cfg.base.strict)
        if crops.source.other_files:
            logger.info(f"left alone: {crops.source.named_others()}")
        logger.info(f"scores: {', '.join(map(str, paths[1:]))}")
        return SOME_FAILED if cfg.base.strict and state.reasons else 0

    def _write_scores(self, rows: np.ndarray, values: np.ndarray) -> list[Path]:
        """Write the score of each face, of the image in `rows` that shows it, and return the files."""
        dataset, folder, names = self.cfg.dataset, self.images.journal.folder, self.images.names
        if dataset.input == "detect" and dataset.faces == "all":
            formats = self.cfg.output.formats
            if left := [kind for kind in (*ALWAYS, *formats) if kind not in ("csv", "parquet")]:
                kinds = " and ".join(dict.fromkeys(left))
                logger.info(f"dataset.faces: all: {kinds} would hold one score an image and is not written")
            return write_face_scores(folder, FaceTable(names.take(rows), values[:, 1:]), values[:, 0], formats)
        scored = Scored(dataset.loc, Chosen(names, rows), values[:, 0])
        return write_scores(folder, scored, (*ALWAYS, *self.cfg.output.formats))


@contextmanager
def open_scoring(
    cfg: InferenceConfig, scorer: FrozenNetwork, allowed: AllowedModules = NOTHING_MORE
) -> Iterator[ScoringRun]:
    """Check the inputs and open the output folder; an unfinished run of the same request goes on."""
    if not os.path.exists(cfg.dataset.loc) and not is_pattern(cfg.dataset.loc):
        raise DataError(f"{cfg.dataset.loc}: no such folder; name the folder of images in dataset.loc")
    dataset, folder = cfg.dataset, cfg.base.save_path
    dealt = None if dataset.input == "landmarks" else deal_containers(dataset.loc, dataset.names, folder)
    crops = open_images(dataset, allowed, None if dealt is None else dealt.source)
    crops = with_known_faces(crops, folder)
    wanted = {**request(cfg, scorer, crops), "files": list_of_images(dataset.loc, crops.names, dealt)}
    journal = Journal(folder, wanted, wanted["files"]["count"], numbers_per_face(crops))
    journal.several = dataset.input == "detect" and dataset.faces == "all"
    try:
        journal.open((*OUTPUTS, *stale_faces(crops)))
        loader = with_workers(cfg.dataloader.params, scorer.device)
        yield ScoringRun(cfg, scorer, ImagePass(crops, journal, loader, cfg.base.verbose, dealt))
    finally:
        journal.close()


def request(cfg: InferenceConfig, scorer: FrozenNetwork, crops: FaceCrops | DetectedCrops) -> dict[str, Any]:
    """Return everything that decides the scores: an unfinished run goes on only where all of it is the same."""
    source = cfg.dataset
    return {
        "weights_sha256": scorer.weights_sha256,
        "network": dict(scorer.facts),
        "preprocessing": {
            **scorer.contract.to_dict(),
            "input": source.input,
            "landmarks_sha256": sha256_file(source.landmarks) if source.landmarks else None,
            "key_root": source.key_root if source.landmarks else None,
            **(source.model_dump(include=set(LandmarkForm.model_fields)) if source.landmarks else {}),
            "exif": source.exif,
            "max_pixels": source.max_pixels,
            **({"detection": crops.finder.identity} if isinstance(crops, DetectedCrops) else {}),
        },
        "precision": scorer.form,
    }
