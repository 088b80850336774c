"""Scoring: a trained student gives each image of a folder its quality."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from data.samples.crops import FaceCrops, open_crops
from data.tables.scores import FAILURES, FORMATS, SCORES, Scored, write_failures, write_scores
from jobs.image_pass import SOME_FAILED, ImagePass, Session, warn, with_workers
from jobs.journal import Journal, list_of_images
from model.frozen.network import FrozenNetwork
from utils import distributed
from utils.config.inference import InferenceConfig
from utils.config.sections import ModelConfig
from utils.errors import DataError
from utils.files import sha256_file

logger = logging.getLogger(__name__)

OUTPUTS = (FAILURES, *(f"{SCORES}.{kind}" for kind in FORMATS))
ALWAYS = ("pkl", "csv")


@dataclass(frozen=True)
class ScoringRun:
    """Hold the parts of one scoring run."""

    cfg: InferenceConfig
    scorer: FrozenNetwork
    images: ImagePass

    def conclude(self, session: Session) -> int:
        """Merge what all processes wrote into the final files, say what was done, and return the exit code."""
        if not distributed.is_main():
            return 0
        cfg, crops, journal = self.cfg, self.images.crops, self.images.journal
        state, total = journal.result(), len(crops.names)
        rows = state.rows()
        with journal.saving():
            paths = [write_failures(journal.folder, crops.names, state.reasons)]
            if len(rows):
                scored = Scored(cfg.dataset.loc, crops.names.take(rows), state.values[rows, 0])
                paths += write_scores(journal.folder, scored, (*ALWAYS, *cfg.output.formats))
        counts = self.images.counts(state, "scored", rows)
        facts = {"weights": cfg.model.weight, "percentile": "100 * mean rank / scored images"}
        self.images.finish(counts, {**facts, "device": str(self.scorer.device)}, session)
        if not total:
            raise DataError(
                f"{cfg.dataset.loc}: holds no image ({crops.source.other_files} other files); images end in jpg, jpeg, "
                "jpe, png, webp, bmp, tif or tiff"
            )
        if not len(rows):
            raise DataError(f"{cfg.dataset.loc}: none of the {total} images could be scored; see {paths[0]}")
        rate = f", {session.images / session.seconds:.1f} img/s" if session.images else ""
        logger.info(f"scored {len(rows)} of {total} images in {session.seconds:.1f} s{rate}")
        warn(counts, "score", paths[0], cfg.base.strict)
        if crops.source.other_files:
            logger.info(f"{crops.source.other_files} other files were left alone")
        logger.info(f"scores: {', '.join(map(str, paths[1:]))}")
        return SOME_FAILED if cfg.base.strict and state.reasons else 0


@contextmanager
def open_scoring(cfg: InferenceConfig, model_cfg: ModelConfig | None, scorer: FrozenNetwork) -> Iterator[ScoringRun]:
    """Check the inputs and open the output folder; an unfinished run of the same request goes on."""
    if not os.path.exists(cfg.dataset.loc):
        raise DataError(f"{cfg.dataset.loc}: no such folder; name the folder of images in dataset.loc")
    crops = open_crops(cfg.dataset)
    journal = Journal(cfg.base.save_path, request(cfg, model_cfg, scorer, crops), len(crops.names))
    try:
        journal.open(OUTPUTS)
        loader = with_workers(cfg.dataloader.params, scorer.device)
        yield ScoringRun(cfg, scorer, ImagePass(crops, journal, loader, cfg.base.verbose))
    finally:
        journal.close()


def request(
    cfg: InferenceConfig, model_cfg: ModelConfig | None, scorer: FrozenNetwork, crops: FaceCrops
) -> dict[str, Any]:
    """Return everything that decides the scores: an unfinished run goes on only where all of it is the same."""
    source = cfg.dataset
    network: dict[str, Any] = {"format": "onnx"}
    if model_cfg is not None:
        network = {
            "features": model_cfg.features.model_dump(mode="json", include={"module", "params"}),
            "head": model_cfg.head.model_dump(mode="json"),
        }
    return {
        "weights_sha256": sha256_file(cfg.model.weight),
        "network": network,
        "preprocessing": {
            **scorer.contract.to_dict(),
            "input": source.input,
            "landmarks_sha256": sha256_file(source.landmarks) if source.landmarks else None,
            "key_root": source.key_root if source.landmarks else None,
            "exif": source.exif,
            "max_pixels": source.max_pixels,
        },
        "precision": cfg.base.precision,
        "files": list_of_images(source.loc, crops.names),
    }
