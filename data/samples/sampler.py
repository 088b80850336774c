"""Order: which sample comes when. It is a function of (seed, epoch) alone, whoever fetches the samples."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from utils.config.sections import LoaderParams

Rows = Sequence[int] | np.ndarray
"""Rows of an index."""
VALIDATION_EPOCH = 2**32 - 1
"""Epoch number that keys the fixed perturbations of validation."""


@dataclass(frozen=True)
class Shard:
    """This process's place among those that share the work."""

    rank: int = 0
    world_size: int = 1


ALONE = Shard()
"""The only process."""


class EpochSampler(Sampler):
    """Yield the batches of one epoch after another as lists of (epoch, row).

    A batch belongs to one step of all processes together; process r takes its r-th part. So the sequence of steps
    depends on the total batch size only, and a position (epoch, batch) means the same with any number of processes.
    The last batch of an epoch is short. It is left out when a process would get fewer than two samples of it,
    because BatchNorm cannot train on one sample; with `keep_all`, for validation, it never is.
    """

    def __init__(self, rows: Rows, params: LoaderParams, seed: int, shard: Shard = ALONE):
        """Use `params.batch_size`, the images per step of all processes together, and `params.shuffle`."""
        self.rows = np.asarray(rows, np.int64)
        self.batch_size = params.batch_size
        self.shuffle = params.shuffle
        self.seed = seed
        self.shard = shard
        self.keep_all = False
        self.position: tuple[int, int] = (0, 0)
        self.end_epoch = 1

    def steps_per_epoch(self) -> int:
        """Count the batches of an epoch."""
        full, rest = divmod(len(self.rows), self.batch_size)
        smallest = 1 if self.keep_all else 2 * self.shard.world_size
        return full + (rest >= smallest)

    def __len__(self) -> int:
        epoch, batch = self.position
        return max(0, (self.end_epoch - epoch) * self.steps_per_epoch() - batch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first_epoch, first_batch = self.position
        for epoch in range(first_epoch, self.end_epoch):
            order = self.rows
            if self.shuffle:
                order = order[np.random.default_rng([self.seed, epoch]).permutation(len(order))]
            for step in range(first_batch, self.steps_per_epoch()):
                batch = order[step * self.batch_size : (step + 1) * self.batch_size]
                part = np.array_split(batch, self.shard.world_size)[self.shard.rank]
                yield [(epoch, row) for row in part.tolist()]
            first_batch = 0
