"""The training methods: what base.method may name, and what belongs to each.

A further method is one line of METHODS, beside a file with its objective and one with its configuration and data.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
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
from utils.config import load_variant
from utils.config.train import TrainConfig
from utils.config.train_aikd import AIKDConfig
from utils.config.train_recognition import CosFaceConfig, CRFIQAConfig, MarginConfig


@dataclass(frozen=True)
class Method:
    """Name the parts of a training method."""

    title: str
    """Its name, for readers."""
    config: type[TrainConfig]
    """Its configuration."""
    data: Callable[[Any, Shard], TrainingData]
    """From the configuration to what one process reads."""
    objective: type[Objective]
    """Networks and loss terms."""


def recognition_with_pairs(cfg: MarginConfig, shard: Shard) -> RecognitionData:
    """Return the data of a recognition method; the pairs, if any, are read here: data does not see evaluation."""
    pairs = read_verification(cfg.dataset.val_pairs) if cfg.dataset.val_pairs else None
    return recognition_data(cfg, shard, pairs)


METHODS = {
    "aikd": Method("AI-KD", AIKDConfig, distillation_data, AIKDObjective),
    "cosface": Method("CosFace", CosFaceConfig, recognition_with_pairs, CosFaceObjective),
    "crfiqa": Method("CR-FIQA", CRFIQAConfig, recognition_with_pairs, CRFIQAObjective),
}
"""The first is what a configuration without base.method trains."""


def load_training(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a training configuration: base.method says which keys there are; others are refused."""
    return load_variant({name: method.config for name, method in METHODS.items()}, "base.method", path, overrides)


def title(method: str) -> str:
    """Return the name of a method for readers; that of one which is not here stays as it is."""
    return METHODS[method].title if method in METHODS else method
