"""cosface_config.yaml and crfiqa_config.yaml: training with a margin head."""

from typing import ClassVar, Literal

from pydantic import Field

from utils.config.loading import Flag, UserPath
from utils.config.sections import ModuleSpec
from utils.config.train import ImagesConfig, LossConfig, TrainConfig


class RecognitionDataset(ImagesConfig):
    """The images of each identity, and the pairs to validate on."""

    format: Literal["folders", "recordio"] = "folders"
    """Identity folders, or train.rec with its train.idx."""
    flip: Flag = False
    """1: mirror a crop with probability one half."""
    val_pairs: UserPath | None = None
    """Pairs to validate on (`imgA imgB 1|0`, LFW's pairs.txt, CFP's Protocol, .bin)."""
    val_location: UserPath | None = None
    """Folder of the pairs' images; null: image_location, and their identities are not trained on."""
    val_landms_location: UserPath | None = None
    """Landmark file of val_location; null: its images are aligned crops."""


class MarginLoss(LossConfig):
    """The loss term of a margin head."""

    recognition: ModuleSpec
    """Margin head, e.g. model.margins.CosFaceHead with scale and margin."""


class CertaintyLoss(MarginLoss):
    """The loss terms of CR-FIQA."""

    quality: ModuleSpec = ModuleSpec(module="torch.nn.SmoothL1Loss", params={"beta": 0.5})
    """Regression of the certainty ratio."""
    ratio: Literal["paper", "released"] = "paper"
    """Denominator of the ratio: NNCCS + 1 + eps (paper), or NNCCS alone, at least -1e-12 (released code)."""


class MarginConfig(TrainConfig):
    """A training configuration with a margin head."""

    dataset: RecognitionDataset
    loss: MarginLoss = Field(default=...)  # needed


class CosFaceConfig(MarginConfig):
    """The whole of cosface_config.yaml."""

    PARTS: ClassVar = {"feature_extractor": False, "margin": True}


class CRFIQAConfig(MarginConfig):
    """The whole of crfiqa_config.yaml."""

    PARTS: ClassVar = {"feature_extractor": False, "margin": True, "quality_head": True}

    loss: CertaintyLoss = Field(default=...)  # needed
