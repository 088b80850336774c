"""The teacher's embeddings of the aligned crops, computed once, for every run on the same images.

An entry of a store holds embeddings.f16 (N, D), of length 1, state.u8 (N,) and sums.u32 (N,), a checksum of both, a row
per image of the index. Its facts are all that decides them: teacher, preprocessing, image files, landmarks, decoding.
"""

import logging
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.alignment import AlignmentError, warp
from data.index.build import FaceIndex
from data.misalignment import Misalignment
from data.samples.datasets import DistillationDataset
from data.samples.loader import validation_loader
from data.samples.sampler import Shard
from utils import distributed
from utils.config.sections import DecodeConfig, LoaderParams
from utils.config.train_aikd import StudentCropConfig
from utils.errors import DataError
from utils.files import make_folder, sha256_arrays
from utils.present import present
from utils.store import Store
from utils.training.batches import DistillationBatch

_FORMAT = 3
TO_DO, DONE, NO_CROP = range(3)
_MAPPED = ("embeddings", "state", "sums")
_log = logging.getLogger(__name__)


class TeacherCache:
    """Hold one embedding per image of an index in mapped files; several processes fill it together."""

    def __init__(self, folder: str, index: FaceIndex, decode: DecodeConfig, shard: Shard):
        """Choose the place; nothing is read or written before `open`."""
        self.store, self.index, self.decode, self.shard = Store(folder), index, decode, shard
        self.path: Path | None = None
        self.dim = 0

    def open(self, teacher: dict[str, Any], dim: int) -> None:
        """Map the entry of this teacher, described by JSON values; the first process makes it where it is missing."""
        self.dim = dim
        try:
            self.path = distributed.from_main(self._find(teacher) if distributed.is_main() else None)
            self._map()
            if distributed.is_main():
                self._reopen_damaged()
            distributed.barrier()
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.path or self.store.folder}: cannot be used as teacher cache ({error}); all processes need one "
                f"folder with {sum(self._sizes().values()) / 2**30:.1f} GiB, model.teacher_cache"
            ) from error

    def missing(self) -> np.ndarray:
        """Return the rows that no run has embedded; waits for all processes, so that all see the same."""
        rows = np.flatnonzero(self.state == TO_DO)
        distributed.barrier()
        return rows

    def batches(self, rows: np.ndarray, params: LoaderParams) -> Iterator[DistillationBatch]:
        """Yield this process's part of the aligned crops of `rows`."""
        return iter(validation_loader(DistillationDataset(self.index, 0, None, self.decode), rows, params, self.shard))

    def put(self, batch: DistillationBatch, embedding_BD: Tensor | None) -> None:
        """Store the embeddings of a batch, scaled to length 1, and note what gave no crop."""
        if embedding_BD is not None:
            rows = batch.row.numpy()
            unit_BD = torch.nn.functional.normalize(embedding_BD.float()).half()
            self.embeddings[rows] = unit_BD.cpu().numpy()
            self._close(rows.tolist(), DONE)
        self._close([row for row, _ in batch.failures], NO_CROP)

    def _close(self, rows: list[int], state: int) -> None:
        """Mark rows as finished, the state last: a kill in between leaves them to do."""
        self.sums[rows] = [self._sum(row, state) for row in rows]
        self.state[rows] = state

    def _sum(self, row: int, state: int) -> int:
        return zlib.crc32(self.embeddings[row].data, state)

    def _reopen_damaged(self) -> None:
        """Leave to do what is not as it was written, by a damaged disk or a power cut."""
        closed = np.flatnonzero(self.state != TO_DO).tolist()
        damaged = [row for row in closed if self.sums[row] != self._sum(row, int(self.state[row]))]
        if damaged:
            _log.warning("%s: %d embeddings are damaged and are made anew", self.path, len(damaged))
            self.state[damaged] = TO_DO

    def _find(self, teacher: dict[str, Any]) -> Path:
        """Return the folder of the entry, made where it is missing."""
        make_folder(self.store.folder, "model.teacher_cache")
        facts = {
            "format": _FORMAT,
            "teacher": teacher,
            "dim": self.dim,
            "image_names": self.index.names.digest(),
            "image_sizes_and_times": self.index.source.fingerprint(),
            "landmarks": None if self.index.landmarks is None else sha256_arrays(self.index.landmarks),
            "exif": self.decode.exif,
            "max_pixels": self.decode.max_pixels,
        }
        self.path = self.store.place("teacher", facts)
        if self.store.open("teacher", facts) is None:
            with self.store.create("teacher", facts, reserve=self._sizes()):
                pass  # `put` fills it
        return self.path

    def _sizes(self) -> dict[str, int]:
        count = len(self.index)
        return {"embeddings.f16": 2 * self.dim * count, "state.u8": count, "sums.u32": 4 * count}

    def _map(self) -> None:
        shape, folder = (len(self.index), self.dim), present(self.path)
        self.embeddings = np.memmap(folder / "embeddings.f16", np.float16, "r+", shape=shape)
        self.state = np.memmap(folder / "state.u8", np.uint8, "r+", shape=shape[:1])
        self.sums = np.memmap(folder / "sums.u32", np.uint32, "r+", shape=shape[:1])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _MAPPED}

    def __setstate__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)
        if self.path is not None:
            self._map()


class ReferencedDataset(DistillationDataset):
    """Both crops, with the teacher's embedding of the aligned one: what validation needs."""

    def __init__(self, cache: TeacherCache, seed: int, perturbation: StudentCropConfig | None, decode: DecodeConfig):
        super().__init__(cache.index, seed, perturbation, decode)
        self.cache = cache

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> DistillationBatch:
        batch = super().__getitems__(keys)
        return batch._replace(reference=torch.from_numpy(self.cache.embeddings[batch.row.numpy()]))

    def _cut(self, row: int, misalignment: Misalignment | None, out: np.ndarray) -> None:
        if self.cache.state[row] != DONE:
            raise AlignmentError("gave no aligned crop when the teacher saw it")
        super()._cut(row, misalignment, out)


class MisalignedDataset(ReferencedDataset):
    """The misaligned crop alone, with the teacher's embedding of the aligned one: what a training step needs."""

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> DistillationBatch:
        batch = super().__getitems__(keys)
        return batch._replace(aligned=batch.aligned[:0])

    def _cut(self, row: int, misalignment: Misalignment | None, out: np.ndarray) -> None:
        if misalignment is None or self.cache.state[row] != DONE:
            super()._cut(row, misalignment, out)
            return
        image, landmarks = self._read(row)
        warp(image, misalignment.matrix(landmarks), out=out[1], border=present(self.perturbation).border)
