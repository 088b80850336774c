"""What travels from the data to a method: batches of uint8 crops under the names that both sides use."""

from typing import NamedTuple

from torch import Tensor

Failures = tuple[tuple[int, str], ...]
"""(row, reason) of each image that gave no crop."""


class DistillationBatch(NamedTuple):
    """Aligned and misaligned crops of the same faces; B may be smaller than asked for by `len(failures)`."""

    aligned: Tensor  # (B, 112, 112, 3) uint8
    misaligned: Tensor  # (B, 112, 112, 3) uint8
    label: Tensor  # (B,) float32
    row: Tensor  # (B,) int64, rows of the index
    failures: Failures
    reference: Tensor | None = None  # (B, D), the teacher's embeddings where a cache has them


class RecognitionBatch(NamedTuple):
    """Aligned crops and the identity each belongs to."""

    images: Tensor  # (B, 112, 112, 3) uint8
    identity: Tensor  # (B,) int64
    row: Tensor  # (B,) int64
    failures: Failures


TrainingBatch = DistillationBatch | RecognitionBatch
