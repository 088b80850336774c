"""A pass over the images of a folder that may be interrupted: what scoring and labelling share."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.alignment import CROP_SIZE_PX
from data.detectors.base import FACE_NUMBERS
from data.samples.crops import CropBatch, FaceCrops
from data.samples.detected import DetectedCrops
from data.samples.loader import fetched
from data.sources.dealt import Deal, names_of_all
from data.tables.names import Names
from jobs.journal import Journal
from jobs.journal_lines import JournalLine, Progress
from model.frozen.allocator import keep_memory
from utils import distributed
from utils.config.inference import InferenceBase, InferenceLoaderParams
from utils.config.label import LabelBase
from utils.outside import signals
from utils.progress import progress
from utils.training.precision import pick_device

logger = logging.getLogger(__name__)

SOME_FAILED = 3
"""Exit code with base.strict where an image got no number."""
NETWORK_FAILED = "the network returned"
"""How the reason begins of an image that has a crop and no number."""

Measure = Callable[[Tensor, np.ndarray], np.ndarray]
"""(crops (B, S, S, 3) uint8, their rows (B,) in `crops`) -> one number per crop; not finite: a failure."""


class Session(NamedTuple):
    """What was done between start and end of this command, by all processes."""

    images: int
    seconds: float


@dataclass(frozen=True)
class ImagePass:
    """Measure the images of a folder batch by batch and write each batch into the journal as it comes."""

    crops: FaceCrops | DetectedCrops
    journal: Journal
    loader: InferenceLoaderParams
    verbose: bool
    deal: Deal | None = None
    """Where containers were dealt to the processes: `crops` are those of this one, rows are counted over all."""

    @property
    def names(self) -> Names:
        """Return the names of all images, in the order of the results; only the first process knows them."""
        return names_of_all(self.crops.names, self.deal)

    def result(self) -> Progress:
        """Return what became of all images, in the order of their names."""
        return self.journal.result(self.deal)

    def measure_left(self, measure: Measure) -> Session:
        """Measure the images that no earlier session did, and wait for the other processes.

        A batch holds the same images as in an uninterrupted pass, so the numbers are the same to the last bit.
        """
        started, share = time.perf_counter(), self.journal.share(self.loader.batch_size, self.deal)
        begins = share.firsts if self.deal is None else self.deal.here(share.firsts)
        parts = list(map(range, begins.tolist(), (begins + share.ends - share.firsts).tolist()))
        batches = fetched(self.crops, parts, self.loader.num_workers or 0)
        warned, total = False, sum(map(len, parts))
        bar = progress(total=total, unit="img", disable=not (self.verbose and distributed.is_main()))
        with bar, signals.waiting():
            for first, part, batch in zip(share.firsts.tolist(), parts, batches, strict=True):
                numbers = measure(batch.images, np.array(batch.rows)) if batch.rows else np.zeros(0)
                self.journal.append(_line(first, batch, numbers, part.start))
                signals.leave_if_asked()
                if batch.not_square and not warned:
                    warned = True
                    name = self.crops.names[batch.not_square[0]]
                    logger.warning(f"{name!r} is not square; is it an aligned crop?")
                bar.update(len(set(batch.rows)) + len(batch.failures))
        distributed.barrier()
        return Session(share.rows, time.perf_counter() - started)

    def counts(self, state: Progress, done: str, images: int) -> dict[str, int]:
        """Return what run.json counts; `done` says what became of so many images."""
        return {
            "images": self.journal.count,
            done: images,
            "failed": len(state.reasons),
            "not_square": state.counts["not_square"],
            "resized": state.counts["resized"],
            "other_files": self.crops.source.other_files,
        }

    def finish(self, counts: Mapping[str, int], facts: Mapping[str, object], session: Session) -> None:
        """Write run.json of the finished run."""
        last = {"images": session.images, "seconds": round(session.seconds, 3)}
        ours = {"processes": distributed.world_size(), "batch_size": self.loader.batch_size}
        self.journal.finish({"counts": dict(counts), **facts, **ours, "last_session": last})


def numbers_per_face(crops: FaceCrops | DetectedCrops) -> int:
    """Return how many numbers the journal keeps of each crop: what was measured, and the face if it was looked for."""
    return 1 + FACE_NUMBERS if isinstance(crops, DetectedCrops) else 1


def _line(first: int, batch: CropBatch, numbers_B: np.ndarray, start: int) -> JournalLine:
    """Join numbers, faces and failures of a batch that begins at row `start` of the crops."""
    values: list[list[float]] = [[] for _ in range(len(set(batch.rows)) + len(batch.failures))]
    failures = {row - start: reason for row, reason in batch.failures}
    for place, (row, number) in enumerate(zip(batch.rows, np.asarray(numbers_B, np.float32).tolist(), strict=True)):
        values[row - start] += [number, *(batch.faces[place].tolist() if batch.faces is not None else ())]
        if not np.isfinite(number):
            failures[row - start] = f"{NETWORK_FAILED} {number}"
    counts = {"not_square": len(batch.not_square), "resized": len(batch.resized)}
    return JournalLine.records(first, values, failures, counts)


@contextmanager
def processes(base: InferenceBase | LabelBase) -> Iterator[torch.device]:
    """Join the processes that torchrun started, of which the first one reports; give the device of this one."""
    device = pick_device(distributed.local_device(base.device))
    if device.type == "cpu":
        keep_memory()
    with distributed.patient_group():
        level = logging.INFO if base.verbose and distributed.is_main() else logging.ERROR
        logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
        yield device


def with_workers(loader: InferenceLoaderParams, device: torch.device) -> InferenceLoaderParams:
    """Fill in the number of decoding processes where it is left open; beside a CPU network two threads keep up."""
    if loader.num_workers is not None:
        return loader
    workers = 0 if device.type == "cpu" else min(8, os.cpu_count() or 1)
    return loader.model_copy(update={"num_workers": workers})


def warn(counts: Mapping[str, int], kind: str, failures: Path, strict: bool) -> None:
    """Say how many images did not have the size of an aligned crop, and how many have no `kind`."""
    if counts["not_square"]:
        logger.warning(f"{counts['not_square']} images were not square and have been squeezed: not aligned crops?")
    if counts["resized"]:
        logger.warning(
            f"{counts['resized']} images were not {CROP_SIZE_PX}x{CROP_SIZE_PX} and were resized; if they are "
            "photographs rather than aligned crops, use dataset.input=landmarks"
        )
    if counts["failed"]:
        report = logger.error if strict else logger.warning
        report(f"{counts['failed']} images have no {kind}; the reasons are in {failures}")
