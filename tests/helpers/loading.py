"""The parameters of a loader, and the batches that a sampler gives."""

from collections.abc import Sequence

import numpy as np

from data.samples.sampler import EpochSampler
from utils.config.sections import LoaderParams


def params(batch_size: int, shuffle: bool = True, num_workers: int = 0, **values) -> LoaderParams:
    """Return the parameters of a loader."""
    return LoaderParams(batch_size=batch_size, shuffle=shuffle, num_workers=num_workers, **values)


def sequence(
    rows: Sequence[int] | np.ndarray, batch_size: int, position: tuple[int, int] = (0, 0), end_epoch: int = 1, **values
) -> list[list[tuple[int, int]]]:
    """Return the batches of (epoch, row) from a position to the beginning of an epoch."""
    sampler = EpochSampler(rows, params(batch_size, values.pop("shuffle", True)), values.pop("seed", 5), **values)
    sampler.position, sampler.end_epoch = position, end_epoch
    batches = list(sampler)
    assert len(sampler) == len(batches)
    return batches
