"""The training methods: what base.method may name. A method of your own is one line here, beside its two files."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from data.distillation import distillation_data
from data.recognition import RecognitionData, recognition_data
from data.samples.sampler import Shard
from data.samples.training import TrainingData
from evaluation.measure.verification import read_verification
from model.objectives.base import Objective
from model.objectives.cosface import CosFaceObjective
from model.objectives.cr_fiqa import CRFIQAObjective
from model.objectives.distillation import AIKDObjective


@dataclass(frozen=True)
class Method:
    """Name the parts of a training method."""

    title: str
    """Its name, for readers."""
    data: Callable[[Any, Shard], TrainingData]
    """From the configuration to what one process reads."""
    objective: type[Objective]
    """Networks and loss terms."""


def recognition_with_pairs(cfg: Any, shard: Shard) -> RecognitionData:
    """Return the data of a recognition method; the pairs, if any, are read here: data does not see evaluation."""
    pairs = read_verification(cfg.dataset.val_pairs) if cfg.dataset.val_pairs else None
    return recognition_data(cfg, shard, pairs)


METHODS = {
    "aikd": Method("AI-KD", distillation_data, AIKDObjective),
    "cosface": Method("CosFace", recognition_with_pairs, CosFaceObjective),
    "crfiqa": Method("CR-FIQA", recognition_with_pairs, CRFIQAObjective),
}
