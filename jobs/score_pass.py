"""A pass over an image folder that may be interrupted: what is left, in whole batches, dealt out to the processes."""

import logging
import os
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from data.alignment import CROP_SIZE_PX
from data.samples.folders import ImageFolder
from data.samples.loader import crop_batches
from jobs.score_run import Outcome, ScoreRun
from utils import distributed
from utils.config.inference import InferenceLoaderParams
from utils.progress import progress

logger = logging.getLogger(__name__)

Measure = Callable[[Tensor, np.ndarray], np.ndarray]
"""(crops (B, S, S, 3) uint8, their rows (B,) in the folder) -> one number per crop; not finite: a failure."""


def measure_left(
    folder: ImageFolder, run: ScoreRun, loader: InferenceLoaderParams, measure: Measure, verbose: bool
) -> int:
    """Measure the images that no earlier session did, record each batch as it comes; return their number.

    A batch holds the same images as in an uninterrupted pass, so the numbers are the same to the last bit.
    """
    done = run.progress().done
    distributed.barrier()  # nobody writes before everybody has read
    rank, size = distributed.rank(), loader.batch_size
    firsts = [first for first in range(0, len(done), size) if not done[first : first + size].all()]
    left = sum(len(done[first : first + size]) for first in firsts)
    firsts = firsts[rank :: distributed.world_size()]
    rows = np.concatenate([np.arange(len(done))[first : first + size] for first in firsts] or [np.zeros(0, np.int64)])
    run.start_writing(rank)
    batches = crop_batches(folder.crops(rows), size, loader.num_workers or 0)
    warned = False
    with progress(total=len(rows), unit="img", disable=not (verbose and rank == 0)) as bar:
        for place, (first, batch) in enumerate(zip(firsts, batches, strict=True)):
            quality = measure(batch.images, rows[batch.rows]) if batch.rows else np.zeros(0)
            outcome = Outcome.of(batch, quality, place * size)
            run.record(first, outcome)
            if outcome.not_square and not warned:
                warned = True
                logger.warning(f"{folder.names[rows[batch.not_square[0]]]!r} is not square; is it an aligned crop?")
            bar.update(len(outcome.quality))
    return left


def warn_of_sizes(counts: Mapping[str, int]) -> None:
    """Say how many images did not have the size of an aligned crop."""
    if counts["not_square"]:
        logger.warning(f"{counts['not_square']} images were not square and have been squeezed: not aligned crops?")
    if counts["resized"]:
        logger.warning(
            f"{counts['resized']} images were not {CROP_SIZE_PX}x{CROP_SIZE_PX} and were resized; if they are "
            "photographs rather than aligned crops, use dataset.input=landmarks"
        )


def with_workers(loader: InferenceLoaderParams, device: torch.device) -> InferenceLoaderParams:
    """Fill in the number of decoding processes where it is left open; beside a CPU network two threads keep up."""
    if loader.num_workers is not None:
        return loader
    workers = 0 if device.type == "cpu" else min(8, os.cpu_count() or 1)
    return loader.model_copy(update={"num_workers": workers})
