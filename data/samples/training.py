"""What a run reads, whatever the method: batches to train on, batches to validate on, and what was found."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from data.checks.inputs import CheckedInput, InputKeys
from data.index.build import FaceIndex
from data.samples.loader import BatchLoader
from utils.config.train import ImagesConfig
from utils.errors import DataError
from utils.files import sha256_arrays


@dataclass(frozen=True)
class TrainingData:
    """Hold resumable training batches, fixed validation batches, and a report; DataError when no step fits."""

    train: BatchLoader
    """Training batches."""
    validation: BatchLoader | None
    """The same validation batches every time; None without validation images."""
    epochs: int
    """Passes over the training images."""
    report: list[str]
    """What was found, for the reader."""
    place: str
    """Where the images are, for the reader."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What decides the result, for the resume check and the weights' sidecar file."""

    def __post_init__(self):
        if self.steps_per_epoch == 0:
            raise DataError(
                f"{self.place}: too few images for one training step; add images or lower dataset.val_percent"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of training batches per epoch."""
        return self.train.steps_per_epoch()

    def batches_from(self, step: int) -> Iterator[Any]:
        """Yield the training batches from a step on."""
        return self.train.starting_at(divmod(step, self.steps_per_epoch), self.epochs)

    def validation_batches(self) -> Iterator[Any]:
        """Yield the validation batches."""
        return iter(self.validation or ())


def index_remarks(index: FaceIndex, cfg: ImagesConfig) -> list[str]:
    """Return a line on each noticeable share of images or landmarks that cannot be right; DataError where most are."""
    keys = InputKeys("dataset.landms_location", "dataset.accept_unusual")
    return CheckedInput(index.source, index.landmarks, cfg.landms_location, cfg, keys).lines()


def digest(index: FaceIndex) -> str:
    """Return the SHA-256 of names, landmarks, labels and identities, in the order of the rows."""
    return sha256_arrays(index.names.data, index.names.offsets, index.landmarks, index.labels, index.identities)
